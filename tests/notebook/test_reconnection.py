"""A session's stream over a link that is cut, stalled and taken down: nothing is lost, nothing comes or runs twice."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent_processes import workplace
from fakes.link import Link, link_to
from nbgpu import errors
from nbgpu.client import connection
from nbgpu.client.connection import Message
from nbgpu.client.pool import Pool
from nbgpu.execution import Request
from nbgpu.output import RemoteResult
from nbgpu.session_client import CLIENT_ID, SessionClient
from nbgpu_protocol.v1 import pool_pb2

DEADLINE_S = 90
pytestmark = pytest.mark.asyncio


@dataclass(frozen=True)
class RunningAgent:
    port: int
    token: str


@pytest.fixture(scope="module")
def agent() -> Iterator[RunningAgent]:
    """An agent on loopback, for this module's tests."""
    with workplace() as place:
        process, address, token = place.start_listening()
        yield RunningAgent(int(address.rpartition(":")[2]), token)
        assert place.end(process) == 0
        place.assert_nothing_left()


def is_idle(session: pool_pb2.SessionInfo) -> bool:
    return session.kernel_state == pool_pb2.KERNEL_IDLE


def is_executing(session: pool_pb2.SessionInfo) -> bool:
    return session.kernel_state == pool_pb2.KERNEL_EXECUTING


def is_dead(session: pool_pb2.SessionInfo) -> bool:
    return session.kernel_state == pool_pb2.KERNEL_DEAD


class Recorder:
    """A publisher that keeps what it is given, neighbours of one stream as one."""

    immediate = True

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []
        self.results: list[RemoteResult] = []

    def publish(self, message: Message) -> None:
        content = message.content()
        kind = f"stream {content['name']}" if message.type == "stream" else message.type
        text = content["text"] if message.type == "stream" else str(content.get("data", content))
        if self.shown and message.type == "stream" and self.shown[-1][0] == kind:
            text = self.shown.pop()[1] + text
        self.shown.append((kind, text))

    def show_result(self, result: RemoteResult) -> None:
        self.results.append(result)

    def show_payload(self, payload: dict[str, Any]) -> None:
        raise AssertionError("no cell here has a payload")

    @property
    def text(self) -> str:
        return "".join(text for kind, text in self.shown if kind == "stream stdout")


def raw(message: Message) -> tuple[Any, ...]:
    parts = (message.raw_metadata, message.raw_content, *message.buffers)
    return message.channel, message.header, message.parent_header, *map(bytes, parts)


class RecordedClient(SessionClient):
    """Counts the cuts that it is told of, and keeps all messages."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cuts = 0
        self.messages: list[tuple[Any, ...]] = []

    def on_message(self, message: Message) -> None:
        self.messages.append(raw(message))
        super().on_message(message)

    def on_cut(self) -> None:
        self.cuts += 1
        super().on_cut()


@dataclass
class Notebook:
    """One client over one link, and another that reaches the agent directly."""

    link: Link
    client: RecordedClient
    direct: Pool
    replies: int = 0
    _waiting: list[asyncio.Task[None]] = field(default_factory=list)

    async def send(self, code: str) -> tuple[Request, Recorder]:
        recorder = Recorder()
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "session": "notebook",
            "username": "tester",
            "date": "2026-11-20T00:00:00+00:00",
            "version": "5.3",
        }
        loop = asyncio.get_running_loop()

        def reply(question: Message, answer: str) -> None:
            coroutine = self.client.reply_to_input(question, answer, {**header, "msg_type": "input_reply"})
            asyncio.run_coroutine_threadsafe(coroutine, loop).result(DEADLINE_S)
            self.replies += 1

        request = Request(header, CLIENT_ID, recorder, reply_to_input=reply)
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": True}
        self._waiting.append(asyncio.create_task(self.client.send(request, content, {})))
        return request, recorder

    async def answer(self, request: Request) -> None:
        """Waits for the answer, on a thread as a notebook does, which is where the person is asked for input."""
        await asyncio.wait_for(asyncio.to_thread(request.wait), DEADLINE_S)
        request.outcome()

    async def run(self, code: str) -> Recorder:
        request, recorder = await self.send(code)
        await self.answer(request)
        return recorder

    async def agent_is(self, condition: Callable[[pool_pb2.SessionInfo], bool]) -> None:
        """Waits until the session meets the condition, as seen on another way."""

        async def watch() -> None:
            async with contextlib.aclosing(self.direct.watch()) as states:
                async for pool in states:
                    if any(each.id == self.client.id and condition(each) for each in pool.sessions):
                        return

        await asyncio.wait_for(watch(), DEADLINE_S)


@contextlib.asynccontextmanager
async def witness_of(notebook: Notebook) -> AsyncIterator[RecordedClient]:
    """Another client of the session, to which nothing happens."""
    witness = RecordedClient(notebook.direct, notebook.client.info, lambda: False, Recorder, None)
    try:
        await witness.connect()
        yield witness
        assert witness.cuts == 0
    finally:
        await witness.disconnect()


async def until(condition: Callable[[], Any]) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), DEADLINE_S)


@contextlib.asynccontextmanager
async def notebook_on(agent: RunningAgent) -> AsyncIterator[Notebook]:
    async with (
        link_to(agent.port) as link,
        Pool(link.target, agent.token) as pool,
        Pool(f"127.0.0.1:{agent.port}", agent.token) as direct,
    ):
        spec = pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="CPU", count=1)], text="CPU")
        async with contextlib.aclosing(direct.open_session(pool_pb2.OpenSessionRequest(spec=spec))) as updates:
            *_, ready = [update async for update in updates]
        client = RecordedClient(pool, ready.session, lambda: False, Recorder, None)
        notebook = Notebook(link, client, direct)
        try:
            await client.connect()
            yield notebook
        finally:
            await client.disconnect()
            await asyncio.gather(*notebook._waiting)
            await direct.close_session(ready.session.id)


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


async def test_a_link_that_stands_and_carries_nothing_is_mended_when_it_ends(agent: RunningAgent) -> None:
    async with notebook_on(agent) as notebook:
        request, recorder = await notebook.send("print('begins', flush=True)\nfor i in range(1000): print(i)")
        await until(lambda: recorder.text)
        notebook.link.stall()
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
