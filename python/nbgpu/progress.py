"""Shows what is happening while a session is opened, and takes it away again when the session is there."""

from __future__ import annotations

import sys
import time
import uuid
from types import TracebackType
from typing import Any

from nbgpu import words
from nbgpu_protocol.v1 import pool_pb2

_QUIET_S = 0.5
"""What is done sooner needs no words."""


class OpeningProgress:
    """One line that follows the updates: a display in a notebook, a line on standard error in a terminal.

    Args:
        shell: IPython's, or None.
        held: What this notebook's other sessions hold, in words: a queue may be waiting for just that.
    """

    def __init__(self, shell: Any, held: str = "") -> None:
        self._shell = shell
        self._held = held
        self._started = time.monotonic()
        self._display_id: str | None = None
        self._is_line_open = False
        self.notice = ""
        """What the agent said of the session that the notebook had before."""

    def __enter__(self) -> OpeningProgress:
        return self

    @property
    def was_shown(self) -> bool:
        """Whether there was a display, which is cleared at the end with all that the cell showed before."""
        return self._display_id is not None

    def __call__(self, update: str | pool_pb2.SessionUpdate) -> None:
        """Shows an update; the first half second is quiet unless there is a queue."""
        queued = not isinstance(update, str) and update.phase == pool_pb2.QUEUED
        ready = not isinstance(update, str) and update.phase == pool_pb2.READY
        if not isinstance(update, str):
            self.notice = update.notice or self.notice
        if ready or (not queued and time.monotonic() - self._started < _QUIET_S):
            return
        text = update if isinstance(update, str) else words.update_in_words(update)
        if queued and self._held:
            text += f"; this notebook itself holds {self._held} (`%gpu close` frees it)"
        self._show(f"{text} …")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, frames: TracebackType | None
    ) -> None:
        if self._is_line_open:
            sys.stderr.write("\r\x1b[K" if sys.stderr.isatty() else "\n")
            sys.stderr.flush()
        if self._display_id is not None:
            self._shell.display_pub.clear_output()

    def _show(self, text: str) -> None:
        if getattr(self._shell, "kernel", None) is None:
            sys.stderr.write(f"\r\x1b[K{text}" if sys.stderr.isatty() else f"{text}\n")
            sys.stderr.flush()
            self._is_line_open = sys.stderr.isatty()
            return
        update = self._display_id is not None
        self._display_id = self._display_id or uuid.uuid4().hex
        self._shell.display_pub.publish({"text/plain": text}, transient={"display_id": self._display_id}, update=update)
