"""Kernels that are held ready, so that a session begins without waiting for one to start."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable

from nbgpu_agent.background_tasks import BackgroundTasks
from nbgpu_agent.errors import KernelFailedError
from nbgpu_agent.kernels import Kernel

_MAX_FAILURES = 3
"""In a row of starts, until another interpreter is asked for."""


class SpareKernels:
    """The spare kernels of an agent, all of the interpreter that was asked for last.

    Args:
        count: How many are held.
        python: The interpreter of the first.
        start: Starts one, of an interpreter.
    """

    def __init__(self, count: int, python: str, start: Callable[[str], Awaitable[Kernel]]) -> None:
        self._count = count
        self._python = python
        self._start = start
        self._ready: collections.deque[Kernel] = collections.deque()
        self._failures = 0
        self._refill: asyncio.Task[None] | None = None
        self._tasks = BackgroundTasks()
        self._closed = False

    def __len__(self) -> int:
        return len(self._ready)

    def take(self, python: str) -> Kernel | None:
        """Returns one of the interpreter that lives, which is the caller's from now on; None if there is none."""
        for spare in self._ready:
            if spare.python == python and spare.alive:
                self._ready.remove(spare)
                return spare
        return None

    def replenish(self, python: str | None = None) -> None:
        """Has those replaced, beside the caller, that were taken, that died, or that are of another interpreter.

        Args:
            python: The interpreter from now on; None: as before.
        """
        if python is not None:
            self._python, self._failures = python, 0
        if not self._closed and self._count > 0 and (self._refill is None or self._refill.done()):
            self._refill = self._tasks.begin(self._fill())

    def forget(self, kernel: Kernel) -> None:
        """Notes that a kernel, spare or not, has ended and is cleaned up."""
        if kernel in self._ready:
            self._ready.remove(kernel)

    async def close(self) -> None:
        """Starts no more. Those that are there are left to whoever started them."""
        self._closed = True
        await self._tasks.cancel()
        self._ready.clear()

    async def _fill(self) -> None:
        while not self._closed:
            while (useless := self._pop_useless()) is not None:
                await useless.end(grace_s=0.0)
            if len(self._ready) >= self._count or self._failures >= _MAX_FAILURES:
                return
            try:
                spare = await self._start(self._python)
            except KernelFailedError:  # whoever asks for a kernel will be told
                self._failures += 1
                continue
            spare.ended.add_done_callback(lambda ended: self.replenish())
            self._ready.append(spare)

    def _pop_useless(self) -> Kernel | None:
        for spare in self._ready:
            if spare.python != self._python or not spare.alive:
                self._ready.remove(spare)
                return spare
        return None
