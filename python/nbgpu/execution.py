"""One request to a session's kernel, from its sending to its outcome, as the thread that waits for it sees it."""

from __future__ import annotations

import concurrent.futures
import getpass
import json
import queue
import sys
import uuid
from collections.abc import Callable
from typing import Any

from nbgpu import errors
from nbgpu.cell_timeout import timeout_error
from nbgpu.client.connection import Message
from nbgpu.output import OUTPUT_TYPES, PAYLOADS, Publisher, RemoteResult
from nbgpu.ranks.spmd_failure import spmd_failure
from nbgpu.remote_exceptions import rebuild_exception
from nbgpu_kernel.ranks import spmd_replies
from nbgpu_protocol.v1 import session_pb2

VALUES_MESSAGE = "nbgpu_values"
"""What the session's kernel sends of what a cell bound; it is for this process, and no front end's."""
# Waiting on a queue without a timeout cannot be interrupted on Windows.
_WAIT_S = 0.1 if sys.platform == "win32" else None


class Request:
    """A request and what comes back for it.

    Messages are delivered on the background loop. What has to happen on the waiting thread (asking for input, showing
    output that is diverted) is queued for it, and done by `wait`.

    Args:
        header: The Jupyter header to send: the notebook's own request's, so that its replies name it as their parent.
        client_id: Of this process.
        publisher: Where output goes.
        expects_reply: Whether the kernel answers with a reply beside the status "idle"; comm messages get none.
        reply_to_input: Sends what the person typed; called on the waiting thread.
    """

    def __init__(
        self,
        header: dict[str, Any],
        client_id: str,
        publisher: Publisher,
        *,
        expects_reply: bool = True,
        reply_to_input: Callable[[Message, str], None] | None = None,
    ) -> None:
        self.id = uuid.uuid4().hex
        # A subshell that the front end names, as JupyterLab does for comms, is one of the notebook's own kernel: the
        # session's would refuse the message.
        header = {name: value for name, value in header.items() if name != "subshell_id"}
        self.header = {**header, "nbgpu_request": self.id, "nbgpu_client": client_id}
        self.publisher = publisher
        self.reply: dict[str, Any] | None = None
        self.result: RemoteResult | None = None
        self.values: Message | None = None
        """The values that came back."""
        self._reply_to_input = reply_to_input
        self._held_error: Message | None = None
        self._is_idle = False
        self._expects_reply = expects_reply
        self._failure: errors.Error | None = None
        self._has_begun = False
        self.was_refused = False
        """By the agent, before it began."""
        self._timed_out: session_pb2.CellTimedOut | None = None
        self.answered: concurrent.futures.Future[None] = concurrent.futures.Future()
        """Done once the request is answered or has failed; never holds an exception."""
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    @property
    def is_answered(self) -> bool:
        return self._failure is not None or (self._is_idle and (self.reply is not None or not self._expects_reply))

    @property
    def may_be_refused(self) -> bool:
        """Whether it is an execution of which no kernel has said anything yet."""
        return not self._has_begun and self.header.get("msg_type") == "execute_request"

    def deliver(self, message: Message) -> None:
        """Takes a message whose parent is this request."""
        self._has_begun = True
        if message.channel == session_pb2.IOPUB:
            self._deliver_output(message)
        elif message.channel == session_pb2.STDIN:
            self._events.put(lambda: self._ask(message))
        elif message.type.endswith("_reply"):
            self.reply = message.content()
        if self.is_answered:
            if self.reply is not None and self.reply.get("status") != "error":
                self.release_error()
            self._end()

    def note_timeout(self, event: session_pb2.CellTimedOut) -> None:
        """Takes note that its time is over, and that it is interrupted."""
        self._timed_out = event

    def fail(self, error: errors.Error) -> None:
        """Ends the request: there will be no reply."""
        self._failure = error
        self._end()

    def refuse(self, error: errors.Error) -> None:
        """Ends the request, which did not and will not run."""
        self.was_refused = True
        self.fail(error)

    def _end(self) -> None:
        if not self.answered.done():
            self.answered.set_result(None)
        self._events.put(None)

    def wait(self) -> None:
        """Waits until the request is answered or has failed; an interrupt leaves it running.

        Raises:
            Error: It failed for a reason that is not the cell's.
        """
        while True:
            try:
                event = self._events.get(timeout=_WAIT_S)
            except queue.Empty:
                continue
            if event is None:
                break
            event()
        if self._timed_out is not None and isinstance(self._failure, errors.KernelDiedError):
            raise timeout_error(self._timed_out, kernel_ended=True) from self._failure
        if self._failure is not None:
            raise self._failure

    def outcome(self) -> RemoteResult | None:
        """Returns what the cell's last expression showed, or raises what the cell raised."""
        reply = self.reply or {}
        if reply.get("status") == "ok":
            if self._timed_out is not None:
                _tell(timed_out_by_itself(self._timed_out))
            return self.result
        if reply.get("status") == "error" and self._timed_out is not None:
            # Of a cell on ranks rank 0's traceback is not all: the stacks of all are shown.
            frames = [] if spmd_replies.FIELD in reply else reply.get("traceback", [])
            raise timeout_error(self._timed_out, frames=[str(frame) for frame in frames])
        if spmd_replies.FIELD in reply:
            raise spmd_failure(reply[spmd_replies.FIELD])
        if reply.get("status") == "error":
            raise rebuild_exception(reply, is_told=self._held_error is None)
        raise errors.KernelDiedError("the session's kernel dropped the cell before running it")

    @property
    def payloads(self) -> list[dict[str, Any]]:
        """What the reply brings for the person beside outputs."""
        return [each for each in (self.reply or {}).get("payload", []) if each.get("source") in PAYLOADS]

    def publish(self, message: Message) -> None:
        """Shows output, on the thread that the publisher needs."""
        if self.publisher.immediate or self.answered.done():
            self.publisher.publish(message)
        else:
            self._events.put(lambda: self.publisher.publish(message))

    def _deliver_output(self, message: Message) -> None:
        kind = message.type
        if kind == "status":
            self._is_idle = self._is_idle or json.loads(bytes(message.raw_content))["execution_state"] == "idle"
        elif kind == "error":
            self.release_error()
            self._held_error = message
        elif kind == "execute_result":
            self.release_error()
            content = message.content()
            self.result = RemoteResult(content["data"], content.get("metadata"))
            if self.publisher.immediate:
                self.publisher.publish(message)
        elif kind == VALUES_MESSAGE:
            self.values = message
        elif kind in OUTPUT_TYPES:
            self.release_error()
            self.publish(message)

    def release_error(self) -> None:
        """Shows an error that turned out not to be the cell's last word.

        The cell's own error is raised here instead of being shown, so that it is shown once and the cell fails. Others,
        such as one inside of an Output widget, which takes it, are output like any other.
        """
        held, self._held_error = self._held_error, None
        if held is not None:
            self.publish(held)

    def _ask(self, message: Message) -> None:
        content = message.content()
        ask = getpass.getpass if content.get("password") else input
        try:
            answer = ask(content.get("prompt", ""))
        except EOFError:
            answer = "\x04"  # what a kernel takes for the end of the input
        if self._reply_to_input is not None:
            self._reply_to_input(message, answer)


def timed_out_by_itself(event: session_pb2.CellTimedOut) -> str:
    """Returns what is said of a cell that was interrupted after its timeout, and did not fail."""
    return f"the cell ended by itself when it was interrupted after {event.timeout_s:g} s"


def _tell(text: str) -> None:
    print(f"nbgpu: {text}", file=sys.stderr, flush=True)
