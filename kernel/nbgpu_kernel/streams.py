"""The kernel's stdout and stderr: ipykernel's, less the wait for a flush that has nothing to flush."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from typing import Any, ClassVar, cast

from ipykernel.iostream import OutStream

_PIPE_BYTES = 1 << 16  # what a pipe holds, see pipe(7)


class SessionOutStream(OutStream):
    """Flushes at once where nothing is buffered.

    A cell flushes both streams twice, and each flush hands two callbacks to the output thread and waits for it:
    0.4 ms of the 1.7 ms of a `pass` cell. What was flushed before needs no waiting for: the status message
    that ends the cell goes through the same thread, behind it.

    What was written to the file descriptor is flushed as well. ipykernel leaves that to the thread that reads the pipe,
    for which there is time while its flushes wait.
    """

    _is_flushing = False
    copy_to: ClassVar[Callable[[str], None] | None] = None
    """Gets whatever is written, while it is set."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._reading = threading.Lock()
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    @property
    def _pipe(self) -> int:
        return cast(int, self._fid)  # which is there while `_should_watch` is set

    def write(self, string: str) -> Any:
        copy_to = SessionOutStream.copy_to
        if copy_to is not None and isinstance(string, str):
            copy_to(string)
        return super().write(string)

    def flush(self) -> None:
        if os.getpid() == getattr(self, "_master_pid", None):
            self._take_from_pipe()
            # Asked in this order: `_flush` takes back the first two once `_is_flushing` is set.
            pending = getattr(self, "_flush_pending", True) or getattr(self, "_subprocess_flush_pending", True)
            if not pending and not self._is_flushing and self.echo is None:
                return
        super().flush()  # type: ignore[no-untyped-call]

    def _flush(self) -> None:
        # Large text takes longer than a thread may keep the GIL, so a cell can end while it is on its way.
        self._is_flushing = True
        try:
            super()._flush()  # type: ignore[no-untyped-call]
        finally:
            self._is_flushing = False

    def _watch_pipe_fd(self) -> None:
        """Runs in the thread that reads the pipe in the place of the file descriptor."""
        with contextlib.suppress(OSError, ValueError):  # closed
            while self._should_watch:
                _is_readable(self._pipe, timeout_ms=None)
                if not self._take_from_pipe():
                    return

    def _take_from_pipe(self) -> bool:
        """Writes what is in the pipe now, at most as much as it holds: a process may fill it without end.

        Returns:
            Whether more can come.
        """
        if not self._should_watch:
            return False
        with self._reading:
            if not _is_readable(self._pipe, timeout_ms=0):
                return True
            data = os.read(self._pipe, _PIPE_BYTES)
            if data:
                self.write(data.decode(errors="replace"))
                os.write(self._original_stdstream_copy, data)
            return bool(data)


def _is_readable(descriptor: int, *, timeout_ms: int | None) -> bool:
    """Waits until a descriptor can be read without waiting, or is at its end; returns whether it is."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_ms))
