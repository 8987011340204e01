"""Where an interrupt reaches the user's code, and nothing else.

Plain ipykernel lets KeyboardInterrupt strike anywhere while a request is handled: in its own bookkeeping it costs the
reply, and a notebook that waits for it hangs. Here the signal's handler looks at the stack. It raises where user code
is on it, waits where user code is about to run, and forgets the signal when the request is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

_RETRY_S = 0.001


class Interrupts:
    """The process' handler of SIGINT. Everything but the handler's retries happens in the main thread.

    Args:
        user_namespace: Globals of the user's code.
        guards: Code objects in the callers of user code that take a KeyboardInterrupt for an error of the user's.
        callers: As `guards`, and so for everything they call, be it user code or not.
    """

    def __init__(
        self, user_namespace: dict[str, Any], guards: frozenset[CodeType], callers: frozenset[CodeType]
    ) -> None:
        self._user_namespace = user_namespace
        self._guards = guards
        self._callers = callers
        self._request: object | None = None
        self._cell: asyncio.Future[Any] | None = None

    def install(self) -> None:
        """Makes it the handler (again: a cell may have set another). Does nothing in other threads than the main."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._on_signal)
            # The agent's nudge. It has to have a handler, which has nothing to do, to end a system call that blocks.
            signal.signal(signal.SIGURG, lambda signum, frame: None)

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """While a request of the main thread is handled."""
        before, self._request = self._request, object()
        try:
            yield
        finally:
            self._request = before

    @contextlib.contextmanager
    def left_to_others(self) -> Iterator[None]:
        """While the main thread waits for other processes that get the signal as well, and does nothing of its own."""
        before, self._request = self._request, None
        try:
            yield
        finally:
            self._request = before

    @contextlib.contextmanager
    def asynchronous_cell(self, cell: asyncio.Future[Any]) -> Iterator[None]:
        """While a cell with a top-level await runs as the given task, which an interrupt cancels while it waits."""
        self._cell = cell
        try:
            yield
        finally:
            self._cell = None

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        request = self._request
        if request is None:
            return
        may_raise, goes_on = self._look_at(frame)
        cell = self._cell
        if not may_raise and cell is not None:
            cell.get_loop().call_soon_threadsafe(cell.cancel)
            return
        if goes_on:
            threading.Thread(target=self._retry, args=(request,), name="nbgpu-interrupt", daemon=True).start()
        if may_raise:
            raise KeyboardInterrupt

    ON_SIGNAL_CODE = _on_signal.__code__
    """The code of the one frame of ours in the traceback of an interrupted cell."""

    def _look_at(self, frame: FrameType | None) -> tuple[bool, bool]:
        """Returns whether to raise here, and whether the cell goes on all the same.

        It does after what IPython calls before a cell, such as a callback for `pre_execute`, has raised. While a caller
        shows the traceback of what it called, it is nobody's guard: what is raised there ends the request.
        """
        user_code = called = False
        while frame is not None:
            user_code = user_code or frame.f_globals is self._user_namespace
            if user_code and frame.f_code in self._guards:
                return True, False
            if called and frame.f_code in self._callers and (user_code or not _handles_an_error(frame)):
                return True, str(frame.f_locals.get("event")).startswith("pre_")
            called, frame = True, frame.f_back
        return False, True

    def _retry(self, request: object) -> None:
        """Sends the signal again, in a thread of its own, unless the request that it was meant for is over."""
        time.sleep(_RETRY_S)
        main_thread = threading.main_thread().ident
        if self._request is request and main_thread is not None:
            signal.pthread_kill(main_thread, signal.SIGINT)


def _handles_an_error(frame: FrameType) -> bool:
    """Whether the frame is in an except clause."""
    error = sys.exc_info()[1]
    while error is not None:
        if error.__traceback__ is not None and error.__traceback__.tb_frame is frame:
            return True
        error = error.__context__
    return False
