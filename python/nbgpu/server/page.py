"""What one page is sent: the newest state after every change, and samples from a queue that cannot grow without end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbgpu.server.problems import PoolLostError, RefusedError

if TYPE_CHECKING:
    from nbgpu.server.hub import Hub

KEEP_ALIVE_S = 15.0
"""A page that hears nothing for three times as long takes the connection for dead (`SILENCE_MS` in feed.ts)."""
STATE_INTERVAL_S = 0.05
"""States that come faster are told together."""
GATHER_S = 0.02
"""How long a change waits for others: what a click leads to is a few in a row, and the last matters most."""
MAX_WAITING_READINGS = 60
"""Of a page that reads slowly; the oldest are dropped beyond that."""
MAX_HISTORY_S = 3600.0
_MARGIN_S = 2.0


@dataclass
class _Known:
    """What a page has of the samples of one pool."""

    last_unix_s: float | None = None
    """Time of its newest sample, by the pool's clock; None before the first."""
    at_s: float = 0.0
    """When that was sent."""


class Page:
    """One subscription of the hub's. For one event loop, and one reader.

    Args:
        hub: Whose.
        history_s: Of how many seconds the recorded samples come first.
        keep_alive_s: After which the state is repeated where nothing changes.
    """

    def __init__(self, hub: Hub, history_s: float, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._hub = hub
        self._history_s = history_s
        self._keep_alive_s = keep_alive_s
        self._woken = asyncio.Event()
        self._state_due = True
        self._paused = False
        self._readings: deque[tuple[str, float, str]] = deque(maxlen=MAX_WAITING_READINGS)
        self._known: dict[str, _Known] = {}
        self._history_due: set[str] = set()

    def wake(self, *, state: bool = False) -> None:
        """Has the page look again.

        Args:
            state: The state has changed.
        """
        self._state_due = self._state_due or state
        self._woken.set()

    def put_connected(self, pool: str) -> None:
        """Notes that a pool is connected, or is again: the page lacks what was recorded meanwhile."""
        self._history_due.add(pool)
        self._woken.set()

    def put_reading(self, pool: str, time_unix_s: float, samples: str) -> None:
        if not self._paused:
            self._readings.append((pool, time_unix_s, samples))
            self._woken.set()

    def pause(self) -> None:
        """Sends no samples until `resume`."""
        self._paused = True
        self._readings.clear()

    def resume(self) -> None:
        """Sends what is new from now on."""
        self._paused = False

    async def messages(self) -> AsyncIterator[str]:
        """Yields what to send, until the hub closes; resumed late, it skips states and drops the oldest samples."""
        sent_s = float("-inf")
        while not self._hub.closed:
            self._woken.clear()
            if self._state_due:
                first = sent_s == float("-inf")
                await asyncio.sleep(0 if first else max(sent_s + STATE_INTERVAL_S - time.monotonic(), GATHER_S))
                self._state_due = False
                yield self._hub.state_text()
                sent_s = time.monotonic()
            for pool in sorted(self._history_due):
                self._history_due.discard(pool)
                async for text in self._recorded(pool):
                    yield text
            while self._readings and not self._state_due:
                pool, time_unix_s, samples = self._readings.popleft()
                known = self._known.setdefault(pool, _Known())
                if known.last_unix_s is None or time_unix_s > known.last_unix_s:
                    known.last_unix_s, known.at_s = time_unix_s, time.monotonic()
                    yield samples_message(self._hub.encoded(pool), samples)
            if not self._state_due and not self._readings and not self._history_due:
                try:
                    await asyncio.wait_for(self._woken.wait(), self._keep_alive_s)
                except asyncio.TimeoutError:
                    self._state_due = True

    async def _recorded(self, pool: str) -> AsyncIterator[str]:
        """Yields what the pool has recorded: what the page wants at first, later what it has missed."""
        known = self._known.get(pool)
        history_s = self._history_s
        if known is not None and known.last_unix_s is not None:
            history_s = time.monotonic() - known.at_s + _MARGIN_S
        calls = self._hub.calls_of(pool)
        if self._paused or history_s <= 0 or calls is None:
            return
        known = self._known.setdefault(pool, _Known())
        with contextlib.suppress(PoolLostError, RefusedError):  # its state says so
            async for time_unix_s, samples in calls.recorded_samples(min(history_s, MAX_HISTORY_S)):
                known.last_unix_s, known.at_s = time_unix_s, time.monotonic()
                yield samples_message(self._hub.encoded(pool), samples)


def samples_message(pool_name_json: str, samples: str) -> str:
    """Returns the message, of samples as the inside of a JSON list."""
    return f'{{"kind":"samples","pool":{pool_name_json},"samples":[{samples}]}}'
