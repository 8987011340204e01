"""What becomes of sessions when their agent is killed, restarted, or never comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from agent_processes import DEADLINE_S, Workplace, client_of, request_for, until, workplace
from nbgpu import errors
from nbgpu.client.executions import list_executions, note_shown
from nbgpu.client.pool import Pool
from nbgpu_protocol.discovery import AgentRecord
from nbgpu_protocol.v1 import pool_pb2
from recorded_sessions import Notebook, RecordedClient, Recorder
from recorded_sessions import until as until_true

pytestmark = pytest.mark.asyncio


@pytest.fixture
def place() -> Iterator[Workplace]:
    with workplace() as place:
        yield place


def kernels(place: Workplace) -> list[psutil.Process]:
    """Returns the kernels of sessions, which work in a folder of the session's."""
    found = []
    for process in place.stragglers():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("NBGPU_KERNEL_ID") and Path(process.cwd()).name.startswith("session-"):
                found.append(process)
    return found


@contextlib.asynccontextmanager
async def notebook(record: AgentRecord, count: int = 2) -> AsyncIterator[Notebook]:
    """A notebook with a session on so many of the agent's accelerators; the session stays when it leaves."""
    async with Pool(record.address, record.token) as pool:
        spec = pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="H100", count=count)], text=f"H100x{count}")
        request = pool_pb2.OpenSessionRequest(spec=spec, notebook_id=uuid.uuid4().hex)
        async with contextlib.aclosing(pool.open_session(request)) as updates:
            *_, ready = [update async for update in updates]
        client = RecordedClient(pool, ready.session, lambda: False, Recorder, None)
        try:
            await client.connect()
            yield Notebook(None, client, pool)  # type: ignore[arg-type] # there is no link that a test would act on
        finally:
            await client.disconnect()


async def session_of(one: Notebook) -> pool_pb2.SessionInfo:
    (session,) = [each for each in await one.direct.list_sessions() if each.id == one.client.id]
    return session


WAITS_FOR_FILE = """
import os, time
kept = globals().get("kept", 0) + 1
print("begins", flush=True)
while not os.path.exists("go on"):
    time.sleep(0.01)
print("ends", kept, os.environ["NBGPU_ACCELERATORS"])
"""


async def test_a_session_goes_on_with_all_that_it_has(place: Workplace) -> None:
    process, record = place.start_embedded()
    async with notebook(record) as one:
        await one.run("before = 'still here'\nprint('ran')")
        (ran,) = (await list_executions(one.direct, one.client.id)).executions
        await note_shown(one.direct, one.client.id, [ran.request_id])
        request, recorder = await one.send(WAITS_FOR_FILE)
        await until_true(lambda: recorder.text == "begins\n")
        before = await session_of(one)
        (kernel,) = kernels(place)
        place.end(process, signal.SIGKILL)

        process, again = place.start_embedded()
        assert (again.address, again.token) == (record.address, record.token)
        after = await session_of(one)
        assert after.executing.request_id == request.id
        executions = (await list_executions(one.direct, one.client.id)).executions
        assert [each.shown for each in executions] == [True, False]
        assert [each.kernel_generation for each in executions] == [1, 1]
        assert (after.id, after.lease.id, after.created_unix_s) == (before.id, before.lease.id, before.created_unix_s)
        assert [each.id for each in after.accelerators] == [each.id for each in before.accelerators]
        assert (after.notebook_id, after.spec_text) == (before.notebook_id, before.spec_text)
        assert (after.kernel_generation, after.executions) == (1, 2)
        assert [each.request_id for each in after.last_executions] == [before.last_executions[0].request_id]
        assert [each.pid for each in kernels(place)] == [kernel.pid]
        refused = request_for(3)
        refused.no_wait = True
        with client_of(again) as other, pytest.raises(grpc.RpcError, match="not free now"):
            list(other.OpenSession(refused))

        (Path(before.working_folder) / "go on").touch()
        await one.answer(request)
        assert recorder.text == "begins\nends 1 sim-h100-0,sim-h100-1\n"
        assert (await one.run("print(before, kept)")).text == "still here 1\n"
        assert one.client.cuts == 1
        # It is as any other from here on: its interrupt, its restart, its end.
        request, recorder = await one.send("print('begins', flush=True)\nimport time; time.sleep(600)")
        await until_true(lambda: recorder.text)
        assert await one.direct.interrupt(one.client.id, request.id)
        with pytest.raises(KeyboardInterrupt):
            await one.answer(request)
        await one.direct.restart(one.client.id)
        assert (await one.run("print('kept' in globals())")).text == "False\n"
        await one.direct.close_session(one.client.id)
        assert kernels(place) == []
    assert place.end(process) == 0
    until(lambda: not place.stragglers())
    place.assert_nothing_left()


async def test_a_request_that_is_sent_again_to_the_next_agent_runs_once(place: Workplace) -> None:
    process, record = place.start_embedded()
    async with notebook(record) as one:
        assert (await one.run("runs = 0")).text == ""
        requests = []
        for moment in range(6):
            request, recorder = await one.send("runs += 1\nprint(runs)")
            for _ in range(moment * 3):  # on its way, with the agent, with the kernel, or over
                await asyncio.sleep(0)
            place.end(process, signal.SIGKILL)
            process, _ = place.start_embedded()
            await one.answer(request)
            requests.append(recorder.text)
        assert requests == [f"{count}\n" for count in range(1, 7)]
        assert (await one.run("print(runs)")).text == "6\n"
    assert place.end(process) == 0


async def test_input_that_is_asked_for_is_answered_through_the_next_agent(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer(prompt: str) -> str:
        loop.call_soon_threadsafe(asked.set)
        asyncio.run_coroutine_threadsafe(answered.wait(), loop).result(DEADLINE_S)
        return "typed"

    monkeypatch.setattr("builtins.input", answer)
    process, record = place.start_embedded()
    async with notebook(record) as one:
        request, recorder = await one.send("print(input('? '))")
        answering = asyncio.create_task(one.answer(request))
        await asyncio.wait_for(asked.wait(), DEADLINE_S)
        place.end(process, signal.SIGKILL)
        process, _ = place.start_embedded()
        answered.set()
        await answering
        assert recorder.text == "typed\n"
    assert place.end(process) == 0


async def test_a_kernel_that_ended_meanwhile_is_said(place: Workplace) -> None:
    process, record = place.start_embedded()
    async with notebook(record) as one:
        request, recorder = await one.send("print('begins', flush=True)\nimport time; time.sleep(600)")
        await until_true(lambda: recorder.text)
        (kernel,) = kernels(place)
        place.end(process, signal.SIGKILL)
        kernel.kill()
        until(lambda: not kernels(place))
        process, _ = place.start_embedded()
        with pytest.raises(errors.KernelDiedError):
            await one.answer(request)
        session = await session_of(one)
        assert session.kernel_state == pool_pb2.KERNEL_DEAD
        assert len(session.accelerators) == 2
        await one.direct.restart(one.client.id)
        assert (await one.run("print('fresh')")).text == "fresh\n"
    assert place.end(process) == 0
    place.assert_nothing_left()


async def test_what_a_kernel_said_last_before_it_ended_without_an_agent_is_not_lost(place: Workplace) -> None:
    process, record = place.start_embedded()
    async with notebook(record) as one:
        request, recorder = await one.send(WAITS_FOR_FILE + "\nos._exit(3)")
        await until_true(lambda: recorder.text)
        folder = Path((await session_of(one)).working_folder)
        place.end(process, signal.SIGKILL)
        (folder / "go on").touch()
        until(lambda: not kernels(place) or any(folder.parent.glob("*/outbox-*")))
        until(lambda: not kernels(place))
        process, _ = place.start_embedded()
        with pytest.raises(errors.KernelDiedError):
            await one.answer(request)
        assert recorder.text.startswith("begins\n")
    assert place.end(process) == 0


async def test_what_cannot_be_taken_over_is_ended_and_said(place: Workplace) -> None:
    process, record = place.start_embedded()
    async with notebook(record) as one:
        await one.run("1")
        place.end(process, signal.SIGKILL)
        process, _ = place.start_embedded(NBGPU_SIMULATE="A10x1")
        await until_true(lambda: one.client.end is not None)
        assert isinstance(one.client.end, errors.SessionClosedError)
        assert "not all of its accelerators are here any more" in one.client.end.message()
        assert kernels(place) == []
        assert await one.direct.list_sessions() == []
    assert place.end(process) == 0
    until(lambda: not place.stragglers())
    place.assert_nothing_left()


@pytest.mark.parametrize("damage", ["journal.db", "journal.db-wal"])
async def test_a_damaged_journal_is_moved_aside_and_the_session_goes_on(place: Workplace, damage: str) -> None:
    process, record = place.start_embedded()
    async with notebook(record) as one:
        await one.run("kept = 1\nprint('x' * 200_000)")
        (folder,) = (place.folder / "sessions").iterdir()
        until((folder / "state.json").exists)
        place.end(process, signal.SIGKILL)
        for path in folder.glob("journal.db*"):
            if path.name == damage or damage == "journal.db":
                path.write_bytes(b"no database" * 1000)
        process, _ = place.start_embedded()
        assert (await one.run("print(kept)")).text == "1\n"
        if damage == "journal.db":
            assert "it was moved aside" in place.log()
            assert (folder / "journal.db.damaged").exists()
        await one.direct.close_session(one.client.id)
        assert not folder.exists()
    assert place.end(process) == 0


async def test_sessions_without_an_agent_end_after_the_grace(place: Workplace) -> None:
    process, record = place.start_embedded("--AgentApp.adoption_grace_s=0.5")
    async with notebook(record) as one:
        # A child of its own session, and the kernel itself in code that lets go of nothing.
        await one.run("import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)")
        request, _ = await one.send("import ctypes\nctypes.PyDLL(None).sleep(600)")
        await one.agent_is(lambda session: session.kernel_state == pool_pb2.KERNEL_EXECUTING)
        assert len(kernels(place)) == 2
        place.end(process, signal.SIGKILL)
        until(lambda: not place.stragglers())
        assert place.left_in(place.folder) == set()
        request.fail(errors.AgentUnreachableError("the test ended"))


async def test_without_a_grace_sessions_end_with_their_agent(place: Workplace) -> None:
    process, record = place.start_embedded("--AgentApp.adoption_grace_s=0")
    async with notebook(record) as one:
        await one.run("1")
        assert not (place.folder / "sessions").exists()
        place.end(process, signal.SIGKILL)
        until(lambda: not place.stragglers())


async def test_an_agent_that_is_asked_to_leaves_its_sessions(place: Workplace) -> None:
    process, record = place.start_embedded()
    async with notebook(record) as one:
        request, recorder = await one.send(WAITS_FOR_FILE)
        await until_true(lambda: recorder.text)
        folder = Path((await session_of(one)).working_folder)
        assert place.end(process, signal.SIGHUP) == 0
        assert len(kernels(place)) == 1
        process, again = place.start_embedded()
        assert again.token == record.token
        (folder / "go on").touch()
        await one.answer(request)
        assert recorder.text == "begins\nends 1 sim-h100-0,sim-h100-1\n"
        with pytest.raises(errors.SessionsOpenError):
            await one.direct.shut_down(close_sessions=False)
        await one.direct.shut_down(close_sessions=False, keep_sessions=True)
        assert process.wait(DEADLINE_S) == 0
        process, _ = place.start_embedded()
        assert (await one.run("print(kept)")).text == "1\n"
    assert place.end(process) == 0
    until(lambda: not place.stragglers())
    place.assert_nothing_left()


async def test_what_is_kept_is_the_owners_alone_and_has_no_code(place: Workplace) -> None:
    process, record = place.start_embedded()
    async with notebook(record) as one:
        await one.run("secret_code_of_mine = 1\nprint('shown')")
        (folder,) = (place.folder / "sessions").iterdir()
        until((folder / "state.json").exists)
        until(lambda: b"shown" in b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()))
        for path in folder.rglob("*"):
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
        assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
        state = json.loads((folder / "state.json").read_bytes())
        assert "variables" not in state["setting"]
        assert record.token not in (folder / "state.json").read_text()
        assert "secret_code_of_mine" not in json.dumps(state)
        await one.direct.close_session(one.client.id)
        assert list((place.folder / "sessions").iterdir()) == []
    assert place.end(process) == 0
