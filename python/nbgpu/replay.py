"""What a `%%gpu` cell showed, as its notebook would have, from what its session's journal has of it. Opens no pickles.

It mirrors what `nbgpu.execution` and IPython do with a cell's messages in the notebook's own kernel, which is gone, or
whose words the page has missed. A page shows it below the cell itself: `nbgpu.server.page_replay`. A kernel and a
terminal show it elsewhere: `nbgpu.output_area`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbgpu import errors, words
from nbgpu.cell_timeout import timeout_error
from nbgpu.client.connection import Message
from nbgpu.client.journal import Said
from nbgpu.execution import VALUES_MESSAGE, timed_out_by_itself
from nbgpu.output import COMM_TYPES, OUTPUT_TYPES
from nbgpu.ranks.spmd_failure import spmd_failure
from nbgpu.remote_exceptions import exception_to_raise, rendered
from nbgpu_kernel.ranks import spmd_replies
from nbgpu_protocol.v1 import pool_pb2, session_pb2


@dataclass(frozen=True)
class Output:
    """Something to be shown: a message's type, content, metadata and buffers."""

    kind: str
    content: dict[str, Any]
    metadata: bytes = b"{}"
    buffers: Sequence[memoryview] = ()

    @property
    def display_id(self) -> str:
        return str((self.content.get("transient") or {}).get("display_id") or "")


class Replay:
    """What is known of one execution. Takes what the journal says, in its order.

    Args:
        execution: Of which request; what other requests were answered is passed over.
    """

    def __init__(self, execution: pool_pb2.Execution) -> None:
        self._request_id = execution.request_id
        self._message_id = execution.message_id
        self.code = ""
        """As it was sent to the kernel; empty: not known."""
        self.reply: Mapping[str, Any] | None = None
        self.bound: tuple[str, ...] = ()
        """Names of what it bound, or changed, that the notebook knows or may take."""
        self.kernel_exit: pool_pb2.KernelExit | None = None
        """How its kernel ended, if it ended under it."""
        self.question: Message | None = None
        """What it asked the person, if it has said nothing since."""
        self.is_cut = False
        """Whether the journal has lost something of its time."""
        self.is_over = False
        """Nothing more comes."""
        self._timed_out: session_pb2.CellTimedOut | None = None
        self._held_error: Output | None = None
        self._has_error_stream = False
        self._is_idle = False

    @property
    def timeout_s(self) -> float | None:
        """The time after which it was interrupted; None: it was not for that."""
        return self._timed_out.timeout_s if self._timed_out is not None else None

    @property
    def error_name(self) -> str:
        """Of what it raised; empty: nothing, as far as is known."""
        reply = self.reply or {}
        return str(reply.get("ename", "Error")) if reply.get("status") == "error" else ""

    def concerns(self, message: Message) -> bool:
        """Says whether a message answers this execution. From any thread."""
        parent = message.parent_header
        request_id = parent.get("nbgpu_request") or self._request_id
        return bool(parent.get("msg_id") == self._message_id and request_id == self._request_id)

    def take(self, said: Said) -> list[Output]:
        """Takes what the journal says next, and returns what is shown of it; in the end, why the execution failed."""
        if self.is_over:
            return []
        if isinstance(said, Message):
            return self._take_message(said) if self.concerns(said) else []
        if isinstance(said, session_pb2.CellTimedOut):
            if said.request_id == self._request_id:
                self._timed_out = said
        elif isinstance(said, session_pb2.RequestRefused):
            if said.request_id == self._request_id:
                return self.fail(errors.from_message(said.error))
        elif isinstance(said, session_pb2.SessionClosed):
            return self.fail(errors.SessionClosedError(f"the session was closed: {said.reason}"))
        elif isinstance(said, session_pb2.Gap):
            self.is_cut = True
        elif said.kind == session_pb2.KernelEvent.ENDED:
            self.kernel_exit = said.exit
            held = self._release_error()
            if self._timed_out is not None:
                return held + self.fail(timeout_error(self._timed_out, kernel_ended=True))
            return held + self.fail(errors.KernelDiedError(words.exit_with_tail(said.exit)))
        return []

    def fail(self, error: BaseException) -> list[Output]:
        """Ends it; returns the error as IPython shows it in a notebook, or nothing if the person has read of it."""
        self.is_over = True
        frames = rendered(error)
        content = {"ename": type(error).__name__, "evalue": str(error), "traceback": frames}
        return [Output("error", content)] if frames else []

    def _take_message(self, message: Message) -> list[Output]:
        shown: list[Output] = []
        kind = message.type
        if kind != "status":
            self.question = message if kind == "input_request" else None
        if message.channel == session_pb2.SHELL and kind.endswith("_reply"):
            self.reply = message.content()
        elif kind == "status":
            self._is_idle = self._is_idle or message.content()["execution_state"] == "idle"
        elif kind == "execute_input":
            self.code = str(message.content().get("code", ""))
        elif kind == VALUES_MESSAGE:
            self.bound = names_in(message.content())
        elif kind in OUTPUT_TYPES or kind in COMM_TYPES:
            shown += self._release_error()
            if kind == "error":
                self._held_error = Output(kind, message.content())
            elif kind in OUTPUT_TYPES:
                shown.append(Output(kind, message.content(), bytes(message.raw_metadata), message.buffers))
                self._has_error_stream = self._has_error_stream or _stream_of(shown[-1]) == "stderr"
        if self._is_idle and self.reply is not None:
            shown += self._answer(self.reply)
        return shown

    def _answer(self, reply: Mapping[str, Any]) -> list[Output]:
        """Returns what the reply adds: what the cell raised, or pages of help."""
        if reply.get("status") == "ok":
            self.is_over = True
            shown = self._release_error()
            if self._timed_out is not None:
                shown.append(text_output("stderr", f"nbgpu: {timed_out_by_itself(self._timed_out)}\n"))
            pages = [each for each in reply.get("payload", []) if each.get("source") == "page"]
            return shown + [display_output(each.get("data", {})) for each in pages[:1]]
        frames = [str(frame) for frame in reply.get("traceback", [])]
        if reply.get("status") == "error" and self._timed_out is not None:
            # of a cell on ranks rank 0's traceback is not all
            return self.fail(timeout_error(self._timed_out, frames=[] if spmd_replies.FIELD in reply else frames))
        if spmd_replies.FIELD in reply:
            return self.fail(spmd_failure(_without_pickles(reply[spmd_replies.FIELD])))
        if reply.get("status") == "error":
            # IPython writes usage errors and groups of exceptions to standard error, and sends no error then
            is_told = self._held_error is None and self._has_error_stream
            ename, evalue = str(reply.get("ename", "Error")), str(reply.get("evalue", ""))
            return self.fail(exception_to_raise(None, ename, evalue, [] if is_told else frames))
        return self.fail(errors.KernelDiedError("the session's kernel dropped the cell before running it"))

    def _release_error(self) -> list[Output]:
        """Returns an error that was not the cell's last word."""
        held, self._held_error = self._held_error, None
        return [held] if held is not None else []


def joined(outputs: Iterable[Output]) -> list[Output]:
    """Returns the same with text to the same stream in one output, as long as nothing is between."""
    found: list[Output] = []
    texts: list[str] = []
    for each in outputs:
        if found and each.kind == "stream" and _stream_of(found[-1]) == _stream_of(each):
            texts.append(each.content["text"])
            continue
        _close_stream(found, texts)
        found.append(each)
        texts = [each.content["text"]] if each.kind == "stream" else []
    _close_stream(found, texts)
    return found


def text_output(stream: str, text: str) -> Output:
    return Output("stream", {"name": stream, "text": text})


def display_output(data: Mapping[str, Any]) -> Output:
    return Output("display_data", {"data": dict(data), "metadata": {}})


def names_in(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names whose values came back with a cell, by value or as handles; modules are everywhere."""
    carried = [name for parcel in values.get("parcels", ()) for name in parcel.get("names", ())]
    return tuple(sorted({*carried, *values.get("handles", ())}))


def _close_stream(outputs: list[Output], texts: Sequence[str]) -> None:
    if len(texts) > 1:
        outputs[-1] = Output("stream", {**outputs[-1].content, "text": "".join(texts)})


def _stream_of(output: Output) -> str:
    return str(output.content["name"]) if output.kind == "stream" else ""


def _without_pickles(answer: Mapping[str, Any]) -> dict[str, Any]:
    failures = [{**each, "exception": None} for each in answer.get("failures", [])]
    return {**answer, "failures": failures}
