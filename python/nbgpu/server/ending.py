"""Ends tasks for certain: a cancellation is lost now and then, and whoever waits for the task would wait for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

AGAIN_S = 0.5
ATTEMPTS = 6


async def end_tasks(
    tasks: Iterable[asyncio.Task[Any] | None], log: logging.Logger | logging.LoggerAdapter[logging.Logger] | None = None
) -> None:
    """Cancels tasks and waits for their end, at most some seconds. What they raise is not raised here.

    A cancellation that comes as a `wait_for` is done, or while a stream of gRPC's is closed, is lost: see
    https://github.com/python/cpython/issues/86296. So it is repeated.
    """
    pending = {task for task in tasks if task is not None}
    for _ in range(ATTEMPTS):
        if not pending:
            return
        for task in pending:
            task.cancel()
        ended, pending = await asyncio.wait(pending, timeout=AGAIN_S)
        for task in ended:
            if not task.cancelled():
                task.exception()  # seen, so that asyncio does not report it
    for task in pending:
        (log or logging.getLogger(__name__)).warning("nbgpu: %s does not end", task.get_name())
