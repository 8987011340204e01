"""Keeps the message stream of one session alive: numbers, resumption after a cut, requests repeated until answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import grpc.aio

from nbgpu import errors
from nbgpu.client.pool import Pool
from nbgpu_protocol.fragments import Buffer, MessageAssembler, split_message
from nbgpu_protocol.v1 import pool_pb2, session_pb2

GIVE_UP_AFTER_S = 600.0
"""How long a cut is bridged before what waits for an answer fails: as long as sessions wait for their agent."""
_BACKOFF_S = (0.0, 0.1, 0.3, 1.0, 2.0)
"""Before another stream where the agent is connected to, and ends them."""
_LOOK_FOR_AGENT_S = 1.0
"""While the link is gone, how often it is asked whether the agent is."""
_ACKNOWLEDGE_EVERY = 64


@dataclass(frozen=True)
class Message:
    """A Jupyter message from a session's kernel. Metadata, content and buffers are as they came, undecoded."""

    channel: int
    header: dict[str, Any]
    parent_header: dict[str, Any]
    raw_metadata: memoryview
    raw_content: memoryview
    buffers: Sequence[memoryview] = field(default=())

    @property
    def type(self) -> str:
        return str(self.header["msg_type"])

    def content(self) -> dict[str, Any]:
        """Decodes the content."""
        return dict(json.loads(bytes(self.raw_content)))

    def metadata(self) -> dict[str, Any]:
        """Decodes the metadata."""
        return dict(json.loads(bytes(self.raw_metadata)))


def message_of(channel: int, parts: Sequence[memoryview]) -> Message:
    """Returns the message of a channel that has these parts: header, parent header, metadata, content, buffers."""
    return Message(channel, json.loads(bytes(parts[0])), json.loads(bytes(parts[1])), parts[2], parts[3], parts[4:])


class Listener(Protocol):
    """What a connection tells, on the background loop, in the order of the session's numbers."""

    def on_message(self, message: Message) -> None: ...

    def on_kernel_event(self, event: session_pb2.KernelEvent) -> None: ...

    def on_refused(self, request_id: str, error: errors.Error) -> None: ...

    def on_timed_out(self, event: session_pb2.CellTimedOut) -> None:
        """A request has run for as long as it may, and is interrupted now."""

    def on_dropped(self, first: int, last: int) -> None: ...

    def on_choice(self, notebook_id: str, session_id: str) -> None:
        """The notebook uses another session of this pool from now on; none, if its id is empty."""

    def on_notice(self, text: str) -> None:
        """The agent says something to the person."""

    def on_cut(self) -> None:
        """The link is gone; the connection tries to mend it."""

    def on_mended(self) -> None:
        """The link is there again; what was missed follows."""

    def on_end(self, error: errors.Error) -> None:
        """Nothing more will come: the session is closed, or its agent is gone."""


class SessionConnection:
    """The stream of one session, on the background loop.

    Args:
        pool: Whose agent has the session.
        session_id: The session.
        client_id: Of this process, for the agent's log.
        listener: Told what comes.
        is_agent_gone: Whether the agent's process is known to have ended, so that waiting for it is vain.
        revive: Starts an agent in the place of one that is gone, which takes over its sessions; None where that is not
            for this process to do.
        after_number: What the session said up to this number is not wanted; None: what it says from now on is.
    """

    def __init__(
        self,
        pool: Pool,
        session_id: str,
        client_id: str,
        listener: Listener,
        is_agent_gone: Callable[[], bool],
        revive: Callable[[], Awaitable[object]] | None = None,
        after_number: int | None = None,
    ) -> None:
        self._pool = pool
        self._session_id = session_id
        self._client_id = client_id
        self._listener = listener
        self._is_agent_gone = is_agent_gone
        self._revive = revive
        self._call: grpc.aio.StreamStreamCall[session_pb2.ClientFrame, session_pb2.AgentFrame] | None = None
        self._writing = asyncio.Lock()
        self._unanswered: dict[str, tuple[session_pb2.Channel, Sequence[Buffer]]] = {}
        self._only_new = after_number is None
        self._last_number = after_number or 0
        self._acknowledged = self._last_number
        self._acknowledging: asyncio.Task[None] | None = None
        self._assembler = MessageAssembler()
        self._connected: asyncio.Future[pool_pb2.SessionInfo] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> pool_pb2.SessionInfo:
        """Connects; what the session said earlier is not replayed unless it is wanted. Returns the session as it is.

        Raises:
            NoSuchSessionError: It is closed.
            AgentUnreachableError: The agent does not answer.
        """
        self._task = asyncio.get_running_loop().create_task(self._keep_connected())
        try:
            return await asyncio.shield(self._connected)
        except asyncio.CancelledError:  # of a person who does not want to wait
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the stream; the session goes on. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def request(self, channel: session_pb2.Channel, parts: Sequence[Buffer], request_id: str) -> None:
        """Sends a request; it is sent again after a cut until `answered` is called, and runs once all the same."""
        self._unanswered[request_id] = (channel, parts)
        await self._write_message(channel, parts, request_id)

    def answered(self, request_id: str) -> None:
        """Ends the repetition of a request."""
        self._unanswered.pop(request_id, None)

    async def _write_message(self, channel: session_pb2.Channel, parts: Sequence[Buffer], request_id: str) -> None:
        async with self._writing:
            if self._call is None:
                self._pool.hurry()
                return  # between two streams: a request is sent when the next one stands
            # A broken stream is the reader's to mend; it repeats the request then.
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                await self._write_fragments(self._call, channel, parts, request_id)

    @staticmethod
    async def _write_fragments(
        call: grpc.aio.StreamStreamCall[session_pb2.ClientFrame, session_pb2.AgentFrame],
        channel: session_pb2.Channel,
        parts: Sequence[Buffer],
        request_id: str,
    ) -> None:
        frame = session_pb2.ClientFrame()

        def new_fragment() -> session_pb2.Fragment:
            frame.Clear()
            return frame.fragment

        for _ in split_message(channel, parts, request_id=request_id, new_fragment=new_fragment):
            await call.write(frame)

    async def _keep_connected(self) -> None:
        """Reads one stream after another until the session has ended or its agent is lost."""
        cut_at: float | None = None
        attempt = 0
        while True:
            try:
                async for frame in self._read_stream():
                    if cut_at is not None:
                        cut_at, attempt = None, 0
                        self._listener.on_mended()
                    self._take(frame)
                failure: errors.Error = errors.AgentUnreachableError("the agent ended the session's stream")
            except grpc.RpcError as error:
                failure = errors.from_rpc_error(error)
            except grpc.aio.UsageError:  # the pool was closed
                failure = errors.AgentUnreachableError("the connection to the agent is closed")
            except errors.SessionClosedError as error:
                self._end(error)
                return
            except Exception as error:  # noqa: BLE001 - unread, what waits for an answer would wait for ever
                self._end(errors.AgentFaultError(f"the session's stream cannot be read: {error!r}"))
                return
            now = time.monotonic()
            if cut_at is None:
                cut_at = now
                if self._connected.done():
                    self._listener.on_cut()
            bridged = isinstance(failure, errors.AgentUnreachableError) and self._connected.done()
            if not bridged or not await self._mend(cut_at + GIVE_UP_AFTER_S):
                self._end(failure)
                return
            await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
            attempt += 1

    async def _mend(self, until_s: float) -> bool:
        """Waits until the agent is connected to again; returns whether it is."""
        mending = asyncio.get_running_loop().create_task(self._pool.mend())
        try:
            while not mending.done():
                left_s = until_s - time.monotonic()
                if left_s <= 0 or await self._is_lost():
                    return False
                await asyncio.wait({mending}, timeout=min(_LOOK_FOR_AGENT_S, left_s))
            return mending.exception() is None
        finally:
            mending.cancel()
            await asyncio.wait({mending})

    async def _is_lost(self) -> bool:
        """Returns whether there will be no agent to connect to; starts one where the last one is gone."""
        if not self._is_agent_gone():
            return False
        if self._revive is None or not self._connected.done():
            return True
        try:
            await self._revive()
        except errors.Error:
            return True
        return False

    def _end(self, error: errors.Error) -> None:
        if self._connected.done():
            self._listener.on_end(error)
        else:
            self._connected.set_exception(error)

    async def _read_stream(self) -> Any:
        call = self._pool.session.Connect(metadata=self._pool.metadata)
        connect = session_pb2.ConnectRequest(
            session_id=self._session_id,
            client_id=self._client_id,
            after_number=self._last_number,
            only_new=self._only_new and not self._connected.done(),
        )
        try:
            await call.write(session_pb2.ClientFrame(connect=connect))
            self._assembler = MessageAssembler()
            async with self._writing:
                for request_id, (channel, parts) in list(self._unanswered.items()):
                    await self._write_fragments(call, channel, parts, request_id)
                self._call = call
            async for frame in call:
                yield frame
        except asyncio.InvalidStateError:
            # Writing to a stream that has failed: its status says why.
            raise grpc.aio.AioRpcError(
                await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
            ) from None
        finally:
            self._call = None
            call.cancel()

    def _take(self, frame: session_pb2.AgentFrame) -> None:
        if frame.WhichOneof("body") == "connected":
            self._take_connected(frame.connected)
            return
        for entry in frame.entries.entries:
            self._take_entry(entry)
        is_idle = self._acknowledging is None or self._acknowledging.done()
        if is_idle and self._last_number - self._acknowledged >= _ACKNOWLEDGE_EVERY:
            self._acknowledged = self._last_number
            self._acknowledging = asyncio.get_running_loop().create_task(self._acknowledge(self._last_number))

    async def _acknowledge(self, number: int) -> None:
        async with self._writing:
            if self._call is not None:
                with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                    await self._call.write(session_pb2.ClientFrame(acknowledged=number))

    def _take_connected(self, connected: session_pb2.Connected) -> None:
        if not self._connected.done():
            if self._only_new:
                self._last_number = connected.last_number
            self._connected.set_result(connected.session)
        if connected.dropped_until > self._last_number:
            self._listener.on_dropped(self._last_number + 1, connected.dropped_until)
            self._last_number = connected.dropped_until

    def _take_entry(self, entry: session_pb2.Entry) -> None:
        kind = entry.WhichOneof("body")
        if kind == "message":
            done = self._assembler.add(entry.message)
            if done is None:
                return
            self._last_number = entry.number
            parts, _ = done
            self._listener.on_message(message_of(entry.message.channel, parts))
            return
        if kind == "gap":
            self._listener.on_dropped(self._last_number + 1, entry.gap.until_number)
            self._last_number = entry.gap.until_number
            return
        self._last_number = entry.number
        if kind == "kernel_event":
            self._listener.on_kernel_event(entry.kernel_event)
        elif kind == "choice":
            self._listener.on_choice(entry.choice.notebook_id, entry.choice.session_id)
        elif kind == "notice":
            self._listener.on_notice(entry.notice.text)
        elif kind == "cell_timed_out":
            self._listener.on_timed_out(entry.cell_timed_out)
        elif kind == "request_refused":
            self._listener.on_refused(
                entry.request_refused.request_id, errors.from_message(entry.request_refused.error)
            )
        elif kind == "session_closed":
            raise errors.SessionClosedError(f"the session was closed: {entry.session_closed.reason}")
