"""What a kernel's process wrote outside of cells, and what of its cells' output did not go to the notebook."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MAX_LOG_BYTES = 4 << 20
"""A kernel's log is cut back to a quarter of this when it is longer."""


class KernelLog:
    """The log of one kernel. Its process writes it as well, at the end.

    Args:
        path: Of the file; there is no log before there is a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def tail(self, max_bytes: int = 0) -> str:
        """Returns the end of it; 0: all that is kept."""
        limit_bytes = 2 * MAX_LOG_BYTES  # which what is written until it is trimmed may be far beyond
        wanted_bytes = min(max_bytes or limit_bytes, limit_bytes)
        try:
            with open(self.path, "rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                file.seek(max(0, size_bytes - wanted_bytes))
                return file.read(wanted_bytes).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def append(self, text: str) -> None:
        """Adds what did not go to the notebook. What cannot be written is lost."""
        with contextlib.suppress(OSError), open(self.path, "a", errors="replace") as log:
            log.write(text)

    def trim(self) -> None:
        """Cuts it back where it is too long. What is written meanwhile may be lost; what follows is appended.

        Raises:
            OSError: It cannot be written.
        """
        if self._size_bytes() > MAX_LOG_BYTES:
            with open(self.path, "r+b") as file:
                file.seek(-(MAX_LOG_BYTES // 4), os.SEEK_END)
                kept = file.read()
                file.seek(0)
                file.write(kept)
                file.truncate()

    def _size_bytes(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0
