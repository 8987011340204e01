"""The agent's clock: leases, idle times and warnings are as long as ever when the machine's clock is set."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import pytest_asyncio

from fakes.session import FakeKernels, FakeSession
from nbgpu_agent import clock as clock_module
from nbgpu_agent.clock import AgentClock, boot_id, elapsed_s
from nbgpu_agent.limits.closing import Terms
from nbgpu_agent.limits.keeper import SessionKeeper
from nbgpu_agent.model import Accelerator, Alternative, Sample, SessionRequest, Spec
from nbgpu_agent.registry import SessionRegistry
from nbgpu_agent.sampling import Sampler

GPU = Accelerator("h0", 0, "H100", "H100", 80 * 10**9)
HOURS_S = 3600.0


class Machine:
    """Stands in for a machine: a clock that somebody sets, and one that nobody does."""

    wall_s = 1_795_000_000.0
    up_s = 500.0

    def pass_(self, span_s: float) -> None:
        self.wall_s += span_s
        self.up_s += span_s

    def clock(self, left: Any = None) -> AgentClock:
        return AgentClock(left, wall=lambda: self.wall_s, elapsed=lambda: self.up_s)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize("change_s", [100 * HOURS_S, -100 * HOURS_S])
def test_it_goes_on_evenly_whatever_the_machines_clock_is_set_to(machine: Machine, change_s: float) -> None:
    clock = machine.clock()
    assert clock() == machine.wall_s
    machine.pass_(10.0)
    machine.wall_s += change_s
    assert clock() == 1_795_000_010.0
    assert clock.follow() == change_s
    assert clock() == machine.wall_s
    machine.wall_s += 0.5
    assert clock.follow() == 0.0, "what clocks are trimmed by all the time"


def test_the_next_agent_goes_on_with_it_until_the_machine_is_started_anew(machine: Machine) -> None:
    clock = machine.clock()
    machine.wall_s -= 100 * HOURS_S
    left = json.loads(json.dumps(clock.setting))
    if boot_id():
        assert machine.clock(left)() == clock()
    assert machine.clock({**left, "boot_id": "of another time"})() == machine.wall_s
    assert machine.clock(None)() == machine.wall_s


def test_the_clock_that_nobody_sets_is_the_same_for_all_processes() -> None:
    before = elapsed_s()
    assert before <= clock_module.elapsed_s() < before + 60.0
    assert abs(AgentClock()() - clock_module.time.time()) < 60.0


class Place:
    """A registry on the clock of a machine, and its keeper."""

    def __init__(self, machine: Machine) -> None:
        self.clock = machine.clock()
        self.kernels = FakeKernels(now=self.clock)
        made: Any = self.kernels.make
        self.registry = SessionRegistry([GPU], made, now=self.clock, lease_duration_s=2 * HOURS_S)
        self.keeper = SessionKeeper(self.registry, Terms(idle_close_s=HOURS_S, max_session_s=10 * HOURS_S))

    async def open(self) -> FakeSession:
        request = SessionRequest(Spec((Alternative("H100", 1),), "H100"), notebook_id="n1")
        async for _ in self.registry.open(request):
            pass
        return self.kernels.sessions[-1]

    def look(self) -> None:
        self.registry.close_expired()
        self.keeper.look()


@pytest_asyncio.fixture
async def place(machine: Machine) -> AsyncGenerator[Place, None]:
    place = Place(machine)
    yield place
    await place.registry.close_all("the test ended")


@pytest.mark.asyncio
@pytest.mark.parametrize("change_s", [100 * HOURS_S, -100 * HOURS_S])
async def test_a_session_ends_after_the_same_time_as_ever(place: Place, machine: Machine, change_s: float) -> None:
    session = await place.open()
    machine.wall_s += change_s
    place.look()
    assert not place.registry.is_closing(session.id)
    machine.pass_(HOURS_S - 1)
    place.look()
    assert not place.registry.is_closing(session.id)
    machine.pass_(1.0)
    place.look()
    assert place.registry.is_closing(session.id)
    await place.registry.close(session.id, "")
    assert session.closed_because == "it was idle for 60 min"


@pytest.mark.asyncio
async def test_what_was_recorded_by_another_clock_is_forgotten(machine: Machine) -> None:
    clock = machine.clock()

    def read(time_unix_s: float, held: object) -> list[Sample]:
        return [Sample(GPU.id, time_unix_s, simulated=True)]

    with ThreadPoolExecutor(1) as executor:
        sampler = Sampler(read, list, executor, now=clock)
        await sampler.sample_once()
        machine.wall_s -= 100 * HOURS_S
        clock.follow()
        sampler.forget()
        assert sampler.latest() == ()
        await sampler.sample_once()
        recorded = [each async for batch in sampler.watch(HOURS_S, history_only=True) for each in batch]
        assert [each.time_unix_s for each in recorded] == [machine.wall_s]
