"""When a session is closed by itself: decided over what is known of it and a clock, without either."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.limits.closing import Activity, Deadline, Terms, computing, foresee, reason_in_words
from nbgpu_agent.model import Closing, ClosingCause, Sample

HOUR_S = 3600.0
DAY_S = 86_400.0


def activity(**fields: object) -> Activity:
    return Activity(**{"created_unix_s": 0.0, "last_active_unix_s": 1000.0, "working": False, **fields})  # type: ignore[arg-type]


def sample(accelerator_id: str, utilisation_percent: float | None) -> Sample:
    return Sample(accelerator_id, 0.0, simulated=False, utilisation_percent=utilisation_percent)


def test_an_idle_session_ends_so_long_after_its_last_work_and_warns_before() -> None:
    assert foresee(Terms(), HOUR_S, activity()) == Closing(
        idle_close_s=HOUR_S,
        idle_since_unix_s=1000.0,
        closes_unix_s=4600.0,
        warn_unix_s=4000.0,
        cause=ClosingCause.IDLE,
    )


@pytest.mark.parametrize("work", [{"working": True}, {"computing": True, "computed_unix_s": 2000.0}])
def test_work_is_a_cell_or_a_gpu_that_computes(work: dict[str, object]) -> None:
    assert foresee(Terms(), HOUR_S, activity(**work)) == Closing(idle_close_s=HOUR_S)


@pytest.mark.parametrize("field", ["computed_unix_s", "kept_unix_s"])
def test_time_without_work_begins_with_the_last_computing_or_the_last_wish_to_keep_it(field: str) -> None:
    assert foresee(Terms(), HOUR_S, activity(**{field: 2500.0})).closes_unix_s == 2500.0 + HOUR_S
    assert foresee(Terms(), HOUR_S, activity(**{field: 500.0})).closes_unix_s == 1000.0 + HOUR_S


def test_a_short_span_warns_for_a_quarter_of_it() -> None:
    assert foresee(Terms(), 8.0, activity()).warn_unix_s == 1006.0


def test_nothing_is_foreseen_without_bounds() -> None:
    assert foresee(Terms(), None, activity()) == Closing(idle_since_unix_s=1000.0)


def test_the_longest_life_ends_a_session_that_works_and_warns_a_day_before() -> None:
    closing = foresee(Terms(max_session_s=7 * DAY_S), HOUR_S, activity(working=True))
    assert (closing.cause, closing.closes_unix_s, closing.warn_unix_s) == (
        ClosingCause.LIFETIME,
        7 * DAY_S,
        6 * DAY_S,
    )


def test_of_several_ends_the_first_counts() -> None:
    terms = Terms(max_session_s=5000.0)
    budget = Deadline(ClosingCause.BUDGET, 4000.0, 3000.0)
    assert foresee(terms, HOUR_S, activity()).cause is ClosingCause.IDLE
    assert foresee(terms, 2 * HOUR_S, activity()).cause is ClosingCause.LIFETIME
    assert foresee(terms, HOUR_S, activity(), lease_expires_unix_s=4500.0).cause is ClosingCause.LEASE
    assert foresee(terms, HOUR_S, activity(), others=[budget]).cause is ClosingCause.BUDGET


@pytest.mark.parametrize(
    ("wish_s", "expected_s"), [(None, HOUR_S), (0.0, None), (60.0, 60.0), (9 * HOUR_S, 9 * HOUR_S)]
)
def test_a_user_may_ask_for_another_time(wish_s: float | None, expected_s: float | None) -> None:
    assert Terms(idle_close_s=HOUR_S).idle_close_of(wish_s) == expected_s


@pytest.mark.parametrize(("wish_s", "asked"), [(0.0, "never"), (3 * HOUR_S, "3 h"), (float("nan"), "nan")])
def test_but_not_for_more_than_the_owner_allows(wish_s: float, asked: str) -> None:
    with pytest.raises(InvalidRequestError, match=asked):
        Terms(idle_close_s=HOUR_S, max_idle_close_s=2 * HOUR_S).idle_close_of(wish_s)


def test_what_computes_is_busier_than_a_desktop_and_known_to() -> None:
    reading = [sample("mine", 4.0), sample("other", 90.0), sample("slice", None)]
    assert computing([*reading, sample("mine-too", 6.0)], 64) == {"other", "mine-too"}


def test_a_simulated_accelerator_computes_if_half_a_core_does() -> None:
    simulated = replace(sample("mine", 1.0), simulated=True)
    assert computing([simulated], 64) == {"mine"}
    assert computing([simulated], 32) == computing([simulated], 2) == set()


def test_why_it_was_closed_is_said_with_the_values() -> None:
    closing = Closing(idle_close_s=HOUR_S)
    assert reason_in_words(ClosingCause.IDLE, closing, Terms()) == "it was idle for 60 min"
    longest = reason_in_words(ClosingCause.LIFETIME, closing, Terms(max_session_s=7 * DAY_S))
    assert longest == "it was open for 7 days, the longest on this pool"
