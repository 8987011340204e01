"""What a `%%gpu` cell showed, as its notebook would have, from what the agent has kept of it. Opens no pickles.

It mirrors what `nbgpu.execution` and IPython do with a cell's messages in the notebook's own kernel, which is gone, or
whose words the page has missed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypedDict

from nbgpu import errors, words
from nbgpu.cell_timeout import timeout_error
from nbgpu.client.connection import Message
from nbgpu.client.recorded import Beginning, Piece, is_over
from nbgpu.execution import timed_out_by_itself
from nbgpu.output import COMM_TYPES, OUTPUT_TYPES
from nbgpu.ranks.spmd_failure import spmd_failure
from nbgpu.remote_exceptions import exception_to_raise, rendered
from nbgpu.session_client import dropped_in_words
from nbgpu_kernel.ranks import spmd_replies
from nbgpu_protocol.v1 import pool_pb2, session_pb2


class Output(TypedDict):
    """A message of the Jupyter protocol, as a front end's output area takes it."""

    msg_type: str
    content: dict[str, Any]


class Replay:
    """One execution's messages, in the order of the journal, turned into what is shown.

    Args:
        execution: As its agent lists it.
        last_number: Of the newest entry of the journal when it was listed.
    """

    def __init__(self, execution: pool_pb2.Execution, last_number: int) -> None:
        self._execution = execution
        self._reply: dict[str, Any] | None = None
        self._is_idle = False
        self._held_error: dict[str, Any] | None = None
        self._timed_out: session_pb2.CellTimedOut | None = None
        # of one that waits for others nothing has come yet
        self._number = execution.first_number - 1 if execution.first_number else last_number
        self._known_until = 0
        self.is_over = False
        """Nothing more comes."""
        self.is_caught_up = False
        """What comes is new."""
        self.dropped = 0
        """How many messages of the session from its time are not there any more."""

    @property
    def after_number(self) -> int:
        """Where to begin to read."""
        return self._number

    def take(self, piece: Piece) -> list[Output]:
        """Returns what is shown of a piece of what `nbgpu.client.recorded.follow` yields."""
        shown: list[Output] = []
        for each in piece:
            if self.is_over:
                break
            if isinstance(each, Beginning):
                self._known_until = each.last_number
                shown += _shown_before(self._execution.shown_before)
                shown += self._skip(each.dropped_until)
            elif isinstance(each, session_pb2.Gap):
                shown += self._skip(each.until_number)
            else:
                self._number = max(self._number, each.number)
                shown += self._take_entry(each.body)
        self.is_caught_up = self.is_caught_up or self.is_over or self._number >= self._known_until
        if self.is_caught_up and not self.is_over and is_over(self._execution):
            shown += self._raise(errors.KernelDiedError("the end of the cell's output is not there any more"))
        return shown

    def _skip(self, until_number: int) -> list[Output]:
        if until_number <= self._number:
            return []
        first, self._number = self._number + 1, until_number
        self.dropped += until_number - first + 1
        return [_stream("stderr", f"nbgpu: {dropped_in_words(first, until_number)}\n")]

    def _take_entry(self, body: Message | session_pb2.Entry) -> list[Output]:
        if isinstance(body, Message):
            return self._take_message(body)
        kind = body.WhichOneof("body")
        if kind == "cell_timed_out" and body.cell_timed_out.request_id == self._execution.request_id:
            self._timed_out = body.cell_timed_out
        elif kind == "request_refused" and body.request_refused.request_id == self._execution.request_id:
            return self._raise(errors.from_message(body.request_refused.error))
        elif kind == "session_closed":
            return self._raise(errors.SessionClosedError(f"the session was closed: {body.session_closed.reason}"))
        elif kind == "kernel_event" and body.kernel_event.kind == session_pb2.KernelEvent.ENDED:
            if self._timed_out is not None:
                return self._raise(timeout_error(self._timed_out, kernel_ended=True))
            return self._raise(errors.KernelDiedError(words.exit_with_tail(body.kernel_event.exit)))
        return []

    def _take_message(self, message: Message) -> list[Output]:
        parent = message.parent_header
        if parent.get("msg_id") != self._execution.message_id:
            return []
        if parent.get("nbgpu_request", self._execution.request_id) != self._execution.request_id:
            return []
        shown: list[Output] = []
        kind = message.type
        if message.channel == session_pb2.IOPUB:
            if kind == "status":
                self._is_idle = self._is_idle or message.content()["execution_state"] == "idle"
            elif kind in OUTPUT_TYPES or kind in COMM_TYPES:
                shown += self._release_error()
                if kind == "error":
                    self._held_error = message.content()
                elif kind in OUTPUT_TYPES:
                    shown.append(Output(msg_type=kind, content=message.content()))
        elif message.channel == session_pb2.SHELL and kind.endswith("_reply"):
            self._reply = message.content()
        if self._is_idle and self._reply is not None:
            shown += self._answer(self._reply)
        return shown

    def _answer(self, reply: dict[str, Any]) -> list[Output]:
        """Returns what the reply adds: what the cell raised, or pages of help."""
        if reply.get("status") == "ok":
            self.is_over = True
            shown = self._release_error()
            if self._timed_out is not None:
                shown.append(_stream("stderr", f"nbgpu: {timed_out_by_itself(self._timed_out)}\n"))
            pages = [each for each in reply.get("payload", []) if each.get("source") == "page"]
            return shown + [_display(each.get("data", {})) for each in pages[:1]]
        frames = [str(frame) for frame in reply.get("traceback", [])]
        if reply.get("status") == "error" and self._timed_out is not None:
            return self._raise(timeout_error(self._timed_out, frames=frames))
        if spmd_replies.FIELD in reply:
            return self._raise(spmd_failure(_without_pickles(reply[spmd_replies.FIELD])))
        if reply.get("status") == "error":
            told = [] if self._held_error is None else frames
            ename, evalue = str(reply.get("ename", "Error")), str(reply.get("evalue", ""))
            return self._raise(exception_to_raise(None, ename, evalue, told))
        return self._raise(errors.KernelDiedError("the session's kernel dropped the cell before running it"))

    def _release_error(self) -> list[Output]:
        """Returns an error that was not the cell's last word."""
        held, self._held_error = self._held_error, None
        return [Output(msg_type="error", content=held)] if held is not None else []

    def _raise(self, error: BaseException) -> list[Output]:
        """Returns the error as IPython shows it in a notebook; nothing, if it is told already."""
        self.is_over = True
        frames = rendered(error)
        if not frames:
            return []
        content = {"ename": type(error).__name__, "evalue": str(error), "traceback": frames}
        return [Output(msg_type="error", content=content)]


def joined(outputs: list[Output]) -> list[Output]:
    """Returns the same with text to the same stream in one message, as long as nothing is between."""
    found: list[Output] = []
    for each in outputs:
        last = found[-1] if found else None
        if (
            last is not None
            and last["msg_type"] == each["msg_type"] == "stream"
            and last["content"]["name"] == each["content"]["name"]
        ):
            found[-1] = _stream(last["content"]["name"], last["content"]["text"] + each["content"]["text"])
        else:
            found.append(each)
    return found


def _without_pickles(answer: Mapping[str, Any]) -> dict[str, Any]:
    failures = [{**each, "exception": None} for each in answer.get("failures", [])]
    return {**answer, "failures": failures}


def _shown_before(text: str) -> list[Output]:
    try:
        outputs = json.loads(text) if text else []
    except ValueError:
        return []
    shown = []
    for each in outputs if isinstance(outputs, list) else []:
        if each.get("output_type") == "stream":
            shown.append(_stream("stderr", str(each.get("text", ""))))
        elif each.get("output_type") == "display_data":
            shown.append(_display(dict(each.get("data", {}))))
    return shown


def _stream(name: str, text: str) -> Output:
    return Output(msg_type="stream", content={"name": name, "text": text})


def _display(data: dict[str, Any]) -> Output:
    return Output(msg_type="display_data", content={"data": data, "metadata": {}})
