"""The one background event loop, on which every conversation with an agent takes place.

A notebook's main thread belongs to the person's code, so gRPC lives on a thread of its own. `run` is how a synchronous
caller waits for it: interruptibly, and without leaving the task behind.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import queue
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# Waiting on a lock or a queue without a timeout cannot be interrupted on Windows.
_WAIT_S = 0.1 if sys.platform == "win32" else None


class BackgroundLoop:
    """An event loop on a daemon thread; ended at the interpreter's exit."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closers: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._thread = threading.Thread(target=self._serve, name="nbgpu", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Schedules the coroutine; returns at once."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def start_task(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts a task from within the loop, and keeps the reference that the loop itself does not."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def call_at_close(self, closer: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Registers what is to be awaited before the loop ends, the latest first."""
        self._closers.append(closer)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs the coroutine on the loop and waits for its result; an interrupt cancels it and waits for its end."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("nbgpu's synchronous functions cannot be called from its own event loop")
        future = self.submit(coroutine)
        try:
            return wait_for(future)
        except KeyboardInterrupt:
            future.cancel()
            raise

    def close(self) -> None:
        """Awaits the closers, cancels what is left, and ends the thread. Idempotent."""
        if self.loop.is_closed() or not self._thread.is_alive():
            return
        atexit.unregister(self.close)
        with contextlib.suppress(concurrent.futures.TimeoutError, RuntimeError):
            self.submit(self._finish()).result(timeout=5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self.loop.close()

    async def _finish(self) -> None:
        for closer in reversed(self._closers):
            await closer()
        current = asyncio.current_task()
        rest = [task for task in asyncio.all_tasks() if task is not current]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def wait_for(future: concurrent.futures.Future[T]) -> T:
    """Waits for a future of another thread so that Ctrl-C gets through on every platform."""
    while True:
        try:
            return future.result(timeout=_WAIT_S)
        except concurrent.futures.TimeoutError:
            if future.done():
                return future.result()


@functools.cache
def background() -> BackgroundLoop:
    """Returns the process's one background loop, started at the first call."""
    return BackgroundLoop()


def run_telling(
    start: Callable[[Callable[[Any], None]], Coroutine[Any, Any, T]], on_update: Callable[[Any], None] | None
) -> T:
    """Runs a coroutine on the background loop, and tells its updates on this thread."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    done = object()
    future = background().submit(start(events.put))
    future.add_done_callback(lambda _: events.put(done))
    try:
        while (event := _next(events)) is not done:
            if on_update is not None:
                on_update(event)
    except KeyboardInterrupt:
        future.cancel()
        raise
    return wait_for(future)


def _next(events: queue.SimpleQueue[Any]) -> Any:
    while True:
        try:
            return events.get(timeout=_WAIT_S)
        except queue.Empty:
            continue


async def awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    """Awaits a coroutine of the background loop from the person's own loop."""
    return await asyncio.wrap_future(background().submit(coroutine))
