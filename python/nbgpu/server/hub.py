"""One watch of the pool for however many pages, and only while there is a page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

from nbgpu.server.upstream import PoolLostError, Progress
from nbgpu.server.views import PageState, PoolView, ProblemView

Watch = Callable[[Progress], AsyncIterator[PoolView]]
"""Opens a watch: yields the pool's state at once and after every change, and raises PoolLostError when it is lost."""

KEEP_ALIVE_S = 15.0
"""A page that hears nothing for three times as long takes the connection for dead (`SILENCE_MS` in feed.ts)."""
FIRST_RETRY_S = 2.0
"""Long enough for a person to read what happened, short enough not to wait for."""
LAST_RETRY_S = 30.0


class Hub:
    """What the pages show, kept current by a background task that runs while at least one page subscribes.

    All methods are for the event loop that the hub is first used on.
    """

    def __init__(
        self,
        watch: Watch,
        *,
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
        first_retry_s: float = FIRST_RETRY_S,
        keep_alive_s: float = KEEP_ALIVE_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._watch = watch
        self._log = log
        self._first_retry_s = first_retry_s
        self._keep_alive_s = keep_alive_s
        self._now = now
        self._state = self._connecting(None)
        self._subscribers: set[asyncio.Event] = set()
        self._upstream: asyncio.Task[None] | None = None
        self._retry_now = asyncio.Event()
        self._closed = False

    async def states(self) -> AsyncIterator[PageState]:
        """Yields the state at once, and again after every change; the newest only, to those that read slowly.

        Repeats the state where nothing changes for a while, so that a page can tell a quiet pool from a dead
        connection. Ends when the hub closes.
        """
        changed = asyncio.Event()
        self._subscribers.add(changed)
        try:
            self._ensure_upstream()
            while not self._closed:
                changed.clear()
                yield {**self._state, "sent_unix_s": self._now()}
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), self._keep_alive_s)
        finally:
            self._subscribers.discard(changed)
            if not self._subscribers:
                self._stop_upstream()

    async def settled_state(self, deadline_s: float) -> PageState:
        """Returns the state once it says connected or unreachable, or as it is at the deadline.

        A deadline of 0 starts nothing.
        """
        last = self._state

        async def settle() -> None:
            nonlocal last
            async with contextlib.aclosing(self.states()) as states:  # type: ignore[type-var]
                async for last in states:
                    if last["link"] != "connecting":
                        return

        if deadline_s > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(settle(), deadline_s)
        return {**last, "sent_unix_s": self._now()}

    def retry(self) -> None:
        """Tries again at once, if the hub waits to try again."""
        self._retry_now.set()

    async def close(self) -> None:
        """Ends the watch and every subscription. Idempotent."""
        self._closed = True
        upstream = self._upstream
        self._stop_upstream()
        for changed in self._subscribers:
            changed.set()
        if upstream is not None:
            await asyncio.gather(upstream, return_exceptions=True)

    def _ensure_upstream(self) -> None:
        if self._upstream is None and not self._closed:
            self._state = self._connecting(None)
            self._upstream = asyncio.create_task(self._keep_watching(), name="nbgpu: watch of the pool")

    def _stop_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.cancel()
            self._upstream = None

    async def _keep_watching(self) -> None:
        retry_s = self._first_retry_s
        while True:
            problem = ProblemView(message="The pool ended the watch", hint=None)
            try:
                async with contextlib.aclosing(self._watch(self._report)) as views:  # type: ignore[type-var]
                    async for view in views:
                        retry_s = self._first_retry_s
                        self._publish(self._connected(view))
            except PoolLostError as error:
                problem = ProblemView(message=error.message, hint=error.hint)
            except Exception as error:  # noqa: BLE001 - a page must show what went wrong, whatever it is
                self._log.warning("nbgpu: the watch of the pool failed", exc_info=True)
                problem = ProblemView(
                    message=f"The pool cannot be watched: {type(error).__name__}: {error}",
                    hint="the log of the Jupyter server has the details",
                )
            if self._upstream is not asyncio.current_task():
                return  # stopped: closing the watch turned the cancellation into another exception
            self._publish(self._unreachable(problem))
            self._retry_now.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._retry_now.wait(), retry_s)
                self._publish(self._connecting("Trying again"))
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _report(self, progress: str) -> None:
        if self._state["link"] == "connecting":  # while unreachable, the problem stays readable until it is solved
            self._publish(self._connecting(progress))

    def _publish(self, state: PageState) -> None:
        if {**state, "sent_unix_s": 0.0} == {**self._state, "sent_unix_s": 0.0}:
            return
        self._state = state
        for changed in self._subscribers:
            changed.set()

    def _connecting(self, progress: str | None) -> PageState:
        return PageState(link="connecting", progress=progress, problem=None, pool=None, sent_unix_s=self._now())

    def _connected(self, view: PoolView) -> PageState:
        return PageState(link="connected", progress=None, problem=None, pool=view, sent_unix_s=self._now())

    def _unreachable(self, problem: ProblemView) -> PageState:
        return PageState(link="unreachable", progress=None, problem=problem, pool=None, sent_unix_s=self._now())
