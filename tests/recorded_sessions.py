"""Sessions as a notebook's process has them, with everything recorded: what came, what was shown, and every cut."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from fakes.link import Link, link_to
from nbgpu.client.connection import Message
from nbgpu.client.pool import Pool
from nbgpu.execution import Request
from nbgpu.output import RemoteResult
from nbgpu.session_client import CLIENT_ID, SessionClient
from nbgpu_protocol.v1 import pool_pb2

DEADLINE_S = 90


@dataclass(frozen=True)
class RunningAgent:
    port: int
    token: str


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
    """Counts what it is told of cuts and of messages that are no longer held, and keeps all messages."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cuts = 0
        self.mended = 0
        self.dropped = 0
        self.messages: list[tuple[Any, ...]] = []

    def on_message(self, message: Message) -> None:
        self.messages.append(raw(message))
        super().on_message(message)

    def on_cut(self) -> None:
        self.cuts += 1
        super().on_cut()

    def on_mended(self) -> None:
        self.mended += 1
        super().on_mended()

    def on_dropped(self, first: int, last: int) -> None:
        self.dropped += last - first + 1
        super().on_dropped(first, last)


@dataclass
class Notebook:
    """One client over one link, and another that reaches the agent directly."""

    link: Link
    client: RecordedClient
    direct: Pool
    replies: int = 0
    _waiting: list[asyncio.Task[None]] = field(default_factory=list)

    async def send(self, code: str, **metadata: Any) -> tuple[Request, Recorder]:
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
        self._waiting.append(
            asyncio.create_task(self.client.send(request, content, {"nbgpu": metadata} if metadata else {}))
        )
        return request, recorder

    async def answer(self, request: Request) -> None:
        """Waits for the answer, on a thread as a notebook does, which is where the person is asked for input."""
        await asyncio.wait_for(asyncio.to_thread(request.wait), DEADLINE_S)
        request.outcome()

    async def run(self, code: str, **metadata: Any) -> Recorder:
        request, recorder = await self.send(code, **metadata)
        await self.answer(request)
        return recorder

    async def agent_is(self, condition: Callable[[pool_pb2.SessionInfo], bool]) -> None:
        """Waits until the session meets the condition, as seen on another way."""

        async def watch() -> None:
            async with contextlib.aclosing(self.direct.watch()) as states:  # type: ignore[type-var,unused-ignore]
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
