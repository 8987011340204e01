"""The journal of a session: everything its kernels said, numbered, for clients that come, go and fall behind.

This is what is held in memory, from which `journal_keeping` writes it to disk. It is bounded in two ways. What every
connected client has been sent is kept up to `limit_bytes`, for clients that come back. What a connected client has yet
to be sent is kept beyond that, up to `hard_limit_bytes`, so that a client which reads more slowly than a cell prints
loses nothing; a client that falls behind further than that finds a gap, and nobody else does.

Numbers are the same after the agent was killed. What the kernel says it says again, in the same order, to the next
agent; what an agent adds of its own is shown to nobody before it is on disk, and neither is what follows it.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from nbgpu_agent.errors import AgentError
from nbgpu_agent.model import KernelExit
from nbgpu_agent.stacks import Stacks

DEFAULT_LIMIT_BYTES = 256 << 20
HARD_LIMIT_FACTOR = 4
MAX_BATCH_BYTES = 1 << 20
LAZY_S = 0.02
"""How long an entry waits at most that nobody is waiting for."""
ENTRY_OVERHEAD_BYTES = 400  # what an entry without content takes up


@dataclass(frozen=True)
class Message:
    """A Jupyter message of the kernel."""

    channel: int
    """`nbgpu.v1.Channel`."""
    parts: Sequence[bytes]
    """Header, parent header, metadata and content as JSON, then raw buffers."""


@dataclass(frozen=True)
class KernelStarted:
    generation: int


@dataclass(frozen=True)
class KernelEnded:
    generation: int
    exit: KernelExit


@dataclass(frozen=True)
class RequestRefused:
    """A request did not reach a kernel and never will."""

    request_id: str
    error: AgentError


@dataclass(frozen=True)
class SessionClosed:
    reason: str


@dataclass(frozen=True)
class Choice:
    """A notebook uses another session from now on."""

    notebook_id: str
    session_id: str
    """Empty: none."""


@dataclass(frozen=True)
class Notice:
    """What the person is told next to the output of the session's cells."""

    text: str


@dataclass(frozen=True)
class CellTimedOut:
    """A cell has run for as long as it may, and is interrupted now."""

    request_id: str
    timeout_s: float
    stacks: Stacks
    """Where the session's code was; empty if it did not say."""


Event: TypeAlias = KernelStarted | KernelEnded | RequestRefused | SessionClosed | Choice | Notice | CellTimedOut
Body: TypeAlias = Message | Event


@dataclass(frozen=True)
class Entry:
    number: int
    body: Body
    size_bytes: int


@dataclass(frozen=True)
class Batch:
    """What a reader gets at once."""

    entries: Sequence[Entry]
    gap_until: int
    """Entries up to this number were dropped before the reader got them; 0: none."""


class Journal:
    """Numbers entries from 1 on and hands them to any number of readers. For one event loop.

    Args:
        limit_bytes: Kept of what every connected client has been sent.
        hard_limit_bytes: Kept in all.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES, hard_limit_bytes: int | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._hard_limit_bytes = hard_limit_bytes or limit_bytes * HARD_LIMIT_FACTOR
        self._entries: deque[Entry] = deque()
        self._size_bytes = 0
        self._last_number = 0
        self._last_urgent = 0
        self._dropped_until = 0
        self._readers: set[JournalReader] = set()
        self._closed = False
        self._unwritten: deque[int] = deque()
        self.waits_for_disk = False
        """Whether entries of the agent's own are held back until `note_written`."""
        self.on_append: Callable[[], None] = lambda: None
        """Called after each entry."""

    @property
    def last_number(self) -> int:
        return self._last_number

    @property
    def dropped_until(self) -> int:
        """Number of the newest entry that is no longer held; 0: all are held."""
        return self._dropped_until

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def append(self, body: Body, *, urgent: bool = True, own: bool = False) -> int:
        """Appends an entry.

        Args:
            body: What happened.
            urgent: Somebody waits for it. Other entries leave with the next urgent one, or after LAZY_S.
            own: It is the agent's, and no kernel says it again.

        Returns:
            The number of the entry.
        """
        content = sum(map(len, body.parts)) if isinstance(body, Message) else 0
        self._last_number += 1
        entry = Entry(self._last_number, body, content + ENTRY_OVERHEAD_BYTES)
        self._entries.append(entry)
        self._size_bytes += entry.size_bytes
        if urgent:
            self._last_urgent = entry.number
        if own and self.waits_for_disk and not self._closed:
            self._unwritten.append(entry.number)
        if self._size_bytes > self._limit_bytes:
            self._drop()
        for reader in self._readers:
            reader._wake(urgent)
        self.on_append()
        return entry.number

    def note_written(self, number: int) -> None:
        """Notes that entries up to this number are on disk, or never will be."""
        if not self._unwritten:
            return
        while self._unwritten and self._unwritten[0] <= number:
            self._unwritten.popleft()
        for reader in self._readers:
            reader._wake(urgent=True)

    def skip(self, count: int) -> None:
        """Leaves so many numbers out: of entries that an earlier agent may have shown, and that are lost."""
        self._last_number += count

    def restore(self, entries: Sequence[Entry], last_number: int) -> None:
        """Begins with what an earlier agent had, before anything else happens.

        Args:
            entries: With ascending numbers.
            last_number: Of the newest entry there was; those that are not here count as dropped.
        """
        assert not self._last_number
        self._entries.extend(entries)
        self._size_bytes = sum(entry.size_bytes for entry in entries)
        self._dropped_until = entries[0].number - 1 if entries else last_number
        self._last_number = self._last_urgent = last_number
        self._drop()

    @property
    def _visible_until(self) -> int:
        return self._unwritten[0] - 1 if self._unwritten else self._last_number

    def close(self) -> None:
        """Says that nothing will follow: readers end once they have read all."""
        self._closed = True
        self._unwritten.clear()
        for reader in self._readers:
            reader._wake(urgent=True)

    def reader(self, after_number: int) -> JournalReader:
        """Returns a reader of what follows the number, which may be still to come again. Its owner closes it."""
        reader = JournalReader(self, after_number)
        self._readers.add(reader)
        return reader

    def read(self, after_number: int, max_bytes: int = MAX_BATCH_BYTES) -> Batch | None:
        """Returns what there is now after the number, at most so much at once; None if that is nothing."""
        batch = self._after(after_number, max_bytes, self._last_number)
        return batch if batch.entries else None

    def _drop(self) -> None:
        """Drops the oldest entries, as far as the limits ask for it."""
        sent_to_all = min((reader.position for reader in self._readers), default=self._last_number)
        entries = self._entries
        while len(entries) > 1 and (
            self._size_bytes > self._hard_limit_bytes
            or (self._size_bytes > self._limit_bytes and entries[0].number <= sent_to_all)
        ):
            dropped = entries.popleft()
            self._size_bytes -= dropped.size_bytes
            self._dropped_until = dropped.number

    def _after(self, number: int, max_bytes: int, until: int) -> Batch:
        """Returns what follows the number: at least one entry if there is any, else as many as fit."""
        gap_until = self._dropped_until if number < self._dropped_until else 0
        found: list[Entry] = []
        size_bytes = 0
        # from the nearer end: indexing a deque costs its distance from there, and readers are mostly near the end
        for index in range(self._index_after(max(number, self._dropped_until)), len(self._entries)):
            entry = self._entries[index]
            if entry.number > until or (found and size_bytes + entry.size_bytes > max_bytes):
                break
            found.append(entry)
            size_bytes += entry.size_bytes
        return Batch(found, gap_until)

    def _index_after(self, number: int) -> int:
        entries = self._entries
        if not entries:
            return 0
        index = len(entries) - (entries[-1].number - number)  # right unless numbers were left out
        if 0 <= index < len(entries) and entries[index].number == number + 1:
            return index
        return bisect.bisect_right(entries, number, key=lambda entry: entry.number)


class JournalReader:
    """One client's place in the journal. Made by `Journal.reader`."""

    def __init__(self, journal: Journal, position: int) -> None:
        self.position = position
        """Number of the last entry that was read."""
        self._journal = journal
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = False
        self._stopped = False

    async def read(self, max_bytes: int = MAX_BATCH_BYTES) -> Batch | None:
        """Waits for entries; returns None once the journal is closed and read, or the reader stopped.

        What was read counts as sent from the next call on.

        Raises:
            RuntimeError: Another read of this reader is waiting.
        """
        if self._waiter is not None:
            raise RuntimeError("two reads of one reader at once")
        journal = self._journal
        while not self._stopped:
            visible_until = journal._visible_until
            if visible_until > self.position:
                if journal._last_urgent > self.position or self._due or journal._closed:
                    batch = journal._after(self.position, max_bytes, visible_until)
                    self._stop_timer()
                    self.position = batch.entries[-1].number if batch.entries else visible_until
                    if batch.entries:
                        return batch
                    continue
                self._start_timer()
            elif journal._closed:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return None

    def stop(self) -> None:
        """Has the read that waits, and every later one, return None."""
        self._stopped = True
        self._wake(urgent=True)

    def close(self) -> None:
        self._journal._readers.discard(self)
        self._stop_timer()

    def _wake(self, urgent: bool) -> None:
        if self._waiter is None or self._waiter.done():
            return
        if urgent:
            self._waiter.set_result(None)
        else:
            self._start_timer()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LAZY_S, self._on_timer)

    def _stop_timer(self) -> None:
        self._due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._due = True
        self._wake(urgent=True)
