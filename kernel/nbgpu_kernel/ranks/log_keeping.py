"""Keeps what ranks write: each rank's log whole, and the order in which all of them wrote."""

from __future__ import annotations

import os
import selectors
from dataclasses import dataclass
from typing import Any

from nbgpu_kernel.ranks.call_folder import MAX_LOG_BYTES, CallFolder, feed_line

CHUNK_BYTES = 1 << 16
_PIPE_CHUNKS = 16


@dataclass(frozen=True)
class _Stream:
    """What is at the other end of a pipe."""

    rank: int
    is_stderr: bool


class LogKeeper:
    """The logs of one call, or of one cell after the other. Its files are closed when the process ends.

    Args:
        folder: The call's, or the first cell's.
        selector: Takes the pipes, with data for `keep`.
    """

    def __init__(self, folder: CallFolder, selector: selectors.BaseSelector) -> None:
        self._folder = folder
        self._selector = selector
        self._feed: Any = None
        self._logs: dict[int, Any] = {}
        self._kept_bytes: dict[int, int] = {}
        self._readers: dict[int, list[tuple[int, _Stream]]] = {}
        self.written_bytes = 0
        """By all ranks, whether or not it was kept."""

    def open_pipe(self, rank: int, *, is_stderr: bool) -> int:
        """Returns the end to which a rank writes."""
        reader, writer = open_pipe()
        stream = _Stream(rank, is_stderr)
        self._selector.register(reader, selectors.EVENT_READ, stream)
        self._readers.setdefault(rank, []).append((reader, stream))
        return writer

    def move_to(self, folder: CallFolder) -> None:
        """Keeps what is written from now on in another folder."""
        for file in (self._feed, *self._logs.values()):
            if file is not None:
                file.close()
        self._folder, self._feed = folder, None
        self._logs.clear()
        self._kept_bytes.clear()

    def drain(self, rank: int) -> None:
        """Keeps all that a rank has written by now, at most what its pipes hold."""
        for descriptor, stream in list(self._readers.get(rank, ())):
            for _ in range(_PIPE_CHUNKS):
                if not self.keep(descriptor, stream):
                    break

    def close_pipes(self, rank: int) -> None:
        """Keeps what is left of a rank that has ended, and closes its pipes."""
        self.drain(rank)
        for descriptor, _ in self._readers.pop(rank, ()):
            self._selector.unregister(descriptor)
            os.close(descriptor)

    def keep(self, descriptor: int, stream: _Stream) -> bool:
        """Takes what can be read of a pipe now, at most a chunk; returns whether there was something."""
        try:
            data = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(descriptor)
            self._readers[stream.rank].remove((descriptor, stream))
            os.close(descriptor)
            return False
        self.written_bytes += len(data)
        rank = stream.rank
        kept_bytes = self._kept_bytes.get(rank, 0)
        if kept_bytes >= MAX_LOG_BYTES:
            return True
        self._kept_bytes[rank] = kept_bytes + len(data)
        if self._kept_bytes[rank] >= MAX_LOG_BYTES:
            limit = f"{MAX_LOG_BYTES >> 20} MiB"
            data += f"\n[nbgpu: rank {rank} wrote more than {limit}; the rest is not kept]\n".encode()
        if self._feed is None:
            self._feed = open(self._folder.feed, "ab", buffering=0)  # noqa: SIM115 - for as long as the call
        if rank not in self._logs:
            self._logs[rank] = open(self._folder.log(rank), "ab", buffering=0)  # noqa: SIM115
        self._logs[rank].write(data)
        self._feed.write(feed_line(rank, stream.is_stderr, len(data)))
        return True


def open_pipe() -> tuple[int, int]:
    """Returns a pipe's two ends, of which reading does not block."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    return reader, writer
