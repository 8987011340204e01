"""Keeps what the ranks of a call write: each rank's log whole, and the order in which all of them wrote."""

from __future__ import annotations

import os
import selectors
from dataclasses import dataclass
from typing import Any

from nbgpu_kernel.ranks.call_folder import MAX_LOG_BYTES, CallFolder, feed_line

CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class _Stream:
    """What is at the other end of a pipe."""

    rank: int
    is_stderr: bool


class LogKeeper:
    """The logs of one call. Its files are closed when the process ends.

    Args:
        folder: The call's.
        selector: Takes the pipes, with data for `keep`.
    """

    def __init__(self, folder: CallFolder, selector: selectors.BaseSelector) -> None:
        self._folder = folder
        self._selector = selector
        self._feed = open(folder.feed, "ab", buffering=0)  # noqa: SIM115 - for as long as the call
        self._logs: dict[int, Any] = {}
        self._kept_bytes: dict[int, int] = {}
        self.written_bytes = 0
        """By all ranks, whether or not it was kept."""

    def open_pipe(self, rank: int, *, is_stderr: bool) -> int:
        """Returns the end to which a rank writes."""
        if rank not in self._logs:
            self._logs[rank] = open(self._folder.log(rank), "ab", buffering=0)  # noqa: SIM115
            self._kept_bytes[rank] = 0
        reader, writer = open_pipe()
        self._selector.register(reader, selectors.EVENT_READ, _Stream(rank, is_stderr))
        return writer

    def keep(self, descriptor: int, stream: _Stream) -> None:
        """Takes what can be read of a pipe now, at most a chunk."""
        try:
            data = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(descriptor)
            os.close(descriptor)
            return
        self.written_bytes += len(data)
        rank = stream.rank
        if self._kept_bytes[rank] >= MAX_LOG_BYTES:
            return
        self._kept_bytes[rank] += len(data)
        if self._kept_bytes[rank] >= MAX_LOG_BYTES:
            limit = f"{MAX_LOG_BYTES >> 20} MiB"
            data += f"\n[nbgpu: rank {rank} wrote more than {limit}; the rest is not kept]\n".encode()
        self._logs[rank].write(data)
        self._feed.write(feed_line(rank, stream.is_stderr, len(data)))


def open_pipe() -> tuple[int, int]:
    """Returns a pipe's two ends, of which reading does not block."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    return reader, writer
