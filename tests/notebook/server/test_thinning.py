"""Fewer samples of a long time."""

from hypothesis import given
from hypothesis import strategies as st

from nbgpu.server.thinning import Thinner
from nbgpu_protocol.v1 import pool_pb2


def sample(time_unix_s, accelerator="a"):
    return pool_pb2.Sample(accelerator_id=accelerator, time_unix_s=time_unix_s)


def test_the_last_of_each_step_passes():
    thinner = Thinner(5.0)
    passed = thinner.add([sample(0.5), sample(0.5, "b"), sample(4.9), sample(5.1), sample(5.1, "b")])
    assert [(each.accelerator_id, each.time_unix_s) for each in passed] == [("a", 4.9), ("b", 0.5)]
    passed = thinner.add([sample(20.0)])
    assert [each.time_unix_s for each in passed] == [5.1]
    assert [(each.accelerator_id, each.time_unix_s) for each in thinner.rest()] == [("a", 20.0), ("b", 5.1)]
    assert thinner.rest() == []


def test_without_a_step_all_pass():
    thinner = Thinner(0.0)
    assert len(thinner.add([sample(1.0), sample(1.0)])) == 2
    assert thinner.rest() == []


@given(st.lists(st.floats(0, 1000), max_size=50), st.floats(0.1, 100), st.integers(1, 10))
def test_however_it_is_cut_there_is_one_a_step_and_it_is_the_last(times, step_s, size):
    times.sort()
    thinner = Thinner(step_s)
    passed = []
    for start in range(0, len(times), size):
        passed += thinner.add([sample(time) for time in times[start : start + size]])
    passed += thinner.rest()
    last = {int(time // step_s): time for time in times}
    assert [each.time_unix_s for each in passed] == list(last.values())
