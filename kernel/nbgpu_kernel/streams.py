"""The kernel's stdout and stderr: ipykernel's, less the wait for a flush that has nothing to flush."""

from __future__ import annotations

import os

from ipykernel.iostream import OutStream


class SessionOutStream(OutStream):
    """Flushes at once where nothing is buffered.

    A cell flushes both streams twice, and each flush hands two callbacks to the output thread and waits for it:
    0.4 ms of the 1.7 ms of a `pass` cell. What was flushed before needs no waiting for: the status message
    that ends the cell goes through the same thread, behind it.
    """

    def flush(self) -> None:
        pending = getattr(self, "_flush_pending", True) or getattr(self, "_subprocess_flush_pending", True)
        if pending or os.getpid() != getattr(self, "_master_pid", None) or self.echo is not None:
            super().flush()  # type: ignore[no-untyped-call]
