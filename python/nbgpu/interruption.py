"""What an interrupt does while a session's kernel is waited for: it stops the cell, ends the kernel, or gives up."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator

from nbgpu import errors
from nbgpu.client.background import background
from nbgpu.execution import Request
from nbgpu.kernel_shutdown import HOLD_S, NotebookEndingError, ShutdownWatch, watch_shutdown
from nbgpu.session_client import SessionClient

_ESCALATE_AFTER_S = 1.0
"""A second interrupt within this time is taken for the same press."""
_PATIENCE_S = 3.0
"""After this time without an end the person is told that a second interrupt ends the kernel."""


def wait_interruptibly(client: SessionClient, request: Request) -> None:
    """Waits for a request; the first interrupt is passed on, a later one ends the kernel, a third one gives up.

    Raises:
        NotebookEndingError: The interrupt was how the notebook's own kernel is shut down; what runs over there goes on.
        KeyboardInterrupt: The third one.
        Error: The request failed for a reason that is not the cell's.
    """
    shutdown = watch_shutdown()
    first_at: float | None = None
    escalated = False
    with contextlib.ExitStack() as cleanup:
        while True:
            try:
                request.wait()
                return
            except KeyboardInterrupt:
                now = time.monotonic()
                if escalated:
                    raise
                if first_at is None:
                    first_at = now
                    if _is_ending(shutdown):
                        raise NotebookEndingError(
                            "this notebook's kernel was shut down; the cell goes on in its session, and `%gpu attach`"
                            " in the notebook's next kernel shows what it prints"
                        ) from None
                    cleanup.enter_context(_hint_after(_PATIENCE_S, request))
                    background().submit(_interrupt(client, request, escalate=False))
                elif now - first_at > _ESCALATE_AFTER_S:
                    escalated = True
                    print("nbgpu: ending the session's kernel", file=sys.stderr, flush=True)
                    background().submit(_interrupt(client, request, escalate=True))


def _is_ending(shutdown: ShutdownWatch | None) -> bool:
    """Says whether an interrupt is the beginning of a shutdown; another one meanwhile is a person who insists."""
    try:
        return shutdown is not None and shutdown.is_asked_within(HOLD_S)
    except KeyboardInterrupt:
        return False


async def _interrupt(client: SessionClient, request: Request, *, escalate: bool) -> None:
    try:
        await client.pool.interrupt(client.id, request.id, escalate=escalate)
    except errors.Error as error:
        request.fail(error)


@contextlib.contextmanager
def _hint_after(delay_s: float, request: Request) -> Iterator[None]:
    def hint() -> None:
        if not request.is_answered:
            text = "nbgpu: the cell has not stopped yet; interrupt again to end its kernel, with its variables"
            print(text, file=sys.stderr, flush=True)

    loop = background().loop
    timers: list[asyncio.TimerHandle] = []
    loop.call_soon_threadsafe(lambda: timers.append(loop.call_later(delay_s, hint)))
    try:
        yield
    finally:
        loop.call_soon_threadsafe(lambda: timers[0].cancel())
