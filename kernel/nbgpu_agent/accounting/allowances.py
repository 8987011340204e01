"""What may still be spent: budgets and shares of GPU-hours, held against what was used. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from types import MappingProxyType

from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.limits.closing import Deadline
from nbgpu_agent.model import ClosingCause

WARN_SHARE = 0.8
_HOUR_S = 3600.0
_STEP_S = 10.0
"""A time that is foreseen is rounded to so much, so that it does not change with every look."""


OWNER_NAME = "owner"
"""What the agent's owner, whose name is empty, is called where a name must be written."""


@dataclass(frozen=True)
class UserLimits:
    """What the pool's owner grants each user. None: no bound."""

    sessions: int | None = None
    """At once, those that wait among them."""
    accelerators: int | None = None
    """At once, those that are waited for among them."""
    accelerator_hours: float | None = None
    """In a calendar month, by the node's clock."""
    budget: float | None = None
    """In a calendar month, in the currency of the prices."""


@dataclass(frozen=True)
class Grants:
    """The limits of all users."""

    of_all: UserLimits = UserLimits()
    of_user: Mapping[str, UserLimits] = field(default_factory=lambda: MappingProxyType({}))
    """Of some, in the place of the others'."""

    @property
    def bound_spending(self) -> bool:
        """Whether somebody's money or hours are bounded."""
        every = (self.of_all, *self.of_user.values())
        return any(each.budget is not None or each.accelerator_hours is not None for each in every)

    def limits_of(self, user: str) -> UserLimits:
        return self.of_user.get(user or OWNER_NAME, self.of_all)


def make_grants(of_all: UserLimits, of_users: Mapping[str, Mapping[str, object]]) -> Grants:
    """Returns the limits that an owner configured; what is not said of a user is as for all.

    Raises:
        InvalidRequestError: There is no such limit, or it is no number from 0 on.
    """
    names = {each.name for each in fields(UserLimits)}
    users = {}
    for user, limits in of_users.items():
        for name, value in limits.items():
            if name not in names:
                raise InvalidRequestError(
                    f"user {user!r} has no limit {name!r}", f"there is {', '.join(sorted(names))}"
                )
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            if not (value is None or is_number):
                raise InvalidRequestError(f"{name} of user {user!r} is {value!r}, and must be a number from 0 on")
        users[user] = replace(of_all, **limits)  # type: ignore[arg-type]
    return Grants(of_all, MappingProxyType(users))


@dataclass(frozen=True)
class Allowance:
    """An amount that may be spent, and what is spent of it."""

    key: str
    """Stable: tells one allowance of a user from another."""
    of: str
    """In words, such as "the budget of this notebook"."""
    amount: float
    spent: float
    per_hour: float
    """At which it is spent now."""
    unit: str
    """ISO 4217, or "GPU-hours"."""
    notebook_id: str = ""
    """Of the notebook that it bounds; empty: all of the user's."""

    @property
    def share(self) -> float:
        return self.spent / self.amount if self.amount else 1.0

    @property
    def is_spent(self) -> bool:
        return self.spent >= self.amount

    def left_s(self) -> float | None:
        """Returns how long it lasts; None: nothing is spent now."""
        return max(self.amount - self.spent, 0.0) / self.per_hour * _HOUR_S if self.per_hour > 0 else None

    def deadline(self, now_unix_s: float) -> Deadline | None:
        """Returns when it is spent, and from when on that is to be said; None: nothing is spent now."""
        left_s = self.left_s()
        if left_s is None:
            return None
        spent_at = round((now_unix_s + left_s) / _STEP_S) * _STEP_S
        warning_s = (1 - WARN_SHARE) * self.amount / self.per_hour * _HOUR_S
        return Deadline(ClosingCause.BUDGET, spent_at, round((spent_at - warning_s) / _STEP_S) * _STEP_S)

    def in_words(self) -> str:
        """Returns "the budget of this notebook, 20.00 USD"."""
        return f"{self.of}, {amount_in_words(self.amount, self.unit)}"


def amount_in_words(amount: float, unit: str) -> str:
    return f"{amount:.2f} {unit}" if len(unit) == 3 else f"{amount:.1f} {unit}"


def month_began(now_unix_s: float) -> float:
    """Returns when the calendar month began, by the node's clock."""
    now = datetime.fromtimestamp(now_unix_s).astimezone()
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0, tzinfo=None).astimezone().timestamp()


def day_began(now_unix_s: float) -> float:
    """Returns when the day began, by the node's clock."""
    now = datetime.fromtimestamp(now_unix_s).astimezone()
    return now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None).astimezone().timestamp()
