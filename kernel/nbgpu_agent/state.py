"""Tells those who watch that something changed, no more often than they can use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator


class Changes:
    """A counter of changes. Any number may watch it; used on the event loop only.

    Args:
        min_interval_s: Changes that come faster are told together.
        gather_s: How long a change waits for others: the opening of a session is a few in a row, and the last matters
            most.
    """

    def __init__(self, min_interval_s: float = 0.1, gather_s: float = 0.03) -> None:
        self._min_interval_s = min_interval_s
        self._gather_s = gather_s
        self._count = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        self._count += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def watch(self) -> AsyncGenerator[None, None]:
        """Yields at once, and then whenever something has changed since the watcher last looked."""
        loop = asyncio.get_running_loop()
        while True:
            seen, looked_s = self._count, loop.time()
            yield
            await asyncio.sleep(max(looked_s + self._min_interval_s - loop.time(), 0))
            while self._count == seen:
                waiter = loop.create_future()
                self._waiters.add(waiter)
                try:
                    await waiter
                finally:
                    self._waiters.discard(waiter)
                await asyncio.sleep(self._gather_s)
