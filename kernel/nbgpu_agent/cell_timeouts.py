"""Ends cells that run for longer than they may: interrupted when their time is over, their kernel ended if that fails.

It is the agent's to do, so that a limit holds whether or not anybody is connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from nbgpu_agent.background_tasks import BackgroundTasks
from nbgpu_agent.errors import KernelDiedError
from nbgpu_agent.journal import CellTimedOut
from nbgpu_agent.stacks import Stacks

GRACE_S = 30.0
"""An interrupted cell may save what it has: only after this long its kernel is ended."""
_STACKS_WITHIN_S = 5.0
_NOTHING = Stacks((), {})


class BoundedCell(Protocol):
    """An execution, as far as its limit goes."""

    @property
    def request_id(self) -> str: ...

    @property
    def over(self) -> bool:
        """Whether it has ended, or its kernel has."""

    async def changed_within(self, timeout_s: float) -> None:
        """Returns when something about it has changed, or the time is over."""


class CellTimeouts:
    """The limits of one session's cells. For one event loop.

    Args:
        take_stacks: Returns where the session's code is.
        tell: Tells who is connected, before the cell is interrupted.
        interrupt: Interrupts what runs.
        end_kernel: Ends the kernel.
    """

    def __init__(
        self,
        take_stacks: Callable[[], Awaitable[Stacks]],
        tell: Callable[[CellTimedOut], object],
        interrupt: Callable[[], None],
        end_kernel: Callable[[], Awaitable[Any]],
    ) -> None:
        self._take_stacks = take_stacks
        self._tell = tell
        self._interrupt = interrupt
        self._end_kernel = end_kernel
        self._tasks = BackgroundTasks()

    def bound(self, cell: BoundedCell, timeout_s: float, grace_s: float | None = None) -> None:
        """Bounds a cell that has just begun.

        Args:
            cell: It.
            timeout_s: From now on.
            grace_s: What it has to end after it was interrupted; None: the usual.
        """
        self._tasks.begin(self._bound(cell, timeout_s, GRACE_S if grace_s is None else grace_s))

    async def _bound(self, cell: BoundedCell, timeout_s: float, grace_s: float) -> None:
        if await is_over_within(cell, timeout_s):
            return
        stacks = _NOTHING
        with contextlib.suppress(KernelDiedError, asyncio.TimeoutError):
            stacks = await asyncio.wait_for(asyncio.ensure_future(self._take_stacks()), _STACKS_WITHIN_S)
        if cell.over:
            return
        self._tell(CellTimedOut(cell.request_id, timeout_s, stacks))
        self._interrupt()
        if not await is_over_within(cell, grace_s):
            await self._end_kernel()


def timeout_of(metadata: Any) -> float | None:
    """Returns for how many seconds a request says that it may run; None: for ever.

    Args:
        metadata: Of the request, as JSON.
    """
    try:
        found = json.loads(bytes(metadata))["nbgpu"]["timeout_s"]
    except (ValueError, KeyError, TypeError):
        return None
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if is_number and math.isfinite(found) and found > 0 else None


async def is_over_within(cell: BoundedCell, timeout_s: float) -> bool:
    """Waits for the end of a cell, for so long at most; returns whether it has ended."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not cell.over and (left_s := deadline - loop.time()) > 0:
        await cell.changed_within(left_s)
    return cell.over
