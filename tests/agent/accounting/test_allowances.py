"""Budgets and shares, and what a user is refused: pure."""

from __future__ import annotations

from datetime import datetime

import pytest

from nbgpu_agent.accounting.allowances import (
    Allowance,
    Grants,
    UserLimits,
    day_began,
    make_grants,
    month_began,
)
from nbgpu_agent.errors import InvalidRequestError, LimitReachedError
from nbgpu_agent.limits.admission import accelerators_of, check_admission
from nbgpu_agent.limits.closing import Deadline
from nbgpu_agent.model import (
    Accelerator,
    Alternative,
    ClosingCause,
    KernelState,
    Lease,
    Phase,
    SessionInfo,
    SessionRequest,
    Spec,
)


def allowance(spent: float, per_hour: float = 0.0, key: str = "notebook", unit: str = "USD") -> Allowance:
    return Allowance(key, "the budget of this notebook", 20.0, spent, per_hour, unit)


def spec(text: str, count: int = 1) -> Spec:
    return Spec((Alternative(text, count),), text)


def session(count: int, owner: str = "ada", *, waits: bool = False) -> SessionInfo:
    held = tuple(Accelerator(f"h{index}", index, "H100", "H100", 1) for index in range(count))
    return SessionInfo(
        id="s",
        request=SessionRequest(spec("H100", count), owner=owner),
        phase=Phase.QUEUED if waits else Phase.READY,
        lease=None if waits else Lease("l", held, 0.0),
        kernel_state=KernelState.IDLE,
        kernel_generation=1,
        created_unix_s=0.0,
        last_active_unix_s=0.0,
        executing=None,
        executions=0,
        kernel_exit=None,
        python_version="",
        working_folder="",
    )


def test_a_budget_is_foreseen_to_be_spent_at_the_rate_of_now() -> None:
    assert allowance(10.0, per_hour=20.0).deadline(1000.0) == Deadline(ClosingCause.BUDGET, 2800.0, 2080.0)
    assert allowance(10.0).deadline(1000.0) is None
    assert allowance(25.0, per_hour=20.0).deadline(1000.0) == Deadline(ClosingCause.BUDGET, 1000.0, 280.0)


def test_the_time_that_is_foreseen_does_not_change_with_every_look() -> None:
    seen = {allowance(10.0 + 20.0 * second / 3600, per_hour=20.0).deadline(1001.0 + second) for second in range(60)}
    assert len(seen) == 1


def test_days_and_months_begin_by_the_calendar_of_the_node() -> None:
    now = datetime(2026, 11, 21, 13, 5).astimezone()
    assert datetime.fromtimestamp(month_began(now.timestamp())) == datetime(2026, 11, 1)
    assert datetime.fromtimestamp(day_began(now.timestamp())) == datetime(2026, 11, 21)


def test_an_owner_grants_some_users_more() -> None:
    grants = make_grants(UserLimits(sessions=2, budget=100.0), {"ada": {"budget": 500, "accelerators": None}})
    assert grants.limits_of("bob") == UserLimits(sessions=2, budget=100.0)
    assert grants.limits_of("ada") == UserLimits(sessions=2, budget=500)
    assert Grants().limits_of("ada") == UserLimits()


@pytest.mark.parametrize("limits", [{"money": 5}, {"budget": -1}, {"sessions": "many"}, {"sessions": True}])
def test_what_is_no_limit_is_refused(limits: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError, match=r"of user 'ada'|user 'ada' has no limit 'money'"):
        make_grants(UserLimits(), {"ada": limits})


def check(asked: Spec | None, sessions: list[SessionInfo], limits: UserLimits, *allowances: Allowance) -> None:
    check_admission(SessionRequest(asked, owner="ada"), sessions, limits, allowances)


def test_another_session_than_allowed_is_refused_with_the_values() -> None:
    limits = UserLimits(sessions=2)
    check(spec("H100"), [session(1), session(1, "bob"), session(1, "bob")], limits)
    with pytest.raises(LimitReachedError, match="2 sessions of yours are open or waiting, and this pool allows 2"):
        check(spec("CPU"), [session(1), session(1, waits=True)], limits)


def test_more_accelerators_than_allowed_are_refused_also_while_others_wait() -> None:
    limits = UserLimits(accelerators=4)
    check(spec("H100", 2), [session(2), session(8, "bob")], limits)
    check(spec("CPU"), [session(4)], limits)
    with pytest.raises(LimitReachedError, match="3 accelerators asked, 2 held or waited for"):
        check(spec("H100", 3), [session(1), session(1, waits=True)], limits)
    with pytest.raises(LimitReachedError, match="1 accelerator asked, 4 held"):
        check(None, [session(4)], limits)


def test_nothing_that_costs_is_opened_on_a_spent_budget() -> None:
    check(spec("CPU"), [], UserLimits(), allowance(20.0))
    check(spec("H100"), [], UserLimits(), allowance(19.9))
    with pytest.raises(
        LimitReachedError, match=r"the budget of this notebook, 20.00 USD, is spent \(20.03 USD\)"
    ) as raised:
        check(spec("H100"), [], UserLimits(), allowance(20.03))
    assert raised.value.hint == "`%gpu budget 40` allows more, `%gpu budget off` any amount"
    with pytest.raises(LimitReachedError) as raised:
        check(spec("H100"), [], UserLimits(), allowance(21.0, key="hours", unit="GPU-hours"))
    assert "ask the pool's owner" in raised.value.hint


def test_of_alternatives_the_smallest_counts() -> None:
    assert accelerators_of(Spec((Alternative("H100", 8), Alternative("A10", 2)), "")) == 2
    assert accelerators_of(Spec((Alternative("H100", 8), Alternative("CPU", 1)), "")) == 0
