"""One session's journal on disk: an index in SQLite, large stretches of entries as files beside it.

Written in batches by one thread, so that an entry costs the event loop nothing. It serves the next agent after this one
was killed: what a process has written outlives it without being synchronised to the disk, and no kernel outlives the
machine, so nothing is. A stretch of entries is one row, or one file of which there is a row.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from nbgpu_agent.blobs import NO_SPACE
from nbgpu_agent.errors import KernelDiedError
from nbgpu_agent.journal import (
    ENTRY_OVERHEAD_BYTES,
    Body,
    CellTimedOut,
    Choice,
    Entry,
    KernelEnded,
    KernelStarted,
    Message,
    Notice,
    RequestRefused,
    SessionClosed,
)
from nbgpu_agent.model import KernelExit
from nbgpu_agent.stacks import ProcessStacks, Stacks

DATABASE_FILE = "journal.db"
PAYLOADS_FOLDER = "payloads"
SPARE_STATE_FILE = "state.json"
FILE_BYTES = 64 << 10
"""A stretch that is as large is a file of its own."""
_DAMAGED_SUFFIX = ".damaged"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS stretches (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, checksum BLOB NOT NULL, size_bytes INTEGER NOT NULL,
    payload BLOB
);
CREATE TABLE IF NOT EXISTS executions (position INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS requests (position INTEGER PRIMARY KEY, id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 1), record BLOB NOT NULL);
"""
_EVENT, _MESSAGE = 0, 1


class StoreError(Exception):
    """Raised when nothing could be written; all is as it was before.

    Attributes:
        no_space: Because the disk is full.
        damaged: Because the file is.
    """

    def __init__(self, reason: str, *, no_space: bool, damaged: bool) -> None:
        super().__init__(reason)
        self.no_space = no_space
        self.damaged = damaged


@dataclass(frozen=True)
class Batch:
    """What is written at once, whole or not at all."""

    entries: Sequence[Entry]
    """Their numbers follow each other."""
    state: bytes | None
    """Takes the place of the one before; None: it stays."""
    executions: Sequence[tuple[int, bytes]] = ()
    """By their positions."""
    requests: Sequence[tuple[int, str]] = ()
    """Ids that the kernel has received, by their positions."""
    dropped_until: int = 0
    """Entries up to this number are no longer kept."""
    executions_from: int = 0
    requests_from: int = 0
    """Records before these positions are no longer kept."""


@dataclass(frozen=True)
class Stored:
    """What was found on disk."""

    entries: list[Entry]
    """Their numbers follow each other."""
    last_number: int
    """Of the newest entry that was written, be it that it is dropped; 0: unknown, or none."""
    state: bytes | None
    executions: list[tuple[int, bytes]]
    requests: list[tuple[int, str]]
    problem: str = ""
    """What was found damaged, in words."""


class JournalStore:
    """The files of one session. Used by one thread at a time; every method blocks.

    Args:
        folder: The session's alone; made when it is needed.
        max_pages: Of the database; for tests of what happens when the disk is full.
    """

    def __init__(self, folder: Path, *, max_pages: int | None = None) -> None:
        self.folder = folder
        self._max_pages = max_pages
        self._connection: sqlite3.Connection | None = None

    def write(self, batch: Batch) -> None:
        """Writes a batch.

        Raises:
            StoreError: It could not be written.
        """
        written: Path | None = None
        try:
            connection = self._open()
            removed = self._dropped(connection, batch.dropped_until)
            with connection:
                if batch.entries:
                    written = self._insert(connection, batch.entries)
                if batch.state is not None:
                    connection.execute("INSERT OR REPLACE INTO state VALUES (1, ?)", (batch.state,))
                connection.executemany("INSERT OR REPLACE INTO executions VALUES (?, ?)", batch.executions)
                connection.executemany("INSERT OR REPLACE INTO requests VALUES (?, ?)", batch.requests)
                connection.execute("DELETE FROM executions WHERE position < ?", (batch.executions_from,))
                connection.execute("DELETE FROM requests WHERE position < ?", (batch.requests_from,))
                connection.execute("DELETE FROM stretches WHERE last <= ?", (batch.dropped_until,))
        except (sqlite3.Error, OSError) as error:
            if written is not None:
                written.unlink(missing_ok=True)
            raise _store_error(error) from error
        for path in removed:
            path.unlink(missing_ok=True)
        if batch.state is not None:
            with contextlib.suppress(OSError):
                write_side_file(self.folder / SPARE_STATE_FILE, batch.state)

    def read_spare_state(self) -> bytes:
        """Returns the state from outside of the database, for when that is damaged.

        Raises:
            OSError: There is none.
        """
        return (self.folder / SPARE_STATE_FILE).read_bytes()

    def load(self) -> Stored:
        """Returns what an earlier agent has written. What is damaged is moved aside, and said."""
        if not (self.folder / DATABASE_FILE).exists():
            return Stored([], 0, None, [], [])
        try:
            connection = self._open()
            stretches = connection.execute(
                "SELECT first, last, checksum, size_bytes, payload FROM stretches ORDER BY first"
            ).fetchall()
            state = connection.execute("SELECT record FROM state").fetchone()
            executions = connection.execute("SELECT position, record FROM executions ORDER BY position").fetchall()
            requests = connection.execute("SELECT position, id FROM requests ORDER BY position").fetchall()
        except (sqlite3.Error, OSError, StoreError) as error:
            self.move_aside()
            return Stored([], 0, None, [], [], f"the journal cannot be read ({error})")
        entries: list[Entry] = []
        problem = ""
        last_number = 0
        for first, last, checksum, size_bytes, payload in stretches:
            try:
                content = payload if payload is not None else self._payload_path(first).read_bytes()
                if len(content) != size_bytes or _checksum([content]) != checksum:
                    raise ValueError("it is not what was written")
                found = list(decode(content, first))
            except (OSError, ValueError, KeyError, TypeError) as error:
                problem = f"entries {first} to {last} cannot be read ({error})"
                entries.clear()  # a reader goes on after the gap
                self._set_aside(self._payload_path(first))
            else:
                entries += found
            last_number = last
        self._remove_strays(first for first, *_ in stretches)
        return Stored(entries, last_number, state[0] if state else None, executions, requests, problem)

    def move_aside(self) -> None:
        """Makes room for a new database where the one that is there is damaged. Nothing of it is lost by that."""
        self.close()
        for path in self.folder.glob(f"{DATABASE_FILE}*"):
            if not path.name.endswith(_DAMAGED_SUFFIX):
                self._set_aside(path)
        shutil.rmtree(self.folder / PAYLOADS_FOLDER, ignore_errors=True)

    def close(self) -> None:
        """Closes the files; they stay. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def remove(self) -> None:
        """Removes all of it. Idempotent."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            _make_folder(self.folder)
            path = self.folder / DATABASE_FILE
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its other files the same mode
            connection = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("PRAGMA cache_size = -256")  # KiB
                connection.execute("PRAGMA secure_delete = ON")  # what is dropped is gone
                connection.executescript(_SCHEMA)
                if self._max_pages is not None:
                    connection.execute(f"PRAGMA max_page_count = {self._max_pages:d}")
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _insert(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> Path | None:
        pieces = encode(entries)
        size_bytes = sum(map(len, pieces))
        first, last = entries[0].number, entries[-1].number
        path, payload = None, None
        if size_bytes >= FILE_BYTES:
            path = self._payload_path(first)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.writelines(pieces)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        else:
            payload = b"".join(pieces)
        row = (first, last, _checksum(pieces), size_bytes, payload)
        try:
            connection.execute("INSERT INTO stretches VALUES (?, ?, ?, ?, ?)", row)
        except sqlite3.Error:
            if path is not None:
                path.unlink(missing_ok=True)
            raise
        return path

    def _dropped(self, connection: sqlite3.Connection, until: int) -> list[Path]:
        rows = connection.execute("SELECT first FROM stretches WHERE last <= ? AND payload IS NULL", (until,))
        return [self._payload_path(first) for (first,) in rows]

    def _payload_path(self, first: int) -> Path:
        return self.folder / PAYLOADS_FOLDER / str(first)

    def _set_aside(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.replace(self.folder / f"{path.name}{_DAMAGED_SUFFIX}")

    def _remove_strays(self, known: Iterable[int]) -> None:
        """Removes files that were written before their row was."""
        names = {str(first) for first in known}
        for path in (self.folder / PAYLOADS_FOLDER).glob("*"):
            if path.name not in names:
                path.unlink(missing_ok=True)


def write_side_file(path: Path, content: bytes) -> None:
    """Writes a small file beside the journal, whole or not at all, with access for the owner alone. Blocks.

    Raises:
        OSError: It cannot be written.
    """
    _make_folder(path.parent)
    new = path.with_name(f"{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    new.replace(path)


def _make_folder(folder: Path) -> None:
    for each in (folder.parent, folder):  # the mode is for the last of a path alone
        each.mkdir(mode=0o700, parents=True, exist_ok=True)


def _checksum(pieces: Iterable[bytes]) -> bytes:
    found = xxhash.xxh3_64()  # 200 MB in 4 ms, CRC-32 in 47 ms
    for piece in pieces:
        found.update(piece)
    return found.digest()


def encode(entries: Sequence[Entry]) -> list[bytes]:
    """Returns the entries as bytes in pieces, to be written without another copy of the parts.

    They are: how many numbers there are, the numbers, then all parts. The numbers are, for each entry: its kind, its
    channel, how many parts it has, and their sizes.
    """
    numbers = array.array("Q")
    parts: list[bytes] = []
    for entry in entries:
        body = entry.body
        if isinstance(body, Message):
            numbers.extend((_MESSAGE, body.channel, len(body.parts)))
            numbers.extend(map(len, body.parts))
            parts += body.parts
        else:
            part = json.dumps(_event_record(body)).encode()
            numbers.extend((_EVENT, 0, 1, len(part)))
            parts.append(part)
    return [len(numbers).to_bytes(8, "little"), numbers.tobytes(), *parts]


def decode(content: bytes, first_number: int) -> Iterator[Entry]:
    """Yields the entries of what `encode` has made.

    Raises:
        ValueError, KeyError, TypeError: It has not.
    """
    count = int.from_bytes(content[:8], "little")
    numbers = array.array("Q")
    position = 8 + count * numbers.itemsize
    numbers.frombytes(content[8:position])
    index, number = 0, first_number
    while index < count:
        kind, channel, part_count = numbers[index : index + 3]
        sizes = numbers[index + 3 : index + 3 + part_count]
        index += 3 + part_count
        parts = []
        for size in sizes:
            parts.append(content[position : position + size])
            position += size
        body = Message(channel, parts) if kind == _MESSAGE else _event_of(json.loads(parts[0]))
        content_bytes = sum(sizes) if kind == _MESSAGE else 0
        yield Entry(number, body, content_bytes + ENTRY_OVERHEAD_BYTES)
        number += 1


def _event_record(body: Body) -> dict[str, Any]:
    if isinstance(body, KernelStarted):
        return {"event": "kernel started", "generation": body.generation}
    if isinstance(body, KernelEnded):
        return {"event": "kernel ended", "generation": body.generation, "exit": vars(body.exit)}
    if isinstance(body, RequestRefused):
        return {"event": "refused", "request_id": body.request_id, "message": body.error.message}
    if isinstance(body, Choice):
        return {"event": "choice", "notebook_id": body.notebook_id, "session_id": body.session_id}
    if isinstance(body, Notice):
        return {"event": "notice", "text": body.text}
    if isinstance(body, CellTimedOut):
        return {
            "event": "timed out",
            "request_id": body.request_id,
            "timeout_s": body.timeout_s,
            "processes": [vars(each) for each in body.stacks.processes],
            "cells": dict(body.stacks.cells),
        }
    assert isinstance(body, SessionClosed)
    return {"event": "closed", "reason": body.reason}


def _event_of(record: dict[str, Any]) -> Body:
    kind = record["event"]
    if kind == "kernel started":
        return KernelStarted(record["generation"])
    if kind == "kernel ended":
        return KernelEnded(record["generation"], KernelExit(**record["exit"]))
    if kind == "refused":
        return RequestRefused(record["request_id"], KernelDiedError(record["message"]))
    if kind == "choice":
        return Choice(record["notebook_id"], record["session_id"])
    if kind == "notice":
        return Notice(record["text"])
    if kind == "timed out":
        processes = tuple(ProcessStacks(**each) for each in record["processes"])
        return CellTimedOut(record["request_id"], record["timeout_s"], Stacks(processes, record["cells"]))
    return SessionClosed(record["reason"])


def _store_error(error: Exception) -> StoreError:
    full = getattr(error, "errno", None) in NO_SPACE or "disk is full" in str(error)
    damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.OperationalError | sqlite3.IntegrityError
    )
    return StoreError(os.strerror(errno.ENOSPC) if full else str(error), no_space=full, damaged=damaged)
