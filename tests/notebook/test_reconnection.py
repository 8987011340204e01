"""A session's stream over a link that is cut, stalled and taken down: nothing is lost, nothing comes or runs twice."""

from __future__ import annotations

import asyncio
import queue
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_processes import workplace
from fakes.link import link_to
from nbgpu import errors
from nbgpu.client import connection, mending, shown
from nbgpu.client.executions import list_executions
from nbgpu.client.pool import Pool
from nbgpu_protocol.v1 import pool_pb2
from recorded_sessions import (
    DEADLINE_S,
    Notebook,
    RunningAgent,
    is_dead,
    is_executing,
    is_idle,
    notebook_on,
    until,
    witness_of,
)

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def agent() -> Iterator[RunningAgent]:
    """An agent on loopback, for this module's tests."""
    with workplace() as place:
        process, address, token = place.start_listening()
        yield RunningAgent(int(address.rpartition(":")[2]), token)
        assert place.end(process) == 0
        place.assert_nothing_left()


CELL = """
import sys, time
from IPython.display import display
for i in range(4000):
    print("line", i)
    if i % 7 == 0:
        print("on the other stream", i, file=sys.stderr)
    if i % 1000 == 999:
        display({"text/plain": f"{i:x}" * 1_000_000, "x/raw": str(i)}, raw=True)
    if i % 40 == 0:
        time.sleep(0.001)
"the last line"
"""


@pytest.mark.parametrize("seed", range(3))
async def test_output_is_the_same_byte_for_byte_over_a_link_that_is_cut_twenty_times(
    agent: RunningAgent, seed: int
) -> None:
    async with notebook_on(agent) as notebook, witness_of(notebook) as witness:
        await notebook.run(CELL)
        assert notebook.client.cuts == 0
        notebook.link.cut_after(random.Random(seed).sample(range(notebook.link.bytes_to_client), 20))
        recorder = await notebook.run(CELL)
        assert notebook.link.cuts_ahead == 0
        assert 1 <= notebook.client.cuts <= 20
        await until(lambda: len(witness.messages) >= len(notebook.client.messages))
        assert notebook.client.messages == witness.messages
        assert recorder.text == "".join(f"line {i}\n" for i in range(4000))


async def test_a_cut_is_told_once_however_often_mending_fails(
    agent: RunningAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    async with notebook_on(agent) as notebook:
        request, recorder = await notebook.send(
            "import time\nprint('begins', flush=True)\ntime.sleep(0.5)\nprint('ends')"
        )
        await until(lambda: recorder.text)
        notebook.link.take_down()
        await until(lambda: notebook.link.refused >= 3)
        assert notebook.client.cuts == 1
        notebook.link.restore()
        await notebook.answer(request)
        assert recorder.text == "begins\nends\n"
        assert notebook.client.cuts == 1
        said = capsys.readouterr().err
        assert said.count("the connection to the agent was cut") == 1


async def test_a_link_that_stands_and_carries_nothing_is_mended_when_it_ends(
    agent: RunningAgent, tmp_path: Path
) -> None:
    stalled = tmp_path / "stalled"
    cell = f"""
import pathlib, time
print("begins", flush=True)
while not pathlib.Path({str(stalled)!r}).exists():
    time.sleep(0.01)
for i in range(1000):
    print(i)
"""
    async with notebook_on(agent) as notebook:
        request, recorder = await notebook.send(cell)
        await until(lambda: recorder.text)
        notebook.link.stall()
        stalled.touch()
        await notebook.agent_is(is_idle)
        assert notebook.client.cuts == 0
        notebook.link.cut()
        await notebook.answer(request)
        assert recorder.text == "begins\n" + "".join(f"{i}\n" for i in range(1000))
        assert notebook.client.cuts == 1


async def test_after_the_bridge_the_request_fails_in_words_and_the_session_goes_on(
    agent: RunningAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "GIVE_UP_AFTER_S", 0.3)
    async with notebook_on(agent) as notebook:
        request, _ = await notebook.send("import time\ntime.sleep(3600)")
        await notebook.agent_is(is_executing)
        notebook.link.take_down()
        with pytest.raises(errors.AgentUnreachableError, match="the agent does not answer") as raised:
            await notebook.answer(request)
        assert not raised.value.message().endswith(".")
        assert isinstance(notebook.client.end, errors.AgentUnreachableError)
        late, _ = await notebook.send("1")
        with pytest.raises(errors.AgentUnreachableError):
            await notebook.answer(late)
        (session,) = [each for each in await notebook.direct.list_sessions() if each.id == notebook.client.id]
        assert session.kernel_state == pool_pb2.KERNEL_EXECUTING


ONCE = "runs = globals().get('runs', 0) + 1\nprint(runs)"


async def test_a_request_that_is_sent_while_the_link_is_down_runs_once(agent: RunningAgent) -> None:
    async with notebook_on(agent) as notebook:
        notebook.link.take_down()
        await until(lambda: notebook.client.cuts)
        request, recorder = await notebook.send(ONCE)
        await until(lambda: notebook.link.refused >= 2)
        notebook.link.restore()
        await notebook.answer(request)
        assert recorder.text == "1\n"
        assert (await notebook.run("print(runs)")).text == "1\n"


async def test_a_request_has_the_link_tried_at_once(agent: RunningAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "FIRST_PAUSE_S", 3600.0)
    monkeypatch.setattr(mending, "MAX_PAUSE_S", 3600.0)
    async with notebook_on(agent) as notebook:
        notebook.link.take_down()
        await until(lambda: notebook.link.refused)
        notebook.link.restore()
        assert (await notebook.run(ONCE)).text == "1\n"


@pytest.mark.parametrize("stalled", ["to_agent", "to_client"])
async def test_a_request_or_its_answer_that_is_lost_with_the_link_runs_once(agent: RunningAgent, stalled: str) -> None:
    async with notebook_on(agent) as notebook:
        notebook.link.stall(**{"to_agent": False, "to_client": False, stalled: True})
        request, recorder = await notebook.send(ONCE)
        if stalled == "to_client":  # it has run, and nobody here knows
            await notebook.agent_is(lambda session: session.executions == 1 and is_idle(session))
        notebook.link.cut()
        await notebook.answer(request)
        assert recorder.text == "1\n"
        assert (await notebook.run("print(runs)")).text == "1\n"


async def test_a_large_request_that_is_cut_on_its_way_runs_once(agent: RunningAgent) -> None:
    async with notebook_on(agent) as notebook:
        size = 5_000_000
        notebook.link.cut_after([0, 700_000, 3_000_000, 7_000_000], to_client=False)
        recorder = await notebook.run(f"{ONCE}\nprint(len('{'x' * size}'))")
        assert notebook.link.cuts_ahead == 0
        assert recorder.text == f"1\n{size}\n"


@pytest.mark.parametrize("lost", ["before it is sent", "on its way", "after it arrived"])
async def test_input_is_answered_once_across_a_cut(
    agent: RunningAgent, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def fake_input(prompt: str) -> str:
        asked.put(prompt)
        return answers.get(timeout=DEADLINE_S)

    monkeypatch.setattr("builtins.input", fake_input)
    async with notebook_on(agent) as notebook:
        request, recorder = await notebook.send("first = input('1? ')\nsecond = input('2? ')\nprint(first, second)")
        answering = asyncio.create_task(notebook.answer(request))
        await until(lambda: not asked.empty())
        if lost == "before it is sent":
            notebook.link.take_down()
            await until(lambda: notebook.client.cuts)
            answers.put("a")
            await until(lambda: notebook.replies == 1)
            notebook.link.restore()
        else:
            if lost == "on its way":
                notebook.link.stall(to_client=False)
            answers.put("a")
            await until(lambda: notebook.replies == 1 and (lost == "on its way" or asked.qsize() == 2))
            notebook.link.cut()
        await until(lambda: asked.qsize() == 2)
        answers.put("b")
        await asyncio.wait_for(answering, DEADLINE_S)
        assert recorder.text == "a b\n"
        assert [asked.get(), asked.get()] == ["1? ", "2? "]


async def test_a_kernel_that_dies_while_the_link_is_down_is_told_of_afterwards(agent: RunningAgent) -> None:
    async with notebook_on(agent) as notebook:
        request, recorder = await notebook.send("import time\nprint('begins', flush=True)\ntime.sleep(3600)")
        await until(lambda: recorder.text)
        notebook.link.take_down()
        await until(lambda: notebook.client.cuts)
        await notebook.direct.interrupt(notebook.client.id, escalate=True)
        await notebook.agent_is(is_dead)
        notebook.link.restore()
        with pytest.raises(errors.KernelDiedError):
            await notebook.answer(request)


async def test_a_session_that_is_closed_while_the_link_is_down_is_told_of_afterwards(agent: RunningAgent) -> None:
    async with notebook_on(agent) as notebook:
        request, recorder = await notebook.send("import time\nprint('begins', flush=True)\ntime.sleep(3600)")
        await until(lambda: recorder.text)
        notebook.link.take_down()
        await until(lambda: notebook.client.cuts)
        await notebook.direct.close_session(notebook.client.id)
        notebook.link.restore()
        with pytest.raises(errors.SessionClosedError):
            await notebook.answer(request)


async def test_a_stream_that_cannot_be_read_fails_what_waits_for_it(
    agent: RunningAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with notebook_on(agent) as notebook:
        monkeypatch.setattr(notebook.client, "on_message", lambda message: {}["no such key"])
        request, _ = await notebook.send("1")
        with pytest.raises(errors.AgentFaultError, match="KeyError"):
            await notebook.answer(request)


async def test_what_was_shown_is_told_at_the_end_at_last_and_after_a_cut_with_the_next_cell(
    agent: RunningAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with notebook_on(agent) as notebook:
        await notebook.client.pool.handshake()  # by which the agent's capabilities are known
        monkeypatch.setattr(shown, "SHOWN_AFTER_S", 0.01)
        await notebook.run("1")
        await until_shown(notebook, 1)
        request, recorder = await notebook.send("import time\nprint('begins', flush=True)\ntime.sleep(0.2)")
        await until(lambda: recorder.text)
        notebook.link.stall(to_client=False)  # the answer comes, and what is said of it does not arrive
        await notebook.answer(request)
        assert notebook.client.has(request.id)
        notebook.link.take_down()
        await until(lambda: notebook.link.refused >= 1)
        notebook.link.restore()
        await notebook.run("3")
        await until_shown(notebook, 3)
        await until(lambda: not notebook.client.has(request.id))
        monkeypatch.setattr(shown, "SHOWN_AFTER_S", 600.0)
        await notebook.run("4")
        await notebook.client.disconnect()
        await until_shown(notebook, 4)


async def until_shown(notebook: Notebook, count: int) -> None:
    """Waits until the agent knows that so many executions, which are all, were shown to their end."""

    async def shown_ones() -> list[bool]:
        return [each.shown for each in (await list_executions(notebook.direct, notebook.client.id)).executions]

    async def look() -> None:
        while await shown_ones() != [True] * count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), DEADLINE_S)


async def test_a_call_over_a_connection_that_has_died_meanwhile_reaches_the_agent(agent: RunningAgent) -> None:
    async with link_to(agent.port) as link, Pool(link.target, agent.token) as pool:
        await pool.handshake()
        link.cut_after([1], to_client=False)  # as soon as something is said, which is when it is noticed
        await pool.list_sessions()
        assert link.cuts_ahead == 0
