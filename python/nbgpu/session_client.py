"""One session as this process knows it, on the background loop: its stream, its open requests, its kernel's fate."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nbgpu import errors, words
from nbgpu.client.connection import Listener, Message, SessionConnection
from nbgpu.client.pool import Pool
from nbgpu.client.shown import ShownTeller
from nbgpu.comms import CommBridge
from nbgpu.execution import Request
from nbgpu.output import COMM_TYPES, OUTPUT_TYPES, Publisher
from nbgpu_protocol.fragments import Buffer
from nbgpu_protocol.v1 import pool_pb2, session_pb2

CLIENT_ID = uuid.uuid4().hex
"""Of this process: of what the session's kernel says, a process shows what answers its own requests."""

_REFUSED_WITHIN_S = 2.0
"""After a kernel's end."""


class SessionClient:
    """Connects the requests of this process with the session's stream.

    Args:
        pool: Whose agent has the session.
        info: The session as it was when it became ready.
        is_agent_gone: Whether the agent's process is known to have ended.
        late_publisher: Where output goes that comes when its request is over, as from a background thread.
        comms: Connects the session's comms with the notebook's front end, where there is one.
        on_choice: Called with this session, and the ids of a notebook and of the session of the same pool that it
            uses from now on; that one is empty where it uses none of them.
        revive: Starts an agent in the place of one that is gone; None where that is not for this process to do.
    """

    def __init__(
        self,
        pool: Pool,
        info: pool_pb2.SessionInfo,
        is_agent_gone: Callable[[], bool],
        late_publisher: Callable[[], Publisher],
        comms: CommBridge | None,
        on_choice: Callable[[SessionClient, str, str], None] = lambda client, notebook_id, session_id: None,
        revive: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.pool = pool
        self.info = info
        self.end: errors.Error | None = None
        """Why the session is over; None while it is open."""
        self.kernel_exit: pool_pb2.KernelExit | None = None
        """How the kernel ended; None while it lives."""
        if info.kernel_state == pool_pb2.KERNEL_DEAD:
            self.kernel_exit = info.kernel_exit
        self.kernel_generation = info.kernel_generation
        """Counts the session's kernels; variables and handles are of one of them."""
        self.notices: list[str] = []
        """What the agent said to the person, and nobody has shown yet."""
        self._requests: dict[str, Request] = {}
        self._replies: dict[str, list[str]] = {}
        """What was typed for a request, which nothing but the request's end confirms."""
        self._late_publisher = late_publisher
        self._comms = comms
        self._on_choice = on_choice
        self._is_agent_gone = is_agent_gone
        self._revive = revive
        self._told_of_cut = False
        self._connection: SessionConnection | None = None
        self._shown = ShownTeller(pool, info.id)
        self._quiet_waiters: list[asyncio.Future[None]] = []

    @property
    def id(self) -> str:
        return self.info.id

    async def connect(self) -> None:
        """Opens the stream; what comes from now on is seen."""
        self._connection = SessionConnection(self.pool, self.id, CLIENT_ID, self, self._is_agent_gone, self._revive)
        self.info = await self._connection.open()
        self.kernel_generation = self.info.kernel_generation

    def connection_after(self, number: int, listener: Listener) -> SessionConnection:
        """Returns another stream of the session, of what it said after a number; its owner opens and closes it."""
        return SessionConnection(
            self.pool, self.id, CLIENT_ID, listener, self._is_agent_gone, self._revive, after_number=number
        )

    async def disconnect(self) -> None:
        """Ends the stream; the session goes on, and what waits for an answer fails."""
        await self._shown.close()
        if self._connection is not None:
            await self._connection.close()
        self._end(errors.SessionClosedError("this notebook was detached from the session"))

    async def quiet(self) -> None:
        """Returns once no request waits for an answer."""
        while self._requests:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._quiet_waiters.append(waiter)
            await waiter

    def has(self, request_id: str) -> bool:
        """Says whether this process waits for the answer to a request, or has just shown it."""
        return request_id in self._requests or request_id in self._shown

    async def send(
        self, request: Request, content: dict[str, Any], metadata: dict[str, Any], buffers: Sequence[Buffer] = ()
    ) -> None:
        """Sends a request on the shell channel; a failure to send fails the request."""
        parts: list[Buffer] = [json.dumps(part, default=str).encode() for part in (request.header, {}, metadata)]
        await self.send_parts(request, [*parts, json.dumps(content).encode(), *buffers])

    async def send_parts(self, request: Request, parts: list[Buffer]) -> None:
        """Sends a request that is encoded already: header, parent, metadata, content, buffers."""
        if self.end is not None:
            request.fail(self.end)
            return
        assert self._connection is not None
        self._requests[request.id] = request
        await self._connection.request(session_pb2.SHELL, parts, request.id)

    async def reply_to_input(self, question: Message, answer: str, header: dict[str, Any]) -> None:
        """Sends what the person typed; it arrives once, also across a cut."""
        request_id = question.parent_header.get("nbgpu_request", "")
        if request_id not in self._requests:
            return  # it has failed while the person typed
        assert self._connection is not None
        parts: list[Buffer] = [
            json.dumps(part, default=str).encode() for part in (header, question.header, {}, {"value": answer})
        ]
        reply_id = uuid.uuid4().hex
        self._replies.setdefault(request_id, []).append(reply_id)
        await self._connection.request(session_pb2.STDIN, parts, reply_id)

    async def revive_kernel(self) -> None:
        """Starts a fresh kernel in the place of one that ended."""
        self.info = await self.pool.restart(self.id)
        self.kernel_exit = None
        self.kernel_generation = self.info.kernel_generation

    # What the connection tells

    def on_message(self, message: Message) -> None:
        request = self._requests.get(message.parent_header.get("nbgpu_request", ""))
        if message.channel == session_pb2.IOPUB and message.type in COMM_TYPES:
            if request is not None:
                request.release_error()  # which a widget that takes output may be about to stop taking
            if self._comms is not None and not self._comms.intercept(message, self):
                self._publish_late(message)
        elif request is not None:
            request.deliver(message)
            if request.is_answered:
                self._forget(request)
                self._note_shown(request)
        elif message.channel == session_pb2.IOPUB and message.type in OUTPUT_TYPES:
            self._publish_late(message)

    def on_kernel_event(self, event: session_pb2.KernelEvent) -> None:
        if event.kind == session_pb2.KernelEvent.STARTED:
            self.kernel_exit = None
            self.kernel_generation = event.kernel_generation
            return
        self.kernel_exit = event.exit
        for request in self._requests.values():
            self._note_shown(request)
        error = errors.KernelDiedError(words.exit_with_tail(event.exit))
        for request in list(self._requests.values()):
            if request.may_be_refused:  # what came to the agent after the kernel's end: its word follows
                asyncio.get_running_loop().call_later(_REFUSED_WITHIN_S, self._fail, request, error)
            else:
                self._fail(request, error)
        if self._comms is not None:
            self._comms.forget(self)

    def on_refused(self, request_id: str, error: errors.Error) -> None:
        request = self._requests.get(request_id)
        if request is not None:
            self._forget(request)
            request.refuse(error)

    def on_timed_out(self, event: session_pb2.CellTimedOut) -> None:
        request = self._requests.get(event.request_id)
        if request is not None:
            request.note_timeout(event)

    def on_dropped(self, first: int, last: int) -> None:
        _tell(words.dropped_in_words(first, last))

    def on_choice(self, notebook_id: str, session_id: str) -> None:
        self._on_choice(self, notebook_id, session_id)

    def on_notice(self, text: str) -> None:
        self.notices.append(text)

    def take_notices(self) -> None:
        """Shows what the agent said to the person while no cell ran here."""
        notices, self.notices = self.notices, []
        for text in dict.fromkeys(notices):
            _tell(text)

    def on_cut(self) -> None:
        if self._requests:
            self._told_of_cut = True
            _tell("the connection to the agent was cut, reconnecting; the cell goes on there, and its output follows")

    def on_mended(self) -> None:
        if self._told_of_cut:
            self._told_of_cut = False
            _tell("connected to the agent again")

    def on_end(self, error: errors.Error) -> None:
        if isinstance(error, errors.NoSuchSessionError):
            error = errors.SessionClosedError(f"the session is gone: {error.message()}")
        self._end(error)

    def _end(self, error: errors.Error) -> None:
        if self.end is None:
            self.end = error
            if self._comms is not None:
                self._comms.forget(self)
        self._fail_requests(error)

    def _fail_requests(self, error: errors.Error) -> None:
        for request in list(self._requests.values()):
            self._fail(request, error)

    def _fail(self, request: Request, error: errors.Error) -> None:
        if self._requests.get(request.id) is request:
            self._forget(request)
            request.fail(error)

    def _forget(self, request: Request) -> None:
        self._requests.pop(request.id, None)
        if not self._requests:
            waiters, self._quiet_waiters = self._quiet_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        assert self._connection is not None
        for each in (request.id, *self._replies.pop(request.id, ())):
            self._connection.answered(each)

    def _note_shown(self, request: Request) -> None:
        if request.header["msg_type"] == "execute_request":
            self.note_shown(request.id)

    def note_shown(self, request_id: str) -> None:
        """Has the agent know, a little later, that the person was shown an execution to its end."""
        self._shown.note(request_id)

    def _publish_late(self, message: Message) -> None:
        if message.parent_header.get("nbgpu_client") == CLIENT_ID:
            self._late_publisher().publish(message)


def _tell(text: str) -> None:
    print(f"nbgpu: {text}", file=sys.stderr, flush=True)
