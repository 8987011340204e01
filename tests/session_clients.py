"""A Session service in the process, with real kernels, and a client of it that speaks the protocol and no more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from as_owner import AsOwner
from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.ends import RecentEnds
from nbgpu_agent.errors import NoSuchSessionError
from nbgpu_agent.kernel_launcher import KernelLauncher
from nbgpu_agent.model import Accelerator, Lease, SessionRequest
from nbgpu_agent.service.session import add_session_service
from nbgpu_agent.sessions import Session
from nbgpu_protocol.fragments import MessageAssembler, split_message
from nbgpu_protocol.v1 import session_pb2, session_pb2_grpc

DEADLINE_S = 120.0
CPU_LEASE = Lease("lease-1", (Accelerator("cpu", 0, "CPU", "CPU", 0, shared=True),), granted_unix_s=0.0)


class Sessions:
    """Stands in for the registry: sessions by their id."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.ends = RecentEnds()

    def get(self, session_id: str) -> Session:
        try:
            return self.sessions[session_id]
        except KeyError:
            raise NoSuchSessionError(f"no session {session_id!r} here") from None


@dataclass
class Service:
    target: str
    launcher: KernelLauncher
    sessions: Sessions
    blobs: BlobStore
    server: grpc.aio.Server

    async def open(
        self, session_id: str = "s1", *, lease: Lease = CPU_LEASE, journal_bytes: int = 256 << 20, **request: str
    ) -> Session:
        session = Session(
            session_id,
            SessionRequest(spec=None, **request),
            lease,
            self.launcher,
            on_change=lambda: None,
            journal_bytes=journal_bytes,
        )
        self.sessions.sessions[session_id] = session
        await session.start()
        return session


@contextlib.asynccontextmanager
async def run_service(folder: Path, *, spare_kernels: int = 0, names: Sequence[str] = ()) -> AsyncIterator[Service]:
    """Serves sessions on loopback; at the end all of them are closed."""
    launcher = KernelLauncher(
        folder / "kernels", environment_variables=names, spare_kernels=spare_kernels, default_python=sys.executable
    )
    server = grpc.aio.server(interceptors=[AsOwner()], options=[("grpc.so_reuseport", 0)])
    sessions = Sessions()
    blobs = BlobStore(folder / "blobs")
    add_session_service(server, sessions, blobs)  # type: ignore[arg-type] # get() is all that it calls
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Service(f"127.0.0.1:{port}", launcher, sessions, blobs, server)
    finally:
        for session in sessions.sessions.values():
            await session.close("the test ended")
        await launcher.close()
        await server.stop(0)


@dataclass
class Received:
    """A Jupyter message, decoded."""

    number: int
    channel: int
    header: dict[str, Any]
    parent: dict[str, Any]
    content: dict[str, Any]
    parts: list[bytes] = field(repr=False)

    @property
    def type(self) -> str:
        return str(self.header["msg_type"])


@dataclass
class Result:
    reply: dict[str, Any]
    messages: list[Received]

    def text(self, stream: str | None = None) -> str:
        return "".join(
            message.content["text"]
            for message in self.messages
            if message.type == "stream" and stream in (None, message.content["name"])
        )


class Client:
    """One connection to a session. Keeps what came: messages in `received`, everything else in `events`."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        session_id: str,
        after_number: int = 0,
        only_new: bool = False,
        observer: bool = False,
        client_id: str = "test",
    ):
        self.session_id = session_id
        self.client_id = client_id
        self.stub: Any = session_pb2_grpc.SessionStub(channel)
        self.received: list[Received] = []
        self.events: list[session_pb2.Entry] = []
        self.frames = 0
        self.last_number = 0
        self.connected: session_pb2.Connected | None = None
        self._connect = session_pb2.ConnectRequest(
            session_id=session_id, client_id=client_id, after_number=after_number, only_new=only_new, observer=observer
        )
        self._changed = asyncio.Condition()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Client:
        self.call = self.stub.Connect()
        await self.call.write(session_pb2.ClientFrame(connect=self._connect))
        first = await self.call.read()
        if first is grpc.aio.EOF:
            raise AssertionError(f"refused: {await self.call.code()} {await self.call.details()}")
        self.connected = first.connected
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *error: object) -> None:
        self.call.cancel()
        assert self._reading is not None
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await self._reading

    async def _read(self) -> None:
        assembler = MessageAssembler()
        while (frame := await self.call.read()) is not grpc.aio.EOF:
            self.frames += 1
            for entry in frame.entries.entries:
                if entry.HasField("message"):
                    message = assembler.add(entry.message)
                    if message is not None:
                        parts = [bytes(part) for part in message[0]]
                        header, parent, _, content = map(json.loads, parts[:4])
                        self.received.append(
                            Received(entry.number, entry.message.channel or 0, header, parent, content, parts)
                        )
                else:
                    self.events.append(entry)
                self.last_number = entry.number
            async with self._changed:
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()

    async def send(
        self, channel: int, message_type: str, content: dict[str, Any], *, request_id: str = "", **metadata: Any
    ) -> str:
        request_id = request_id or uuid.uuid4().hex
        header = {
            "msg_id": request_id,
            "msg_type": message_type,
            "session": "notebook",
            "username": "tester",
            "date": "2026-11-20T00:00:00+00:00",
            "version": "5.3",
            "nbgpu_request": request_id,
            "nbgpu_client": self.client_id,
        }
        parts = [json.dumps(part).encode() for part in (header, {}, metadata, content)]
        for fragment in split_message(channel, parts, request_id=request_id):  # type: ignore[arg-type]
            await self.call.write(session_pb2.ClientFrame(fragment=fragment))
        return request_id

    async def execute(
        self,
        code: str,
        *,
        count: int | None = None,
        request_id: str = "",
        timeout_s: float | None = None,
        notebook_id: str | None = None,
        **content: Any,
    ) -> str:
        """Sends an execute_request; returns its id."""
        fields = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
            **content,
        }
        found = {"execution_count": count, "timeout_s": timeout_s, "notebook_id": notebook_id}
        own = {name: value for name, value in found.items() if value is not None}
        metadata = {"nbgpu": own} if own else {}
        return await self.send(session_pb2.SHELL, "execute_request", fields, request_id=request_id, **metadata)

    def messages_of(self, request_id: str) -> list[Received]:
        return [message for message in self.received if message.parent.get("nbgpu_request") == request_id]

    async def until(self, condition: Any) -> Any:
        """Waits until the condition, called after each frame, returns something true; returns that."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(condition), DEADLINE_S)
            return condition()

    async def result(self, request_id: str) -> Result:
        """Waits until the execution is over."""

        def over() -> bool:
            messages = self.messages_of(request_id)
            idle = any(m.type == "status" and m.content["execution_state"] == "idle" for m in messages)
            return idle and any(m.type == "execute_reply" for m in messages)

        await self.until(over)
        messages = self.messages_of(request_id)
        return Result(next(m.content for m in messages if m.type == "execute_reply"), messages)

    async def run(self, code: str, **arguments: Any) -> Result:
        return await self.result(await self.execute(code, **arguments))

    async def begun(self, request_id: str) -> None:
        await self.until(lambda: any(m.type in ("execute_input", "stream") for m in self.messages_of(request_id)))

    async def event(self, kind: str) -> session_pb2.Entry:
        """Waits for an entry that is no message, the first of its kind, and takes it."""

        def find() -> session_pb2.Entry | None:
            return next((event for event in self.events if event.WhichOneof("body") == kind), None)

        found = await self.until(find)
        self.events.remove(found)
        return found

    async def ended(self) -> session_pb2.KernelEvent:
        """Waits for the end of the kernel."""
        while (event := (await self.event("kernel_event")).kernel_event).kind != session_pb2.KernelEvent.ENDED:
            pass
        return event

    async def interrupt(self, request_id: str = "", *, escalate: bool = False) -> bool:
        request = session_pb2.InterruptRequest(session_id=self.session_id, request_id=request_id, escalate=escalate)
        return bool((await self.stub.Interrupt(request, timeout=DEADLINE_S)).delivered)

    async def restart(self) -> Any:
        return await self.stub.Restart(session_pb2.RestartRequest(session_id=self.session_id), timeout=DEADLINE_S)


@contextlib.asynccontextmanager
async def connect(service: Service, session_id: str = "s1", **arguments: Any) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(service.target) as channel, Client(channel, session_id, **arguments) as client:
        yield client
