"""The sampler: its ring, its watchers, its thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from nbgpu_agent.accelerators.source import Holder
from nbgpu_agent.model import Sample
from nbgpu_agent.sampling import HISTORY_BATCH_SAMPLES, Sampler, SampleRing

DEADLINE_S = 60


@given(st.integers(1, 8), st.integers(0, 30), st.integers(0, 40))
def test_the_ring_holds_the_newest(length: int, count: int, since: int) -> None:
    ring = SampleRing(length)
    for number in range(count):
        ring.append([Sample("a", float(number), False)])
    held = [batch[0].time_unix_s for batch in ring.since(since)]
    assert held == [float(number) for number in range(max(since, count - length), count)]
    assert [batch[0].time_unix_s for batch in ring.since(ring.number_at(float(since)))] == held


class Readings:
    """Reads two accelerators; fails or waits when told to."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.fails = False
        self.may_go = threading.Event()
        self.may_go.set()
        self.threads: set[str] = set()

    def read(self, time_unix_s: float, holders: Sequence[Holder]) -> list[Sample]:
        self.threads.add(threading.current_thread().name)
        assert self.may_go.wait(DEADLINE_S)
        if self.fails:
            raise RuntimeError("the driver hiccups")
        return [Sample("a", time_unix_s, False, 1.0), Sample("b", time_unix_s, False, 2.0)]

    def now(self) -> float:
        self.time_s += 1
        return self.time_s


@pytest_asyncio.fixture
async def readings() -> Readings:
    return Readings()


@pytest_asyncio.fixture
async def sampler(readings: Readings) -> AsyncGenerator[Sampler, None]:
    with ThreadPoolExecutor(1, "sampling") as executor:
        sampler = Sampler(readings.read, list, executor, interval_s=0.01, now=readings.now)
        yield sampler
        await sampler.close()


async def following(watch: AsyncGenerator[tuple[Sample, ...], None]) -> tuple[Sample, ...]:
    return await asyncio.wait_for(anext(watch), DEADLINE_S)


@pytest.mark.asyncio
async def test_every_watcher_gets_every_reading(sampler: Sampler, readings: Readings) -> None:
    watches = [sampler.watch() for _ in range(3)]
    first = [asyncio.ensure_future(following(watch)) for watch in watches]
    await asyncio.sleep(0)
    sampler.start()
    times = [(await each)[0].time_unix_s for each in first]
    assert times == [times[0]] * 3
    for number in range(1, 20):
        for watch in watches:
            assert (await following(watch))[0].time_unix_s == times[0] + number
    assert all(name.startswith("sampling") for name in readings.threads), "never on the event loop's thread"
    for watch in watches:
        await watch.aclose()


@pytest.mark.asyncio
async def test_history_then_what_is_new_without_a_gap(sampler: Sampler) -> None:
    for _ in range(HISTORY_BATCH_SAMPLES):  # two samples each
        await sampler.sample_once()
    watch = sampler.watch(history_s=10_000, accelerator_ids=["b"])
    history = await following(watch)
    assert len(history) == HISTORY_BATCH_SAMPLES
    assert {each.accelerator_id for each in history} == {"b"}
    await sampler.sample_once()
    assert (await following(watch))[0].time_unix_s > history[-1].time_unix_s
    await watch.aclose()
    whole = sampler.watch(history_s=10_000)
    batches = [await following(whole) for _ in range(3)]
    assert [len(batch) for batch in batches] == [HISTORY_BATCH_SAMPLES, HISTORY_BATCH_SAMPLES, 2]
    await whole.aclose()


@pytest.mark.asyncio
async def test_a_reading_that_fails_is_not_the_last(
    sampler: Sampler, readings: Readings, caplog: pytest.LogCaptureFixture
) -> None:
    readings.fails = True
    sampler.start()
    while "the driver hiccups" not in caplog.text:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    readings.fails = False
    watch = sampler.watch()
    assert len(await following(watch)) == 2
    await watch.aclose()


@pytest.mark.asyncio
async def test_closing_does_not_wait_for_a_driver_that_hangs(sampler: Sampler, readings: Readings) -> None:
    readings.may_go.clear()
    sampler.start()
    while not readings.threads:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await asyncio.wait_for(sampler.close(), DEADLINE_S / 2)  # the thread is the executor's
    readings.may_go.set()


@pytest.mark.asyncio
async def test_history_alone_ends_by_itself(sampler: Sampler) -> None:
    await sampler.sample_once()
    batches = [batch async for batch in sampler.watch(history_s=10_000, history_only=True)]
    assert [len(batch) for batch in batches] == [2]
    assert [batch async for batch in sampler.watch(history_only=True)] == []


@pytest.mark.asyncio
async def test_an_execution_is_measured_once_there_is_a_reading_from_after_it(sampler: Sampler) -> None:
    assert sampler.latest() == ()
    assert sampler.measure({"a"}, 0.0, 1.0) is None
    for _ in range(4):
        await sampler.sample_once()
    (newest, _) = sampler.latest()
    assert sampler.measure({"a"}, newest.time_unix_s - 2, newest.time_unix_s) is None
    found = sampler.measure({"b"}, newest.time_unix_s - 2, newest.time_unix_s - 0.5)
    assert found is not None
    assert found.mean_utilisation_percent == 2.0


@pytest.mark.asyncio
async def test_after_every_reading_it_is_said(readings: Readings) -> None:
    told: list[int] = []
    with ThreadPoolExecutor(1) as executor:
        sampler = Sampler(readings.read, list, executor, on_reading=lambda: told.append(len(sampler.latest())))
        await sampler.sample_once()
    assert told == [2]
