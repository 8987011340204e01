"""Whether a user may have another session: by their share of sessions, accelerators, GPU-hours and money. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nbgpu_agent.accounting.allowances import Allowance, UserLimits, amount_in_words
from nbgpu_agent.errors import LimitReachedError
from nbgpu_agent.model import SessionInfo, SessionRequest, Spec
from nbgpu_protocol.accelerator_types import CPU


def check_admission(
    request: SessionRequest, sessions: Iterable[SessionInfo], limits: UserLimits, allowances: Sequence[Allowance]
) -> None:
    """Refuses a request that goes beyond what its user may have.

    Args:
        request: For a new session.
        sessions: All that there are, and the requests that wait.
        limits: Of the user.
        allowances: What the user may spend, and has spent.

    Raises:
        LimitReachedError: It does; the message has the values.
    """
    mine = [info for info in sessions if info.request.owner == request.owner]
    if limits.sessions is not None and len(mine) >= limits.sessions:
        raise LimitReachedError(
            f"{_count(len(mine), 'session')} of yours {'are' if len(mine) > 1 else 'is'} open or waiting,"
            f" and this pool allows {limits.sessions} at once",
            "close one: `%gpu sessions` lists them, `%gpu close ID` ends one",
        )
    asked = accelerators_of(request.spec)
    held = sum(_held(info) for info in mine)
    if limits.accelerators is not None and asked and held + asked > limits.accelerators:
        raise LimitReachedError(
            f"{_count(asked, 'accelerator')} asked, {held} held or waited for by other sessions of yours, and this pool"
            f" allows {limits.accelerators} at once",
            "ask for fewer, or close a session: `%gpu sessions` lists them",
        )
    for allowance in allowances if asked else ():
        if allowance.is_spent:
            spent = amount_in_words(allowance.spent, allowance.unit)
            raise LimitReachedError(f"{allowance.in_words()}, is spent ({spent})", raising_hint(allowance))


def raising_hint(allowance: Allowance) -> str:
    """Returns what a person can do where an allowance is spent, or nearly."""
    if allowance.key == "notebook":
        return f"`%gpu budget {_more(allowance.amount)}` allows more, `%gpu budget off` any amount"
    if allowance.key == "own":
        return f"`%gpu budget {_more(allowance.amount)} --month` allows more, `%gpu budget off --month` any amount"
    return "ask the pool's owner for more; `%gpu cost` says what it was used for"


def accelerators_of(spec: Spec | None) -> int:
    """Returns how many a spec asks for at least, without what is shared; one where nothing in particular is asked."""
    if spec is None:
        return 1
    return min(0 if each.type == CPU else each.count for each in spec.alternatives)


def _held(info: SessionInfo) -> int:
    if info.lease is None:
        return accelerators_of(info.request.spec)
    return sum(not each.shared for each in info.lease.accelerators)


def _more(amount: float) -> str:
    return f"{amount * 2:g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
