"""Shows the output of other executions below the cell that runs now, whatever they display, clear and update."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone

from nbgpu.client.connection import Message
from nbgpu.notebook import current_request
from nbgpu.output import Publisher, choose_publisher
from nbgpu.replay import Output, text_output
from nbgpu_protocol.v1 import session_pb2

BURST_BYTES = 2_000_000
BYTES_PER_S = 800_000
"""Jupyter servers drop streams above 1 MB/s, on average of 3 s."""
_PIECE_CHARACTERS = 1 << 16


class Stage:
    """Where outputs are shown. For the thread that runs the cell.

    Args:
        publisher: None: what leads to where a `print` would.
        sleep: Waits for so many seconds.
        clock: In seconds.
    """

    def __init__(
        self,
        publisher: Publisher | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publisher = publisher or choose_publisher()
        self._parent_header = current_request()["header"]
        self._sleep = sleep
        self._clock = clock
        self._full_at_s = clock() - BURST_BYTES / BYTES_PER_S
        self._above: list[Output] = []
        self._stays = True
        self._clears_next = False

    def say(self, text: str) -> None:
        """Shows a line of ours."""
        self.show(text_output("stdout", f"{text}\n"))

    def let_clear(self) -> None:
        """From now on what is shown may be cleared by what comes next; what was shown before stays."""
        self._stays = False

    def show(self, output: Output) -> None:
        """Shows an output, at the pace that a front end's server takes."""
        if output.kind == "clear_output":
            self._clears_next = True
            if not output.content.get("wait"):
                self._clear()
            return
        if self._clears_next:
            self._clear()
        if self._stays:
            self._above.append(output)
        self._publish(output)

    def _clear(self) -> None:
        """Takes away what was shown since `let_clear`, without a moment in which nothing is there."""
        self._clears_next = False
        self._publish(Output("clear_output", {"wait": self._publisher.immediate}))
        if self._publisher.immediate:  # a terminal keeps what is above
            for each in self._above:
                self._publish(each)

    def _publish(self, output: Output) -> None:
        if output.kind != "stream" or not self._publisher.immediate:
            self._send(output)
            return
        text = output.content["text"]
        for begin in range(0, len(text), _PIECE_CHARACTERS):
            piece = text[begin : begin + _PIECE_CHARACTERS]
            self._keep_pace(len(piece.encode(errors="replace")))
            self._send(Output(output.kind, {**output.content, "text": piece}))

    def _send(self, output: Output) -> None:
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": output.kind,
            "username": self._parent_header.get("username", ""),
            "date": datetime.now(timezone.utc).isoformat(),
            "version": self._parent_header.get("version", "5.3"),
        }
        content = memoryview(json.dumps(output.content).encode())
        metadata = memoryview(output.metadata)
        self._publisher.publish(
            Message(session_pb2.IOPUB, header, dict(self._parent_header), metadata, content, output.buffers)
        )

    def _keep_pace(self, size_bytes: int) -> None:
        now_s = self._clock()
        self._full_at_s = max(self._full_at_s, now_s - BURST_BYTES / BYTES_PER_S) + size_bytes / BYTES_PER_S
        if self._full_at_s > now_s:
            self._sleep(self._full_at_s - now_s)
