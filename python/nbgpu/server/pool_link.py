"""One pool, kept connected while somebody wants to know of it: its state, its samples, and what is wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from nbgpu.server.ending import end_tasks
from nbgpu.server.problems import PoolLostError, RefusedError
from nbgpu.server.views import EMPTY_STATE, Link, PoolView, ProblemView, SessionView, StateView

if TYPE_CHECKING:
    from nbgpu.server.pool_calls import PoolCalls

FIRST_RETRY_S = 2.0
"""Long enough for a person to read what happened, short enough not to wait for."""
LAST_RETRY_S = 30.0

Progress = Callable[[str], None]
"""Told what is happening, in words, while there is no state yet."""
Connect = Callable[[Progress], AbstractAsyncContextManager["PoolCalls"]]


@dataclass(frozen=True)
class PoolTarget:
    """Which pool a link leads to."""

    name: str
    address: str
    """For display; empty where it is known only once it is connected."""
    token: str = field(repr=False)
    """Compared, to see whether the person changed it."""
    embedded: bool
    removable: bool


class LinkListener(Protocol):
    """Told what a link learns."""

    def on_change(self) -> None: ...

    def on_connected(self, name: str) -> None: ...

    def on_samples(self, name: str, time_unix_s: float, samples: str) -> None: ...


async def _imported(module: str) -> object:
    return await asyncio.to_thread(importlib.import_module, module)


def connect_to(target: PoolTarget) -> Connect:
    """Returns what connects to the target."""

    @contextlib.asynccontextmanager
    async def connect(on_progress: Progress) -> AsyncIterator[PoolCalls]:
        on_progress("Looking for the agent" if target.embedded else f"Connecting to {target.address}")
        await _imported("nbgpu.server.pool_calls")
        from nbgpu.server import pool_calls

        async with pool_calls.connected(target.name if target.removable else None, on_progress) as calls:
            yield calls

    return connect


class PoolLink:
    """Connects to a pool while it is used, again and again if need be, and never twice at once.

    All methods are for the event loop that it is first used on.
    """

    def __init__(
        self,
        target: PoolTarget,
        connect: Connect,
        listener: LinkListener,
        *,
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        self.target = target
        self.name = target.name
        self._connect = connect
        self._listener = listener
        self._log = log
        self._first_retry_s = first_retry_s
        self._link: Link = "connecting"
        self._progress: str | None = None
        self._problem: ProblemView | None = None
        self._state: StateView = EMPTY_STATE
        self._received_s = time.monotonic()
        self._latency_ms: float | None = None
        self._users = 0
        self._sample_users = 0
        self._watching: asyncio.Task[None] | None = None
        self._sampling: asyncio.Task[None] | None = None
        self._calls: PoolCalls | None = None
        self._retry_now = asyncio.Event()
        self._settled = asyncio.Event()
        self._told = asyncio.Event()
        """Replaced with every state."""
        self._closed = False

    # -- What it knows ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> StateView:
        """What the pool said last; empty while it is not connected."""
        return self._state

    @property
    def calls(self) -> PoolCalls | None:
        """The connection; None while there is none."""
        return self._calls if self._link == "connected" else None

    def view(self) -> PoolView:
        """Returns what a page is told, as it is now. Its requests are for the hub to add."""
        elapsed_s = time.monotonic() - self._received_s
        return PoolView(
            name=self.name,
            address=self.target.address or (self._calls.address if self._calls is not None else ""),
            embedded=self.target.embedded,
            removable=self.target.removable,
            link=self._link,
            progress=self._progress,
            problem=self._problem,
            latency_ms=self._latency_ms,
            node=self._state["node"],
            offers=self._state["offers"],
            accelerators=self._state["accelerators"],
            sessions=[_counted_on(session, elapsed_s) for session in self._state["sessions"]],
            requests=[],
        )

    # -- Its use ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Keeps it connected for as long as the block lasts."""
        self._users += 1
        self._ensure_watch()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._stop()

    @contextlib.contextmanager
    def sampled(self) -> Iterator[None]:
        """Has it receive samples for as long as the block lasts, while it is connected."""
        self._sample_users += 1
        self._ensure_sampling()
        try:
            yield
        finally:
            self._sample_users -= 1
            if not self._sample_users:
                self._stop_sampling()

    async def connection(self, deadline_s: float) -> PoolCalls:
        """Returns the connection; waits while it is being made. To be called while it is used.

        Raises:
            PoolLostError: The pool is unreachable, or not reached by the deadline.
        """
        await self._tell_until(lambda: self._link != "connecting", deadline_s)
        if (calls := self.calls) is not None:
            return calls
        if self._problem is not None:
            raise PoolLostError(self._problem["message"], self._problem["hint"])
        raise PoolLostError(f"{self.name} is not reached yet: {self._progress or 'connecting'}", "try again")

    async def settle(self, deadline_s: float) -> None:
        """Waits until it was connected or found unreachable once, or for the deadline."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._settled.wait(), deadline_s)

    async def settle_until(self, condition: Callable[[StateView], bool], deadline_s: float) -> None:
        """Waits until the pool's state meets the condition, or for the deadline, or for the end of the connection."""
        await self._tell_until(lambda: self.calls is None or condition(self._state), deadline_s)

    async def _tell_until(self, condition: Callable[[], bool], deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        while not condition():
            try:
                await asyncio.wait_for(self._told.wait(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                return

    def retry(self) -> None:
        """Tries again at once, if it waits to try again."""
        self._retry_now.set()

    async def measure_latency(self) -> None:
        """Measures how long the pool takes to answer, if it is connected; told with the next state."""
        if (calls := self.calls) is not None:
            with contextlib.suppress(PoolLostError, RefusedError):  # its watch will say so
                self._latency_ms = await calls.latency_ms()

    async def close(self) -> None:
        """Ends the connection for good. Idempotent."""
        self._closed = True
        tasks = [task for task in (self._watching, self._sampling) if task is not None]
        self._stop()
        await end_tasks(tasks, self._log)

    # -- Its watch --------------------------------------------------------------------------------------------------

    def _ensure_watch(self) -> None:
        if self._watching is None and not self._closed:
            self._set("connecting")
            self._watching = asyncio.create_task(self._keep_watching(), name=f"nbgpu: watch of {self.name}")

    def _stop(self) -> None:
        self._stop_sampling()
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        self._calls = None
        self._link, self._progress, self._problem, self._state = "connecting", None, None, EMPTY_STATE
        self._settled.clear()

    async def _keep_watching(self) -> None:
        retry_s = self._first_retry_s
        while self._watching is asyncio.current_task():
            problem = ProblemView(message="The agent ended", hint=None)
            try:
                async with self._connect(self._report) as calls:
                    self._latency_ms = await calls.latency_ms()
                    async with contextlib.aclosing(calls.states()) as states:
                        async for state in states:
                            if self._watching is not asyncio.current_task():
                                return
                            retry_s = self._first_retry_s
                            self._take(calls, state)
            except (PoolLostError, RefusedError) as error:
                problem = error.view()
            except Exception as error:  # noqa: BLE001 - a page must show what went wrong, whatever it is
                self._log.warning("nbgpu: the watch of %s failed", self.name, exc_info=True)
                problem = ProblemView(
                    message=f"The pool cannot be watched: {type(error).__name__}: {error}",
                    hint="the log of the Jupyter server has the details",
                )
            if self._watching is not asyncio.current_task():
                return  # stopped: closing the watch turned the cancellation into another exception
            self._calls = None
            self._stop_sampling()
            self._set("unreachable", problem=problem)
            self._retry_now.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._retry_now.wait(), retry_s)
                self._set("connecting", progress="Trying again")
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _take(self, calls: PoolCalls, state: StateView) -> None:
        is_new = self._calls is not calls
        self._calls, self._state, self._received_s = calls, state, time.monotonic()
        self._set("connected")
        if is_new:
            self._listener.on_connected(self.name)
        self._ensure_sampling()

    def _report(self, progress: str) -> None:
        if self._link == "connecting":  # while unreachable, the problem stays readable until it is solved
            self._set("connecting", progress=progress)

    def _set(self, link: Link, *, progress: str | None = None, problem: ProblemView | None = None) -> None:
        self._link, self._progress, self._problem = link, progress, problem
        if link != "connected":
            self._state, self._latency_ms = EMPTY_STATE, None
        if link != "connecting":
            self._settled.set()
        told, self._told = self._told, asyncio.Event()
        told.set()
        self._listener.on_change()

    # -- Its samples ------------------------------------------------------------------------------------------------

    def _ensure_sampling(self) -> None:
        if self._sampling is None and self._sample_users and self.calls is not None:
            self._sampling = asyncio.create_task(self._sample(self.calls), name=f"nbgpu: samples of {self.name}")

    def _stop_sampling(self) -> None:
        if self._sampling is not None:
            self._sampling.cancel()
            self._sampling = None

    async def _sample(self, calls: PoolCalls) -> None:
        try:
            async with contextlib.aclosing(calls.samples()) as batches:
                async for time_unix_s, samples in batches:
                    if self._sampling is not asyncio.current_task():
                        return
                    self._listener.on_samples(self.name, time_unix_s, samples)
        except (PoolLostError, RefusedError) as error:
            self._log.debug("nbgpu: no more samples of %s: %s", self.name, error.message)
        finally:
            if self._sampling is asyncio.current_task():
                self._sampling = None


def _counted_on(session: SessionView, elapsed_s: float) -> SessionView:
    """Returns the session with what it has used until now, some time after its pool has told of it."""
    held = sum(not each["shared"] for each in session["accelerators"])
    if not held:
        return session
    cost, per_hour = session["cost"], session["cost_per_hour"]
    if cost is not None and per_hour is not None:
        cost += per_hour * elapsed_s / 3600
    return {**session, "accelerator_seconds": session["accelerator_seconds"] + held * elapsed_s, "cost": cost}
