"""The registry of sessions, with sessions that have no kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
import pytest_asyncio

from fakes.session import FakeKernels
from nbgpu_agent.errors import (
    BusyError,
    CanNeverFitError,
    InvalidRequestError,
    KernelFailedError,
    NoSuchSessionError,
    SessionsOpenError,
    ShuttingDownError,
    WithdrawnError,
)
from nbgpu_agent.model import Accelerator, Alternative, Phase, SessionRequest, SessionUpdate, Spec
from nbgpu_agent.registry import SessionRegistry

pytestmark = pytest.mark.asyncio

DEADLINE_S = 60
ACCELERATORS = [
    *(Accelerator(f"h{index}", index, "H100", "H100", 80 * 10**9) for index in range(4)),
    Accelerator("a0", 4, "A10", "A10", 24 * 10**9),
    Accelerator("cpu", 0, "CPU", "CPU", 0, shared=True),
]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture
async def kernels() -> FakeKernels:
    return FakeKernels()


@pytest_asyncio.fixture
async def registry(kernels: FakeKernels) -> AsyncGenerator[SessionRegistry, None]:
    made: Any = kernels.make
    registry = SessionRegistry(ACCELERATORS, made)
    yield registry
    kernels.may_start.set()
    kernels.may_end.set()
    await asyncio.wait_for(registry.close_all("the test ended"), DEADLINE_S)
    assert_nothing_held(registry)


def assert_nothing_held(registry: SessionRegistry) -> None:
    assert registry.infos() == []
    assert [each.id for each in registry.ledger.free()] == [each.id for each in ACCELERATORS]
    assert all(offer.queued == 0 for offer in registry.ledger.offers())


def request(text: str = "", count: int = 1, notebook: str = "n1") -> SessionRequest:
    return SessionRequest(Spec((Alternative(text, count),), text) if text else None, notebook_id=notebook)


async def opened(registry: SessionRegistry, wanted: SessionRequest, **options: bool) -> list[SessionUpdate]:
    async def collect() -> list[SessionUpdate]:
        return [update async for update in registry.open(wanted, **options)]

    return await asyncio.wait_for(collect(), DEADLINE_S)


async def until(condition: Callable[[], object]) -> None:
    async def poll() -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), DEADLINE_S)


async def test_a_session_goes_through_its_phases(registry: SessionRegistry) -> None:
    updates = await opened(registry, request("H100", 2))
    assert [each.phase for each in updates] == [Phase.PLACING, Phase.STARTING, Phase.READY]
    assert not updates[-1].existing
    info = updates[-1].session
    assert info is not None
    assert info.lease is not None
    assert [each.id for each in info.lease.accelerators] == ["h0", "h1"]
    assert registry.holders() == {"h0": info.id, "h1": info.id}
    assert registry.get(info.id).info() == info


async def test_a_notebook_finds_its_session_again(registry: SessionRegistry) -> None:
    first = (await opened(registry, request("H100", 2)))[-1].session
    fallback = SessionRequest(Spec((Alternative("A10", 2), Alternative("", 2)), "A10x2|anyx2"), notebook_id="n1")
    for again in (request("H100", 2), request(), fallback):
        updates = await opened(registry, again)
        assert [(each.phase, each.existing) for each in updates] == [(Phase.READY, True)]
        assert updates[0].session is not None
        assert first is not None
        assert updates[0].session.id == first.id


async def test_a_notebook_may_hold_several(registry: SessionRegistry) -> None:
    first = (await opened(registry, request("H100", 2)))[-1].session
    second = (await opened(registry, request("A10")))[-1].session
    other = (await opened(registry, request("H100", 2, notebook="n2")))[-1].session
    assert len({each.id for each in (first, second, other) if each}) == 3


async def test_requests_without_a_notebook_share_nothing(registry: SessionRegistry) -> None:
    await opened(registry, request("H100", notebook=""))
    await opened(registry, request("H100", notebook=""))
    assert len(registry.infos()) == 2


async def test_two_requests_at_once_for_the_same_are_one(registry: SessionRegistry, kernels: FakeKernels) -> None:
    kernels.may_start.clear()
    both = asyncio.gather(opened(registry, request("H100")), opened(registry, request("H100")))
    await until(lambda: kernels.starting)
    kernels.may_start.set()
    one, other = await asyncio.wait_for(both, DEADLINE_S)
    assert one[-1].session == other[-1].session
    assert len(kernels.sessions) == 1


async def test_one_of_two_may_leave_before_it_is_ready(registry: SessionRegistry, kernels: FakeKernels) -> None:
    kernels.may_start.clear()
    leaving = asyncio.ensure_future(opened(registry, request("H100")))
    staying = asyncio.ensure_future(opened(registry, request("H100")))
    await until(lambda: kernels.starting)
    leaving.cancel()
    await asyncio.wait([leaving])
    kernels.may_start.set()
    assert (await staying)[-1].phase is Phase.READY
    assert kernels.sessions[0].closed_because is None


async def test_without_a_wish_a_gpu_if_one_is_free_else_the_cpu(registry: SessionRegistry) -> None:
    for expected in ("h0", "h1", "h2", "h3", "a0", "cpu", "cpu"):
        session = (await opened(registry, request(notebook="")))[-1].session
        assert session is not None
        assert session.lease is not None
        assert [each.id for each in session.lease.accelerators] == [expected]
        assert session.request.spec is not None
        assert session.request.spec.text == session.lease.accelerators[0].type


async def test_existing_only(registry: SessionRegistry) -> None:
    with pytest.raises(NoSuchSessionError):
        await opened(registry, request(), existing_only=True)
    await opened(registry, request("H100"))
    assert (await opened(registry, request(), existing_only=True))[-1].existing
    with pytest.raises(NoSuchSessionError):
        await opened(registry, request("A10"), existing_only=True)


async def test_refusals_leave_nothing(registry: SessionRegistry) -> None:
    with pytest.raises(CanNeverFitError):
        await opened(registry, request("H100", 5))
    await opened(registry, request("H100", 4, notebook="n2"))
    with pytest.raises(BusyError):
        await opened(registry, request("H100"), no_wait=True)
    assert len(registry.infos()) == 1
    assert all(offer.queued == 0 for offer in registry.ledger.offers())


async def test_a_request_waits_and_is_told_of_its_place(registry: SessionRegistry) -> None:
    holder = (await opened(registry, request("H100", 3)))[-1].session
    assert holder is not None
    ahead = asyncio.ensure_future(opened(registry, request("H100", 2, notebook="n2")))
    await until(lambda: registry.ledger.offers()[0].queued == 1)
    updates = registry.open(request("H100", 1, notebook="n3"))
    first = await asyncio.wait_for(anext(updates), DEADLINE_S)
    assert (first.phase, first.queue_position, first.queue_length) == (Phase.QUEUED, 2, 2)
    assert first.detail == "waiting for 1 of 1 H100"
    await registry.close(holder.id, "done")
    assert (await ahead)[-1].phase is Phase.READY
    rest = [update.phase async for update in updates]
    assert rest[-3:] == [Phase.PLACING, Phase.STARTING, Phase.READY]


async def test_who_will_not_wait_does_not_join_one_that_does(registry: SessionRegistry) -> None:
    await opened(registry, request("H100", 4, notebook="n2"))
    waiting = asyncio.ensure_future(opened(registry, request("H100")))
    await until(lambda: registry.ledger.offers()[0].queued == 1)
    with pytest.raises(BusyError):
        await opened(registry, request("H100"), no_wait=True)
    assert registry.ledger.offers()[0].queued == 1
    waiting.cancel()
    await asyncio.wait([waiting])
    await until(lambda: registry.ledger.offers()[0].queued == 0)


@pytest.mark.parametrize("steps", range(40))
async def test_cancelling_at_any_moment_leaves_nothing(
    registry: SessionRegistry, kernels: FakeKernels, steps: int
) -> None:
    """Cancels after so many turns of the event loop, from before the request is queued until it is ready."""
    holder = (await opened(registry, request("H100", 4, notebook="n2")))[-1].session
    assert holder is not None
    seen: list[Phase] = []

    async def collect() -> None:
        updates = registry.open(request("H100", 2))
        try:
            async for update in updates:
                seen.append(update.phase)
        finally:
            await updates.aclose()

    opening = asyncio.ensure_future(collect())
    for step in range(steps):
        if step == 8:
            closing = asyncio.ensure_future(registry.close(holder.id, "done"))
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    if steps > 8:
        await closing
    if opening.cancelled():
        assert Phase.READY not in seen
        await until(lambda: [each.id for each in registry.infos()] in ([], [holder.id]))
        assert all(offer.queued == 0 for offer in registry.ledger.offers())
    else:
        assert seen[-1] is Phase.READY


async def test_cancelling_reaches_every_phase(registry: SessionRegistry, kernels: FakeKernels) -> None:
    for phase in (Phase.PLACING, Phase.STARTING, Phase.READY):
        updates = registry.open(request("H100"))
        async for update in updates:
            if update.phase is phase:
                break
        await updates.aclose()
        await until(lambda: registry.infos() == [])
        assert_nothing_held(registry)
    assert [each.closed_because for each in kernels.sessions] == ["its request was withdrawn"] * 3


async def test_a_request_that_comes_as_the_same_is_withdrawn_begins_anew(
    registry: SessionRegistry, kernels: FakeKernels
) -> None:
    kernels.may_start.clear()
    first = registry.open(request("H100", 2))
    while (await asyncio.wait_for(anext(first), DEADLINE_S)).phase is not Phase.STARTING:
        pass
    leaving = asyncio.ensure_future(first.aclose())
    await asyncio.sleep(0)  # it has said that it leaves, and nothing is undone yet
    assert not kernels.sessions[0].closed_because
    again = registry.open(request("H100", 2))
    phases = [(await anext(again)).phase]  # which begins at once, where wait_for would give way to others first
    await asyncio.wait_for(leaving, DEADLINE_S)
    kernels.may_start.set()
    phases += [update.phase async for update in again]
    assert phases[-1] is Phase.READY
    assert [each.closed_because for each in kernels.sessions] == ["its request was withdrawn", None]


async def test_a_request_that_comes_as_the_same_has_failed_begins_anew(
    registry: SessionRegistry, kernels: FakeKernels
) -> None:
    kernels.start_error = KernelFailedError("no such interpreter")
    kernels.may_start.clear()
    kernels.may_end.clear()
    first = registry.open(request("H100", 2))
    while (await asyncio.wait_for(anext(first), DEADLINE_S)).phase is not Phase.STARTING:
        pass
    failing = asyncio.ensure_future(anext(first))
    await until(lambda: kernels.starting)
    kernels.may_start.set()
    await until(lambda: registry.is_closing(kernels.sessions[0].id))
    kernels.start_error = None
    updates = await opened(registry, request("H100", 2))
    assert updates[-1].phase is Phase.READY
    kernels.may_end.set()
    with pytest.raises(KernelFailedError, match="no such interpreter"):
        await failing


async def test_one_that_found_a_session_keeps_it_from_being_withdrawn(registry: SessionRegistry) -> None:
    updates = registry.open(request("H100"))
    async for update in updates:
        if update.phase is Phase.READY:
            break
    assert (await opened(registry, request("H100")))[-1].existing
    await updates.aclose()
    assert len(registry.infos()) == 1


async def test_a_kernel_that_does_not_start_frees_the_lease(registry: SessionRegistry, kernels: FakeKernels) -> None:
    kernels.start_error = KernelFailedError("no ipykernel")
    with pytest.raises(KernelFailedError, match="no ipykernel"):
        await opened(registry, request("H100", 4))
    assert_nothing_held(registry)
    assert kernels.sessions[0].closed_because == "its kernel did not start"


async def test_accelerators_are_free_only_once_the_processes_have_ended(
    registry: SessionRegistry, kernels: FakeKernels
) -> None:
    session = (await opened(registry, request("H100", 4)))[-1].session
    assert session is not None
    kernels.may_end.clear()
    both = asyncio.gather(registry.close(session.id, "done"), registry.close(session.id, "done again"))
    waiting = asyncio.ensure_future(opened(registry, request("H100")))  # not the one that is closing
    await until(lambda: registry.ledger.offers()[0].queued == 1)
    kernels.may_end.set()
    await both
    assert (await waiting)[-1].phase is Phase.READY
    assert kernels.sessions[0].closed_because == "done"
    await registry.close(session.id, "once more")
    with pytest.raises(NoSuchSessionError):
        registry.get(session.id)


async def test_an_expired_lease_closes_its_session(kernels: FakeKernels) -> None:
    clock, made = Clock(), kernels.make
    make: Any = made
    registry = SessionRegistry(ACCELERATORS, make, lease_duration_s=60, now=clock)
    kept = (await opened(registry, request("H100")))[-1].session
    lost = (await opened(registry, request("A10")))[-1].session
    assert kept is not None
    assert lost is not None
    clock.now = 1050
    renewed = registry.renew(kept.id, None)
    assert registry.get(kept.id).info().lease == renewed
    clock.now = 1061
    registry.close_expired()
    await until(lambda: [each.id for each in registry.infos()] == [kept.id])
    assert kernels.sessions[1].closed_because == "its lease expired"
    with pytest.raises(NoSuchSessionError):
        registry.renew(lost.id, None)
    await registry.close_all("the test ended")


async def test_ending_withdraws_all_and_takes_no_more(registry: SessionRegistry, kernels: FakeKernels) -> None:
    await opened(registry, request("H100", 4))
    waiting = asyncio.ensure_future(opened(registry, request("H100", notebook="n2")))
    kernels.may_start.clear()
    starting = asyncio.ensure_future(opened(registry, request("A10", notebook="n3")))
    await until(lambda: kernels.starting == 2)
    with pytest.raises(SessionsOpenError, match="3 sessions are open"):
        registry.refuse_if_open()
    await asyncio.wait_for(registry.close_all("the agent ended"), DEADLINE_S)
    for each in (waiting, starting):
        with pytest.raises(ShuttingDownError):
            await each
    with pytest.raises(ShuttingDownError):
        await opened(registry, request("CPU"))
    assert_nothing_held(registry)
    registry.refuse_if_open()


async def test_use_is_sessions_requests_and_watchers(registry: SessionRegistry, kernels: FakeKernels) -> None:
    await until(lambda: registry.unused_s() > 0)
    with registry.in_use():
        assert registry.unused_s() == 0
    kernels.may_start.clear()
    opening = asyncio.ensure_future(opened(registry, request("H100")))
    await until(lambda: kernels.starting)
    assert registry.unused_s() == 0
    kernels.may_start.set()
    session = (await opening)[-1].session
    assert session is not None
    assert registry.unused_s() == 0
    await registry.close(session.id, "done")
    await until(lambda: registry.unused_s() > 0)


async def test_changes_are_told_at_once_and_then_together(registry: SessionRegistry) -> None:
    changes = registry.changes.watch()
    await asyncio.wait_for(anext(changes), DEADLINE_S)
    for _ in range(50):
        registry.changes.notify()
    await asyncio.wait_for(anext(changes), DEADLINE_S)
    following = asyncio.ensure_future(anext(changes))
    done, _ = await asyncio.wait([following], timeout=0.3)
    assert not done, "nothing changed since"
    registry.changes.notify()
    await asyncio.wait_for(following, DEADLINE_S)
    await changes.aclose()


async def test_a_request_that_waits_is_told_of_and_its_session_keeps_its_id(registry: SessionRegistry) -> None:
    held = (await opened(registry, request("H100", 4, notebook="n1")))[-1].session
    assert held is not None
    waiting = asyncio.ensure_future(opened(registry, request("H100", 2, notebook="n2")))
    await until(registry.waiting)
    [info] = registry.waiting()
    assert (info.phase, info.queue_position, info.queue_length) == (Phase.QUEUED, 1, 1)
    assert (info.detail, info.lease, info.request.notebook_id) == ("waiting for 2 of 2 H100", None, "n2")
    assert [each.id for each in registry.infos()] == [held.id]
    await registry.close(held.id, "test")
    session = (await waiting)[-1].session
    assert session is not None
    assert session.id == info.id
    assert registry.waiting() == []


async def test_closing_what_waits_withdraws_the_request(registry: SessionRegistry) -> None:
    await opened(registry, request("H100", 4, notebook="n1"))
    waiting = asyncio.ensure_future(opened(registry, request("H100", 2, notebook="n2")))
    await until(registry.waiting)
    await registry.close(registry.waiting()[0].id, "test")
    with pytest.raises(WithdrawnError):
        await waiting
    assert registry.waiting() == []
    assert registry.ledger.offers()[0].queued == 0


async def test_a_change_of_the_queue_is_noticed(registry: SessionRegistry) -> None:
    await opened(registry, request("H100", 4, notebook="n1"))
    changes = registry.changes.watch()
    await anext(changes)
    waiting = asyncio.ensure_future(opened(registry, request("H100", 2, notebook="n2")))
    await asyncio.wait_for(anext(changes), DEADLINE_S)
    await until(registry.waiting)
    await changes.aclose()
    waiting.cancel()


async def test_a_session_is_given_to_another_notebook_and_both_kernels_are_told(
    registry: SessionRegistry, kernels: FakeKernels
) -> None:
    await opened(registry, request("H100", notebook="n1"))
    await opened(registry, request("A10", notebook="n2"))
    first, second = kernels.sessions
    info = registry.attach(first.id, "n2", "other.ipynb")
    assert info is not None
    assert (info.request.notebook_id, info.request.notebook_name) == ("n2", "other.ipynb")
    assert first.choices == [("n1", ""), ("n2", first.id)]
    assert second.choices == [("n2", first.id)]


async def test_of_several_a_notebook_finds_the_one_attached_last(
    registry: SessionRegistry, kernels: FakeKernels
) -> None:
    await opened(registry, request("H100"))
    await opened(registry, request("A10"))
    first, second = kernels.sessions
    found = (await opened(registry, request()))[-1].session
    assert found is not None
    assert found.id == second.id
    registry.attach(first.id, "n1")
    found = (await opened(registry, request()))[-1].session
    assert found is not None
    assert found.id == first.id


async def test_a_detached_session_is_no_notebooks_and_goes_on(registry: SessionRegistry, kernels: FakeKernels) -> None:
    await opened(registry, request("H100"))
    [session] = kernels.sessions
    assert registry.detach(session.id).request.notebook_id == ""
    assert session.choices == [("n1", "")]
    registry.detach(session.id)
    assert session.choices == [("n1", "")]
    with pytest.raises(NoSuchSessionError):
        await opened(registry, request("H100"), existing_only=True)
    assert len(registry.infos()) == 1


async def test_a_notebook_may_be_told_to_use_none_and_keeps_them(
    registry: SessionRegistry, kernels: FakeKernels
) -> None:
    await opened(registry, request("H100"))
    assert registry.attach("", "n1") is None
    [session] = kernels.sessions
    assert (session.choices, session.info().request.notebook_id) == ([("n1", "")], "n1")


async def test_attaching_needs_a_session_and_a_notebook(registry: SessionRegistry) -> None:
    with pytest.raises(NoSuchSessionError):
        registry.attach("none", "n1")
    with pytest.raises(InvalidRequestError):
        registry.attach("", "")
    with pytest.raises(NoSuchSessionError):
        registry.detach("none")
