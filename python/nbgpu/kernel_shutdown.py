"""Tells a person's interrupt from the one with which a front end begins to shut this notebook's kernel down."""

from __future__ import annotations

import functools
import threading
from typing import Any

from IPython.core.getipython import get_ipython

HOLD_S = 0.5
"""How long an interrupt is held back: a front end that restarts a kernel interrupts it first, and then says why."""


class NotebookEndingError(KeyboardInterrupt):
    """Raised in the place of an interrupt where the notebook's kernel is shut down. Shown without frames."""

    def _render_traceback_(self) -> list[str]:
        return [f"\x1b[31mKeyboardInterrupt\x1b[0m: {self}"]


class ShutdownWatch:
    """Hears of the shutdown of a Jupyter kernel. From any thread.

    Args:
        kernel: This process's.
    """

    def __init__(self, kernel: Any) -> None:
        self._asked = threading.Event()
        shut_down = kernel.do_shutdown

        @functools.wraps(shut_down)
        def do_shutdown(*arguments: Any, **options: Any) -> Any:
            self._asked.set()
            return shut_down(*arguments, **options)

        kernel.do_shutdown = do_shutdown

    def is_asked_within(self, seconds: float) -> bool:
        """Returns whether the kernel is shut down now, or within so many seconds."""
        return self._asked.wait(seconds)


@functools.cache
def _watch_of(kernel: Any) -> ShutdownWatch:
    return ShutdownWatch(kernel)


def watch_shutdown() -> ShutdownWatch | None:
    """Returns the watch of this process's kernel, set up at the first call; None where there is no Jupyter kernel."""
    kernel = getattr(get_ipython(), "kernel", None)
    return _watch_of(kernel) if kernel is not None else None
