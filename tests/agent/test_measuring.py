"""What readings say of an execution."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgpu_agent.measuring import Measurement, measure
from nbgpu_agent.model import Sample


def reading(time_s: float, *values: tuple[float | None, int | None]) -> list[Sample]:
    return [
        Sample(f"g{number}", time_s, False, utilisation_percent=busy, memory_used_bytes=used)
        for number, (busy, used) in enumerate(values)
    ]


def test_each_interval_counts_with_the_part_that_the_execution_had_of_it() -> None:
    readings = [reading(10, (90, 1)), reading(11, (20, 2)), reading(12, (100, 9)), reading(13, (50, 4))]
    found = measure(readings, {"g0"}, 10.5, 12.5)
    assert found.mean_utilisation_percent == pytest.approx((0.5 * 20 + 1 * 100 + 0.5 * 50) / 2)
    assert found.peak_memory_bytes == 9


def test_the_mean_is_over_its_accelerators_and_the_peak_of_one() -> None:
    readings = [reading(1, (0, 0), (0, 0), (0, 0)), reading(2, (10, 5), (30, 7), (99, 99))]
    assert measure(readings, {"g0", "g1"}, 1.0, 2.0) == Measurement(20, 7)


def test_what_took_a_moment_has_no_utilisation_but_the_peak_of_the_first_reading_after() -> None:
    readings = [reading(1, (0, 1)), reading(2, (100, 8)), reading(3, (100, 99))]
    assert measure(readings, {"g0"}, 1.2, 1.4) == Measurement(None, 8)


def test_unknown_stays_unknown() -> None:
    readings = [reading(1, (None, None)), reading(2, (None, None)), []]
    assert measure(readings, {"g0"}, 0.5, 2.0) == Measurement(None, None)
    assert measure([], {"g0"}, 0.5, 2.0) == Measurement(None, None)
    assert measure([reading(1, (50, 5))], {"g0"}, 0.5, 2.0) == Measurement(None, 5)  # since when is not known


def test_a_reading_that_knows_less_does_not_count_as_zero() -> None:
    readings = [reading(1, (0, 1)), reading(2, (80, 2)), reading(3, (None, None))]
    assert measure(readings, {"g0"}, 1.0, 3.0) == Measurement(80, 2)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 10**12)), min_size=1, max_size=20),
    st.floats(0, 25),
    st.floats(0, 25),
)
def test_a_mean_lies_between_what_was_read(values: list[tuple[float, int]], start: float, length: float) -> None:
    readings = [reading(float(number), value) for number, value in enumerate(values)]
    found = measure(readings, {"g0"}, start, start + length)
    if found.mean_utilisation_percent is not None:
        busy = [value for value, _ in values]
        assert min(busy) - 1e-6 <= found.mean_utilisation_percent <= max(busy) + 1e-6
    if found.peak_memory_bytes is not None:
        assert found.peak_memory_bytes in [used for _, used in values]
