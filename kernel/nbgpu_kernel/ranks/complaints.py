"""Keeps what libraries say of connections that are given up away from the person, in the log of the kernel's rank.

torch writes a C++ stack of dozens of lines for each, to the file descriptor of standard error; what Python writes to
`sys.stderr` goes to the notebook by another way, and is not concerned.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

_STDERR = 2


class Complaints:
    """Of one cell.

    Args:
        log: The file that takes them.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._before: int | None = None
        self._is_over = False

    def begin(self) -> None:
        """From now on they go to the file. Idempotent; for any thread."""
        with self._lock:
            if self._before is not None or self._is_over:
                return
            try:
                file = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            except OSError:  # the folder is gone
                return
            self._before = os.dup(_STDERR)
            os.dup2(file, _STDERR)
            os.close(file)

    def end(self) -> None:
        """Has them go where they went before. Idempotent."""
        with self._lock:
            self._is_over = True
            if self._before is not None:
                os.dup2(self._before, _STDERR)
                os.close(self._before)
                self._before = None
