"""Takes large parts of a message to the node's store and from it: as files on this machine, else over the wire."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash

from nbgpu.client.background import background
from nbgpu.client.pool import Pool
from nbgpu.errors import NoSuchBlobError
from nbgpu.values.errors import size_in_words
from nbgpu_kernel.values.blob_files import BlobFiles
from nbgpu_protocol import blobs as protocol

_QUIET_S = 1.0
_REPORT_INTERVAL_S = 0.2


class Transfer:
    """Parts to and from one agent's store. Blocks, and can be interrupted.

    Args:
        pool: Whose agent has the store.
        folder: The store's, where the agent is on this machine and of this user; else None.
    """

    def __init__(self, pool: Pool, folder: Path | None) -> None:
        self._pool = pool
        self._files = BlobFiles(folder) if folder is not None else None

    def put(self, part: Sequence[Any]) -> str:
        """Stores a part, unless it is there already; returns the name by which the session's kernel finds it."""
        size_bytes = sum(memoryview(piece).nbytes for piece in part)
        with progress_line("sending", size_bytes) as report:
            if self._files is not None:
                return self._files.lend(part, report)
            content_hash = xxhash.xxh3_128()
            for piece in part:
                content_hash.update(piece)
            digest = f"xxh3:{content_hash.hexdigest()}"
            background().run(self._put(digest, part, report))
        return digest

    def discard(self, names: Iterable[str]) -> None:
        """Removes parts that were put for one kernel alone and that it has not taken."""
        for name in names:
            if self._files is not None:
                self._files.discard(name)

    def get(self, digest: str, size_bytes: int) -> memoryview:
        """Returns a part, which can be written to.

        Raises:
            MissingBlobError, NoSuchBlobError: It is not there, or not of that size.
            MemoryError: There is no room for so much.
        """
        if self._files is not None:
            mapped = self._files.map(digest)
            if len(mapped) != size_bytes:
                raise NoSuchBlobError(f"of {digest} there are {len(mapped)} bytes, {size_bytes} were announced")
            return mapped
        try:
            content = bytearray(size_bytes)
        except OverflowError:
            raise MemoryError from None
        with progress_line("fetching", size_bytes) as report:
            background().run(self._get(digest, content, report))
        return memoryview(content)

    async def _put(self, digest: str, part: Sequence[Any], report: Callable[[int], None]) -> None:
        if not await self._pool.missing_blobs([digest]):
            return

        async def chunks() -> AsyncIterator[bytes]:
            sent = 0
            for piece in part:
                view = memoryview(piece).cast("B")
                for start in range(0, len(view), protocol.CHUNK_BYTES):
                    chunk = bytes(view[start : start + protocol.CHUNK_BYTES])
                    yield chunk
                    sent += len(chunk)
                    report(sent)

        await self._pool.put_blob(digest, chunks())

    async def _get(self, digest: str, content: bytearray, report: Callable[[int], None]) -> None:
        view = memoryview(content)
        position = 0
        async for chunk in self._pool.get_blob(digest):
            if position + len(chunk) <= len(view):
                view[position : position + len(chunk)] = chunk
            position += len(chunk)
            report(position)
            if position > len(view):
                break
        if position != len(view):
            raise NoSuchBlobError(f"of {digest} there are {position} bytes, {len(view)} were announced")


@contextlib.contextmanager
def progress_line(verb: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
    """Yields what is told how much is done; writes a line that is rewritten, if it takes longer than a moment."""
    started = last = time.monotonic()
    shown = False

    def show(done_bytes: int) -> None:
        text = f"nbgpu: {verb} {size_in_words(size_bytes)}: {100 * done_bytes // max(1, size_bytes)}%"
        print(f"\r{text}", end="", file=sys.stderr, flush=True)

    def report(done_bytes: int) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if now - started < _QUIET_S or now - last < _REPORT_INTERVAL_S:
            return
        last, shown = now, True
        show(done_bytes)

    try:
        yield report
        if shown:
            show(size_bytes)
    finally:
        if shown:
            print(file=sys.stderr, flush=True)
