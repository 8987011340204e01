"""Keeps a session on disk as it changes: in batches, beside the event loop, and whatever the disk does.

What is written at once belongs together: entries, the state that they lead to, and how far the kernel was heard. Then
the kernel is told that it may forget what was written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol

from nbgpu_agent.journal import Entry, Journal
from nbgpu_agent.journal_store import Batch, JournalStore, StoreError

logger = logging.getLogger(__name__)

INTERVAL_S = 0.05
"""Between two batches, at least; what an agent that is killed had for less long is said again by the kernel."""
MAX_BATCH_BYTES = 64 << 20
"""More than a kernel says between two: once all is written it may forget, and else it writes it down a second time."""
RETRY_S = 5.0
"""Between attempts where the disk is full, at least."""
_CLOSE_AFTER_S = 5.0
"""Files of a session to which nothing happens are closed after this time."""


class Kept(Protocol):
    """What is kept beside the journal."""

    def state_record(self) -> bytes | None:
        """Returns the session's state, without secrets; None while nothing of it is to be kept."""

    def new_executions(self) -> tuple[list[tuple[int, bytes]], int]:
        """Returns the records to write of what has ended since the last time, and the first position to keep."""

    def new_requests(self) -> tuple[list[tuple[int, str]], int]:
        """Returns the ids of requests that the kernel has received since, and the first position to keep."""

    def acknowledgement(self) -> Callable[[], None]:
        """Returns what has the kernel forget all that it has said until now, to be called once that is kept."""


class JournalKeeper:
    """Writes one session. For one event loop.

    Args:
        kept: The session.
        journal: Its journal.
        store: None: nothing is written, and what the kernel says is acknowledged all the same.
        executor: Of one thread, which all sessions share.
        on_problem: Called with what is wrong, in words, and with nothing once it is over.
        written: Number of the last entry that is on disk already.
    """

    def __init__(
        self,
        kept: Kept,
        journal: Journal,
        store: JournalStore | None = None,
        executor: Executor | None = None,
        on_problem: Callable[[str], None] = lambda problem: None,
        *,
        written: int = 0,
    ) -> None:
        self._kept = kept
        self._journal = journal
        self._store = store
        self._executor = executor
        self._on_problem = on_problem
        self._written = written
        self._state: bytes | None = None
        self._executions: dict[int, bytes] = {}
        self._requests: dict[int, str] = {}
        self._problem = ""
        self._retry_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing_files: asyncio.TimerHandle | None = None
        self._closed = False
        self._writing = asyncio.Lock()
        journal.on_append = self.note
        journal.waits_for_disk = store is not None

    def note(self) -> None:
        """Notes that something has changed, which is written soon."""
        if self._timer is None and self._task is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._begin)

    async def flush(self) -> None:
        """Returns once all that has happened is written, or cannot be."""
        if self._closed:
            return
        self._stop_timer()
        while not await self._write_batch():
            pass

    async def close(self, *, remove: bool) -> None:
        """Ends the writing. Idempotent.

        Args:
            remove: Remove what was written; else it is complete, and stays for the next agent.
        """
        if self._closed:
            return
        if not remove:
            await self.flush()
        self._closed = True
        self._stop_timer()
        if self._task is not None:
            await asyncio.wait({self._task})
        if self._closing_files is not None:
            self._closing_files.cancel()
        if self._store is not None:
            await self._in_thread(self._store.remove if remove else self._store.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        try:
            done = await self._write_batch()
        except Exception:
            logger.exception("a journal could not be written")
            done = True
        self._task = None
        if not done:
            self.note()

    async def _write_batch(self) -> bool:
        """Writes what there is; returns whether that was all."""
        async with self._writing:
            return await self._write_what_there_is()

    async def _write_what_there_is(self) -> bool:
        acknowledge, last_number = self._kept.acknowledgement(), self._journal.last_number
        if self._store is None:
            acknowledge()
            return True
        if self._problem and time.monotonic() < self._retry_at_s:
            self._journal.note_written(last_number)
            acknowledge()
            return True
        batch, last = self._collect()
        if batch is not None:
            try:
                await self._in_thread(lambda store=self._store: store.write(batch))  # type: ignore[misc]
            except StoreError as error:
                await self._fail(error)
                self._journal.note_written(last_number)
                acknowledge()  # it is held here, and nowhere else
                return True
            self._commit(batch, last)
        if last < last_number:
            return False
        if batch is None:
            self._journal.note_written(last)
        acknowledge()
        self._close_files_later()
        return self._journal.last_number == last_number

    def _collect(self) -> tuple[Batch | None, int]:
        """Returns what is to be written, and the number of the last entry that is then on disk."""
        entries: list[Entry] = []
        journal = self._journal
        if (found := journal.read(self._written, MAX_BATCH_BYTES)) is not None:
            entries = _successive(found.entries)
        last = entries[-1].number if entries else max(self._written, journal.last_number)
        # A state belongs to the last entry: as long as there are more, the one before stays.
        complete = last >= journal.last_number
        state = self._kept.state_record()
        if state is None:  # nothing to go on with: what is written would be of no use to anybody
            return None, journal.last_number
        state = state if complete else None
        executions, executions_from = self._kept.new_executions()
        requests, requests_from = self._kept.new_requests()
        self._executions.update(executions)
        self._requests.update(requests)
        if complete and state == self._state and not (entries or self._executions or self._requests):
            return None, last
        return (
            Batch(
                entries,
                state,
                tuple(self._executions.items()) if complete else (),
                tuple(self._requests.items()) if complete else (),
                dropped_until=journal.dropped_until,
                executions_from=executions_from,
                requests_from=requests_from,
            ),
            last,
        )

    def _commit(self, batch: Batch, last: int) -> None:
        self._written = last
        self._journal.note_written(last if batch.state is not None else 0)
        if batch.state is not None:
            self._state = batch.state
            for position, record in batch.executions:
                if self._executions.get(position) == record:
                    del self._executions[position]
            for position, _ in batch.requests:
                self._requests.pop(position, None)
        if self._problem:
            self._problem = ""
            logger.info("the journal is written again")
            self._on_problem("")

    async def _fail(self, error: StoreError) -> None:
        """Says once what is wrong, and goes on; the next attempt writes all that is held."""
        assert self._store is not None
        if error.damaged:
            logger.warning("the journal in %s is damaged (%s); a new one is begun", self._store.folder, error)
            await self._in_thread(self._store.move_aside)
            self._written = self._journal.dropped_until
            self._state = None
        else:
            self._retry_at_s = time.monotonic() + RETRY_S
        if not self._problem:
            self._problem = f"the session's output is held in the agent's memory only: {error}"
            logger.warning("%s: %s", self._store.folder, self._problem)
            self._on_problem(self._problem)

    def _close_files_later(self) -> None:
        if self._closing_files is not None:
            self._closing_files.cancel()
        self._closing_files = asyncio.get_running_loop().call_later(_CLOSE_AFTER_S, self._close_files)

    def _close_files(self) -> None:
        self._closing_files = None
        if self._store is not None and self._task is None and not self._closed and self._executor is not None:
            self._executor.submit(self._store.close)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        working = asyncio.get_running_loop().run_in_executor(self._executor, work)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({working})
        if working.done():
            working.result()


def _successive(entries: Sequence[Entry]) -> list[Entry]:
    """Returns as many as have numbers that follow each other."""
    first = entries[0].number
    if entries[-1].number - first == len(entries) - 1:
        return list(entries)
    return [entry for index, entry in enumerate(entries) if entry.number == first + index]
