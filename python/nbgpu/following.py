"""Follows an execution that another process asked for, or this one before it was cut off, to its end."""

from __future__ import annotations

import getpass
import json
import queue
import sys
import uuid
from collections.abc import Iterator

from IPython.core.error import StdinNotImplementedError

from nbgpu import errors
from nbgpu.client.background import background
from nbgpu.client.connection import Message, SessionConnection
from nbgpu.client.journal import Said
from nbgpu.notebook import current_request
from nbgpu.output_area import elsewhere
from nbgpu.replay import Output, Replay
from nbgpu.session_client import SessionClient
from nbgpu_protocol.fragments import Buffer
from nbgpu_protocol.v1 import pool_pb2, session_pb2

# Waiting on a queue without a timeout cannot be interrupted on Windows.
_WAIT_S = 0.1 if sys.platform == "win32" else None


class Following:
    """What is said of an execution from a number on. Told on the background loop, and read by the cell's thread.

    Args:
        execution: Which.
        replay: What is known of it until then; completed with what comes.
    """

    def __init__(self, execution: pool_pb2.Execution, replay: Replay) -> None:
        self._execution = execution
        self._replay = replay
        self._events: queue.SimpleQueue[Said | None] = queue.SimpleQueue()
        self._end: errors.Error | None = None
        self._connection: SessionConnection | None = None

    async def begin(self, client: SessionClient, after_number: int) -> None:
        """Has what was said after the number told.

        Raises:
            NoSuchSessionError: The session is closed.
            AgentUnreachableError: The agent does not answer.
        """
        self._connection = client.connection_after(after_number, self)
        await self._connection.open()

    async def close(self) -> None:
        """Leaves the execution alone. Idempotent."""
        if self._connection is not None:
            await self._connection.close()

    def outputs(self) -> Iterator[Output]:
        """Yields what is to be shown, as it comes, until the execution is over; asks the person what it asks.

        Raises:
            SessionClosedError: The session was closed.
            KernelDiedError: The execution was refused, as its kernel had ended.
            AgentUnreachableError: The connection was cut, for too long.
        """
        if self._replay.question is not None and self._connection is not None:
            self._ask(self._replay.question)
        while not self._replay.is_over:
            try:
                event = self._events.get(timeout=_WAIT_S)
            except queue.Empty:
                continue
            if event is None:
                break
            if isinstance(event, session_pb2.Gap):
                _tell("the agent dropped what the cell said next before it could be fetched")
            yield from map(elsewhere, self._replay.take(event))
            if isinstance(event, Message) and event.channel == session_pb2.STDIN:
                self._ask(event)
        if self._end is not None and not self._replay.is_over:
            raise self._end

    def _ask(self, question: Message) -> None:
        content = question.content()
        try:
            answer = (getpass.getpass if content.get("password") else input)(content.get("prompt", ""))
        except EOFError:
            answer = "\x04"  # what a kernel takes for the end of the input
        except StdinNotImplementedError:
            _tell(f"the cell waits for an answer to {content.get('prompt', '')!r}, and this front end takes none")
            return
        assert self._connection is not None
        header = {**current_request()["header"], "msg_type": "input_reply"}
        parts: list[Buffer] = [
            json.dumps(part, default=str).encode() for part in (header, question.header, {}, {"value": answer})
        ]
        background().submit(self._connection.request(session_pb2.STDIN, parts, uuid.uuid4().hex))

    # What the connection tells

    def on_message(self, message: Message) -> None:
        if self._replay.concerns(message):
            self._events.put(message)

    def on_kernel_event(self, event: session_pb2.KernelEvent) -> None:
        self._events.put(event)

    def on_refused(self, request_id: str, error: errors.Error) -> None:
        if request_id == self._execution.request_id:
            self.on_end(error)

    def on_timed_out(self, event: session_pb2.CellTimedOut) -> None:
        self._events.put(event)

    def on_dropped(self, first: int, last: int) -> None:
        self._events.put(session_pb2.Gap(until_number=last))

    def on_choice(self, notebook_id: str, session_id: str) -> None:
        """It is the session's own stream that tells of it."""

    def on_notice(self, text: str) -> None:
        """As above."""

    def on_cut(self) -> None:
        _tell("the connection to the agent was cut, reconnecting; the cell goes on there, and its output follows")

    def on_mended(self) -> None:
        _tell("connected to the agent again")

    def on_end(self, error: errors.Error) -> None:
        self._end = error
        self._events.put(None)


def _tell(text: str) -> None:
    print(f"nbgpu: {text}", file=sys.stderr, flush=True)
