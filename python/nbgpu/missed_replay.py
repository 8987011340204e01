"""The output of an execution that ran without this notebook, put together from what the journal has of it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbgpu.cell_timeout import timeout_error
from nbgpu.client.connection import Message
from nbgpu.client.executions import Said
from nbgpu.execution import VALUES_MESSAGE
from nbgpu.ranks.spmd_failure import spmd_failure
from nbgpu_kernel.ranks import spmd_replies
from nbgpu_protocol.v1 import pool_pb2, session_pb2

WIDGET_TYPE = "application/vnd.jupyter.widget-view+json"
MAX_LINES = 2000
MAX_CHARACTERS = 200_000
MAX_DISPLAYS = 50
_FIRST_LINE_CHARACTERS = 60


@dataclass(frozen=True)
class Output:
    """Something to be shown: a message's type, content and buffers."""

    kind: str
    content: dict[str, Any]
    metadata: bytes = b"{}"
    buffers: Sequence[memoryview] = ()

    @property
    def display_id(self) -> str:
        return str((self.content.get("transient") or {}).get("display_id") or "")


@dataclass(frozen=True)
class Excerpt:
    """What is shown of much output."""

    outputs: Sequence[Output]
    left_out_lines: int = 0
    """Of streams, before the first that is shown."""
    left_out_displays: int = 0


@dataclass
class Replay:
    """What is known of one execution's output. Takes what was said in its order; what was cleared is gone."""

    code: str = ""
    """As it was sent to the kernel; empty: not known."""
    reply: Mapping[str, Any] | None = None
    bound: tuple[str, ...] = ()
    """Names of what it bound, or changed, that the notebook knows or may take."""
    kernel_exit: pool_pb2.KernelExit | None = None
    """How its kernel ended, if it ended under it."""
    question: Message | None = None
    """What it asked the person, if it has said nothing since."""
    is_cut: bool = False
    """Whether the journal no longer has its beginning."""
    _outputs: list[Output] = field(default_factory=list)
    _timed_out: session_pb2.CellTimedOut | None = None
    _has_error: bool = False
    _held_error: Output | None = None
    _is_idle: bool = False
    _clears_next: bool = False

    @property
    def is_over(self) -> bool:
        return self.kernel_exit is not None or (self.reply is not None and self._is_idle)

    @property
    def timeout_s(self) -> float | None:
        """The time after which it was interrupted; None: it was not for that."""
        return self._timed_out.timeout_s if self._timed_out is not None else None

    @property
    def error_name(self) -> str:
        """Of what it raised; empty: nothing, as far as is known."""
        reply = self.reply or {}
        return str(reply.get("ename", "Error")) if reply.get("status") == "error" else ""

    def take(self, said: Said) -> Iterator[Output]:
        """Takes what the journal has next; yields what is to be shown of it, where output is shown as it comes."""
        if isinstance(said, Message):
            yield from self._take_message(said)
        elif isinstance(said, session_pb2.CellTimedOut):
            self._timed_out = said
        elif isinstance(said, session_pb2.Gap):
            self.is_cut = True
        elif said.kind == session_pb2.KernelEvent.ENDED:
            self.kernel_exit = said.exit
            yield from self._release_error()

    def _take_message(self, message: Message) -> Iterator[Output]:
        kind = message.type
        if kind != "status":
            self.question = message if kind == "input_request" else None
        if kind == "status":
            self._is_idle = self._is_idle or message.content()["execution_state"] == "idle"
        elif kind == "execute_input":
            self.code = str(message.content().get("code", ""))
        elif kind == "execute_reply":
            self.reply = message.content()
            if spmd_replies.FIELD in self.reply or (self._timed_out is not None and self.error_name):
                self._held_error = None  # of which `failure` says more
            yield from self._release_error()
        elif kind == VALUES_MESSAGE:
            self.bound = names_in(message.content())
        elif kind == "error":
            yield from self._release_error()
            self._has_error = True
            self._held_error = Output("stream", {"name": "stderr", "text": _traceback(message.content()["traceback"])})
        elif kind == "clear_output":
            yield from self._release_error()
            output = Output(kind, message.content())
            self._clears_next = bool(output.content.get("wait"))
            if not self._clears_next:
                self._outputs.clear()
            yield output
        elif kind in ("stream", "display_data", "update_display_data", "execute_result"):
            yield from self._release_error()
            yield self._take(_output_of(message))

    def _release_error(self) -> Iterator[Output]:
        """Yields an error that is the cell's last word, or turned out not to be."""
        held, self._held_error = self._held_error, None
        if held is not None:
            yield self._take(held)

    def failure(self) -> Output | None:
        """Returns what is to be shown of its failure beside its output, once it is over."""
        reply = self.reply or {}
        error: BaseException | None = None
        if self._timed_out is not None and (reply.get("status") == "error" or self.kernel_exit is not None):
            frames = [str(frame) for frame in reply.get("traceback", [])]
            error = timeout_error(self._timed_out, frames=frames, kernel_ended=self.kernel_exit is not None)
        elif spmd_replies.FIELD in reply:
            error = spmd_failure(reply[spmd_replies.FIELD])
        elif reply.get("status") == "error" and not self._has_error and self._is_unsaid(reply):
            return Output("stream", {"name": "stderr", "text": _traceback(reply.get("traceback", []))})
        if error is None:
            return None
        render = getattr(error, "_render_traceback_", None)
        lines = render() if render is not None else [f"{type(error).__name__}: {error}"]
        return Output("stream", {"name": "stderr", "text": _traceback(lines)})

    def _is_unsaid(self, reply: Mapping[str, Any]) -> bool:
        """Says whether the reply has an error that IPython did not write to standard error itself."""
        return bool(reply.get("traceback")) and not any(each.content.get("name") == "stderr" for each in self._outputs)

    def outputs(self) -> list[Output]:
        """Returns all of its output as it stands, neighbouring pieces of a stream as one."""
        joined: list[Output] = []
        texts: list[str] = []
        for each in self._outputs:
            last = joined[-1] if joined else None
            if each.kind == "stream" and last is not None and _stream(last) == _stream(each):
                texts.append(each.content["text"])
                continue
            _close_stream(joined, texts)
            joined.append(each)
            texts = [each.content["text"]] if each.kind == "stream" else []
        _close_stream(joined, texts)
        return joined

    def excerpt(self) -> Excerpt:
        """Returns the end of its output, if there is more than a person reads."""
        lines_left, characters_left, displays_left = MAX_LINES, MAX_CHARACTERS, MAX_DISPLAYS
        left_out_lines = left_out_displays = 0
        kept: list[Output] = []
        for each in reversed(self.outputs()):
            if each.kind != "stream":
                if displays_left:
                    kept.append(each)
                    displays_left -= 1
                else:
                    left_out_displays += 1
                continue
            text = each.content["text"]
            shown = _end_of(text, lines_left, characters_left) if not left_out_lines else ""
            left_out_lines += text.count("\n", 0, len(text) - len(shown)) or (len(shown) < len(text))
            lines_left -= shown.count("\n")
            characters_left -= len(shown)
            if shown:
                kept.append(Output(each.kind, {**each.content, "text": shown}))
        return Excerpt(kept[::-1], left_out_lines, left_out_displays)

    def _take(self, output: Output) -> Output:
        if self._clears_next:
            self._outputs.clear()
            self._clears_next = False
        if output.kind != "update_display_data":
            self._outputs.append(output)
            return output
        known = [index for index, each in enumerate(self._outputs) if each.display_id == output.display_id]
        for index in known:
            self._outputs[index] = Output("display_data", output.content, output.metadata, output.buffers)
        if not known:  # what an earlier cell displayed
            self._outputs.append(output)
        return output


def first_line(code: str) -> str:
    """Returns the first line of code that says what it is about, cut if it is long: no comment, magic or import."""
    lines = [line for line in map(str.strip, code.splitlines()) if line]
    of_code = [line for line in lines if not line.startswith(("#", "%"))]
    telling = [line for line in of_code if not line.startswith(("import ", "from "))]
    found = next(iter(telling or of_code or lines), "")
    return found if len(found) <= _FIRST_LINE_CHARACTERS else found[: _FIRST_LINE_CHARACTERS - 1] + "…"


def names_in(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names whose values came back with a cell, by value or as handles; modules are everywhere."""
    carried = [name for parcel in values.get("parcels", ()) for name in parcel.get("names", ())]
    return tuple(sorted({*carried, *values.get("handles", ())}))


def _output_of(message: Message) -> Output:
    kind, content = message.type, message.content()
    if kind == "execute_result":
        kind = "display_data"
        content = {"data": content["data"], "metadata": content.get("metadata", {}), "transient": {}}
    data = content.get("data", {})
    if WIDGET_TYPE in data and len(data) > 1:  # its model lives in a front end that has not seen it made
        content = {**content, "data": {name: value for name, value in data.items() if name != WIDGET_TYPE}}
    return Output(kind, content, bytes(message.raw_metadata), message.buffers)


def _stream(output: Output) -> str:
    return output.content["name"] if output.kind == "stream" else ""


def _close_stream(joined: list[Output], texts: list[str]) -> None:
    if len(texts) > 1:
        joined[-1] = Output("stream", {**joined[-1].content, "text": "".join(texts)})


def _end_of(text: str, lines: int, characters: int) -> str:
    """Returns as much of the end of a text as that, in whole lines if there are any."""
    if len(text) <= characters and text.count("\n") <= lines:
        return text
    at = len(text)
    for _ in range(lines):
        begin = text.rfind("\n", 0, max(at - 1, 0)) + 1
        if len(text) - begin > characters:
            break
        at = begin
        if not begin:
            break
    if at == len(text) and characters:  # one line without an end, such as a bar that is redrawn
        at = max(text.rfind("\r", 0, len(text) - 1) + 1, len(text) - characters)
    return text[at:]


def _traceback(pieces: Sequence[str]) -> str:
    return "".join(f"{piece}\n" for piece in pieces)


def as_message(output: Output, parent_header: Mapping[str, Any], header: Mapping[str, Any]) -> Message:
    """Returns the Jupyter message that shows an output below the cell whose header is given."""
    return Message(
        session_pb2.IOPUB,
        {**header, "msg_type": output.kind},
        dict(parent_header),
        memoryview(output.metadata),
        memoryview(json.dumps(output.content).encode()),
        output.buffers,
    )
