"""The keeper: warns of the ends that come, and closes what is due; with a clock and sessions of the test's own."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from fakes.session import FakeKernels, FakeSession
from nbgpu_agent.errors import InvalidRequestError, NoSuchSessionError
from nbgpu_agent.limits.closing import Terms
from nbgpu_agent.limits.keeper import SessionKeeper
from nbgpu_agent.model import Accelerator, Alternative, ClosingCause, Phase, Sample, SessionRequest, Spec
from nbgpu_agent.registry import SessionRegistry

pytestmark = pytest.mark.asyncio

GPU = Accelerator("h0", 0, "H100", "H100", 80 * 10**9)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Place:
    """A registry whose sessions have no kernels, its keeper, and the clock of both."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.kernels = FakeKernels(now=self.clock)
        made: Any = self.kernels.make
        self.registry = SessionRegistry([GPU], made, now=self.clock)

    def keeper(self, **terms: float) -> SessionKeeper:
        return SessionKeeper(self.registry, Terms(**terms))

    async def open(self, idle_close_s: float | None = None) -> FakeSession:
        spec = Spec((Alternative("H100", 1),), "H100")
        request = SessionRequest(spec, notebook_id="n1", idle_close_s=idle_close_s)
        self.updates = [update async for update in self.registry.open(request)]
        assert self.updates[-1].phase is Phase.READY
        return self.kernels.sessions[-1]

    async def settle(self) -> None:
        """Waits for the ends that have begun."""
        for session_id in [each.id for each in self.registry.sessions() if self.registry.is_closing(each.id)]:
            await self.registry.close(session_id, "")


@pytest_asyncio.fixture
async def place() -> AsyncGenerator[Place, None]:
    place = Place()
    yield place
    await place.registry.close_all("the test ended")


def reading(percent: float) -> list[Sample]:
    return [Sample(GPU.id, 0.0, simulated=False, utilisation_percent=percent)]


async def test_an_idle_session_is_closed_and_its_notebook_told_why_once(place: Place) -> None:
    keeper = place.keeper(idle_close_s=3600.0)
    session = await place.open()
    place.clock.now += 3599
    keeper.look()
    assert session.closing.closes_unix_s == 4600.0
    assert not place.registry.is_closing(session.id)
    place.clock.now += 1
    keeper.look()
    await place.settle()
    assert session.closed_because == "it was idle for 60 min"
    assert place.registry.ledger.free() == (GPU,)
    end = place.registry.ends.of_session(session.id)
    assert end is not None
    assert re.fullmatch(r"the session on H100 was closed at \d\d:\d\d: it was idle for 60 min", end.in_words())

    await place.open()
    assert "it was idle for 60 min" in place.updates[-1].notice
    await place.registry.close(place.kernels.sessions[-1].id, "it was closed by its user")
    await place.open()
    assert place.updates[-1].notice == ""


async def test_computing_and_working_put_the_end_off(place: Place) -> None:
    keeper = place.keeper(idle_close_s=3600.0)
    session = await place.open()
    place.clock.now += 3500
    keeper.note_reading(reading(70.0))
    place.clock.now += 3500
    keeper.look()
    assert session.closing.idle_since_unix_s is None
    assert session.closing.closes_unix_s is None
    keeper.note_reading(reading(0.0))
    keeper.look()
    assert session.closing.idle_since_unix_s == 4500.0
    session.is_working = True
    place.clock.now += 100_000
    keeper.look()
    assert not place.registry.is_closing(session.id)


async def test_a_session_is_kept_by_asking(place: Place) -> None:
    keeper = place.keeper(idle_close_s=3600.0, max_idle_close_s=7200.0)
    session = await place.open()
    place.clock.now += 3500
    keeper.keep(session.id)
    assert session.closing.closes_unix_s == place.clock.now + 3600
    keeper.keep(session.id, 7200.0)
    assert session.closing.closes_unix_s == place.clock.now + 7200
    with pytest.raises(InvalidRequestError, match="120 min without work at the latest, 375 days"):
        keeper.keep(session.id, 9000.0 * 3600)
    with pytest.raises(InvalidRequestError, match="never asked"):
        keeper.keep(session.id, 0.0)
    with pytest.raises(NoSuchSessionError):
        keeper.keep("nowhere")


async def test_a_session_may_ask_for_its_own_time_when_it_is_opened(place: Place) -> None:
    keeper = place.keeper(idle_close_s=3600.0)
    session = await place.open(idle_close_s=0.0)
    place.clock.now += 100_000
    keeper.look()
    assert session.closing.closes_unix_s is None
    assert not place.registry.is_closing(session.id)


async def test_the_longest_life_is_warned_of_once_and_then_over_whatever_runs(place: Place) -> None:
    keeper = place.keeper(max_session_s=7 * 86_400.0)
    session = await place.open()
    session.is_working = True
    place.clock.now += 6 * 86_400 - 1
    keeper.look()
    assert session.told == []
    place.clock.now += 1
    keeper.look()
    keeper.look()
    assert session.told == ["this session is closed in 24 h: it may be open for 7 days on this pool"]
    assert session.closing.cause is ClosingCause.LIFETIME
    place.clock.now += 86_400
    keeper.look()
    await place.settle()
    assert session.closed_because == "it was open for 7 days, the longest on this pool"
