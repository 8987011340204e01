"""The agent's clock: seconds since the epoch that pass evenly, whatever the machine's clock is set to meanwhile.

Leases, idle times and warnings are spans, and a clock that somebody sets forwards by a day would end all of them. So
the time is read from the machine's clock once, and goes on by one that nobody sets. The next agent, which takes over
sessions, goes on with the same. While there is neither a session nor a watcher, the machine's clock is followed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FOLLOWED_FROM_S = 1.0
"""A smaller difference is let be: clocks are trimmed by as much all the time."""


def elapsed_s() -> float:
    """Returns seconds since some moment that is the same for all processes until the machine is started anew.

    Time that the machine slept counts, where the system can tell.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class AgentClock:
    """Returns the time, in seconds since the epoch, when it is called. Never goes back, but by `follow`.

    Args:
        left: What an earlier agent's `setting` was; of no use if the machine was started anew since.
        wall: The machine's clock, in seconds since the epoch.
        elapsed: As `elapsed_s`.
    """

    def __init__(
        self,
        left: Mapping[str, Any] | None = None,
        *,
        wall: Callable[[], float] | None = None,
        elapsed: Callable[[], float] = elapsed_s,
    ) -> None:
        self._wall = wall or time.time
        self._elapsed = elapsed
        self._boot_id = boot_id()
        self._offset_s = self._wall() - elapsed()
        if left is not None and self._boot_id and left.get("boot_id") == self._boot_id:
            self._offset_s = float(left["offset_s"])

    def __call__(self) -> float:
        return self._offset_s + self._elapsed()

    @property
    def setting(self) -> dict[str, Any]:
        """By which the next agent's clock goes as this one does."""
        return {"boot_id": self._boot_id, "offset_s": self._offset_s}

    def follow(self) -> float:
        """Goes by the machine's clock from now on; returns by how many seconds it was set, 0 for none."""
        offset_s = self._wall() - self._elapsed()
        change_s = offset_s - self._offset_s
        if abs(change_s) < _FOLLOWED_FROM_S:
            return 0.0
        self._offset_s = offset_s
        return change_s


def boot_id() -> str:
    """Returns what the machine is known by until it is started anew; empty where there is no such thing."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
