"""The Jupyter server's one connection to the pool: finds or starts the person's agent, and watches it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Callable

from nbgpu.server.views import PoolView


class PoolLostError(Exception):
    """Raised when the pool cannot be watched, or not any more.

    Carries the text of the error that was its cause, so that who handles it needs neither gRPC nor protobuf.
    """

    def __init__(self, message: str, hint: str | None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint


Progress = Callable[[str], None]
"""Told what is happening, in words, while there is no state yet."""


async def watch_agent(on_progress: Progress) -> AsyncIterator[PoolView]:
    """Yields the state of the person's pool at once, and again after every change, until the pool ends.

    The pool is the one that the environment names, else this machine's agent, which is started if it does not run.

    Raises:
        PoolLostError: The pool cannot be reached or started, or ended.
    """
    on_progress("Looking for the agent")
    # gRPC takes some 100 ms to import: in a thread, so that the server's loop goes on, and only once a page asks
    discovery, errors, conversion = [
        await asyncio.to_thread(importlib.import_module, name)
        for name in ("nbgpu.client.discovery", "nbgpu.errors", "nbgpu.server.conversion")
    ]
    try:
        pool, _ = await discovery.connect(start=True, on_progress=on_progress)
        async with pool, contextlib.aclosing(pool.watch()) as states:
            async for state in states:
                yield conversion.pool_view(state)
    except errors.Error as error:
        raise PoolLostError(error.message(), error.hint or None) from error
    raise PoolLostError("The agent ended", None)
