"""The end of the agent's process: asked for at any moment, and over within a bounded time whatever hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

END_WITHIN_S = 25.0
"""How long the end may take before it is forced: less than the next agent in the same folder waits."""
_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class Ending:
    """Notes that the process is asked to end, tells it, and has the end forced if the process is there for too long.

    Signals are read by a thread of its own from Python's wakeup descriptor, so that they are noted wherever the main
    thread is: before there is an event loop, after it, or in a call that does not return. From `install` on a signal
    ends the process in no other way than this, and so leaves nothing behind.

    Args:
        force: Called on that thread when the time is over; ends the process.
        within_s: From the first request to end on.
    """

    def __init__(self, force: Callable[[], None], within_s: float = END_WITHIN_S) -> None:
        self.asked = threading.Event()
        self.keeps_sessions = False
        """Whether sessions are left to the next agent."""
        self._force = force
        self._within_s = within_s
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def install(self) -> None:
        """Takes SIGTERM, SIGINT and SIGHUP from now on, and for good. On the main thread only.

        SIGHUP leaves the sessions to the next agent.
        """
        threading.Thread(target=self._watch, name="ending", daemon=True).start()
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        # Whoever started this process may have had them blocked, which is inherited, and outlasts an exec.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def ask(self, *, keep_sessions: bool = False) -> None:
        """Asks the process to end, as a signal does. Returns at once.

        Args:
            keep_sessions: Leave the sessions to the next agent, unless the end was asked for already.
        """
        os.write(self._writer, bytes([signal.SIGHUP if keep_sessions else signal.SIGTERM]))

    def call_when_asked(self, callback: Callable[[], object]) -> None:
        """Has the callback called once, on another thread or, where the end was asked for already, on this one."""
        with self._lock:
            if not self.asked.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def _watch(self) -> None:
        while not (received := _SIGNALS & set(os.read(self._reader, 64))):
            pass
        with self._lock:
            self.keeps_sessions = received == {signal.SIGHUP}
            self.asked.set()
        for callback in self._callbacks:
            with contextlib.suppress(RuntimeError):  # of an event loop that has ended meanwhile
                callback()
        time.sleep(self._within_s)
        self._force()
