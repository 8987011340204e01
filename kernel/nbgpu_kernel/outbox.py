"""Keeps what the kernel says until its agent has it for good, and says it again to the next agent.

Output and replies leave in one numbered order on the output socket, which drops what nobody listens to. The agent
notes the number up to which it has them, where it dies with nothing, in eight bytes of a file that both have mapped:
no message is needed for it. What is not noted is kept here: in memory, and in files where it is much, or waits long.
"""

from __future__ import annotations

import collections
import contextlib
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "NBGPU_OUTBOX_FOLDER"
"""Names the folder of the file `acknowledged`, and of what is kept. Removed from the environment once read."""
LIMIT_VARIABLE = "NBGPU_OUTBOX_BYTES"
"""How much is kept in files. Removed from the environment once read."""
ACKNOWLEDGED_FILE = "acknowledged"
RESENDING, RESENT = b"nbgpu-resending", b"nbgpu-resent"
NUMBER_PREFIX = b"nbgpu:"
DEFAULT_LIMIT_BYTES = 256 << 20
IOPUB_CHANNEL = 4

_DELIMITER = b"<IDS|MSG>"
_MEMORY_BYTES = 64 << 20
_MAX_AGE_S = 1.0
"""What waits longer for an agent is written down, so that it outlives the kernel as well."""
_TRIM_EVERY = 64
_HEAD = struct.Struct("<QI")
_SIZE = struct.Struct("<Q")


class Outbox:
    """Stands in the place of the output socket. Used by the thread that sends output, but for what says otherwise.

    Args:
        socket: The output socket.
        folder: Has the file `acknowledged`.
        limit_bytes: How much is kept in files before the oldest is dropped.
        call_later: Has a function called on the same thread after some seconds; raises RuntimeError when that is over.
    """

    def __init__(
        self, socket: Any, folder: Path, limit_bytes: int, call_later: Callable[[float, Callable[[], None]], Any]
    ) -> None:
        with open(folder / ACKNOWLEDGED_FILE, "rb") as file:  # which may be another user's
            self._acknowledged = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
        self.number = 0
        """Of the newest message."""
        self._socket = socket
        self._call_later = call_later
        self._kept: collections.deque[tuple[int, float, Sequence[Any]]] = collections.deque()
        self._kept_bytes = 0
        self._spool = Spool(folder, limit_bytes)
        self._timer_runs = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def send_multipart(self, frames: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """Sends output, numbered and kept."""
        self._send(IOPUB_CHANNEL, frames, *args, **kwargs)

    def send_reply(self, channel: int, frames: Sequence[Any]) -> None:
        """Sends what answers on another channel: in the order of the output, and kept like it."""
        start = list(frames).index(_DELIMITER)
        self._send(channel, [b"reply", *frames[start:]])

    def resend(self, after: int, request_id: str) -> None:
        """Sends all that is kept after the number again, between two marks that name the request."""
        self._trim()
        first = self._spool.first_after(after)
        if first is None:
            first = next((number for number, _, _ in self._kept if number > after), self.number + 1)
        self._socket.send_multipart([RESENDING, request_id.encode(), b"%d" % first])
        for number, frames in self._spool.read(after):
            if number > after:
                self._socket.send_multipart(frames)
        for number, _, kept in list(self._kept):
            if number > after:
                self._socket.send_multipart(kept)
        self._socket.send_multipart([RESENT, request_id.encode(), b"%d" % self.number])

    def write_down(self) -> None:
        """Writes what nobody has yet into files: at the end of the process, where no agent may be there. Any thread."""
        self._trim()
        self._write_kept()

    def _send(self, channel: int, frames: Sequence[Any], *args: Any, **kwargs: Any) -> None:
        if not _is_message(frames):
            self._socket.send_multipart(frames, *args, **kwargs)
            return
        at = frames.index(_DELIMITER)
        self.number += 1
        tag = NUMBER_PREFIX + b"%d:%d" % (self.number, channel)
        # A buffer may be of an array that the cell goes on to change.
        kept = [*frames[:at], tag, *(f if isinstance(f, bytes) else bytes(f) for f in frames[at:])]
        self._kept.append((self.number, time.monotonic(), kept))
        self._kept_bytes += sum(map(len, kept))
        self._socket.send_multipart(kept, *args, **kwargs)
        if self.number % _TRIM_EVERY == 0 or self._kept_bytes > _MEMORY_BYTES:
            self._trim()
        if not self._timer_runs:
            self._start_timer()

    def _start_timer(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._call_later(_MAX_AGE_S, self._on_timer)
            self._timer_runs = True

    def _on_timer(self) -> None:
        self._timer_runs = False
        self._trim()
        if self._kept:
            self._start_timer()

    def _trim(self) -> None:
        """Forgets what the agent has, and writes down what it leaves here for long."""
        acknowledged = int.from_bytes(self._acknowledged[:8], "little")
        kept = self._kept
        while kept and kept[0][0] <= acknowledged:
            self._kept_bytes -= sum(map(len, kept.popleft()[2]))
        self._spool.forget(acknowledged)
        if kept and (self._kept_bytes > _MEMORY_BYTES or time.monotonic() - kept[0][1] > _MAX_AGE_S):
            self._write_kept()

    def _write_kept(self) -> None:
        while self._kept:
            number, _, frames = self._kept[0]
            if not self._spool.append(number, frames):
                break
            self._kept.popleft()
            self._kept_bytes -= sum(map(len, frames))
        while self._kept_bytes > _MEMORY_BYTES:  # the disk is full
            self._kept_bytes -= sum(map(len, self._kept.popleft()[2]))


def _is_message(frames: Sequence[Any]) -> bool:
    """Says whether this is a Jupyter message for everyone, other than the welcome of a new subscriber."""
    try:
        header = frames[frames.index(_DELIMITER) + 2]
    except (ValueError, IndexError):
        return False
    return b'"iopub_welcome"' not in bytes(header)


class Spool:
    """Numbered messages in files, of which the older goes when there are more than enough bytes in both.

    Args:
        folder: For its files.
        limit_bytes: Of all files.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._file_bytes = max(limit_bytes // 2, 1)
        self._parts: list[_Part] = []

    def append(self, number: int, frames: Sequence[bytes]) -> bool:
        """Writes a message; returns False where it cannot be written."""
        try:
            if not self._parts or self._parts[-1].size_bytes >= self._file_bytes:
                self._parts.append(_Part(self._folder / f"outbox-{number}"))
                if len(self._parts) > 2:
                    self._parts.pop(0).remove()
            self._parts[-1].append(number, frames)
        except OSError:
            return False
        return True

    def forget(self, number: int) -> None:
        """Removes files of which everything has a number up to this one."""
        while self._parts and self._parts[0].last <= number:
            self._parts.pop(0).remove()

    def first_after(self, number: int) -> int | None:
        """Returns the lowest number above this one that is here."""
        return next((max(part.first, number + 1) for part in self._parts if part.last > number), None)

    def read(self, after: int) -> Iterator[tuple[int, list[bytes]]]:
        for part in self._parts:
            if part.last > after:
                yield from read_part(part.path)


class _Part:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self.first = self.last = 0
        self.size_bytes = 0

    def append(self, number: int, frames: Sequence[bytes]) -> None:
        pieces = [_HEAD.pack(number, len(frames))]
        for frame in frames:
            pieces += [_SIZE.pack(len(frame)), frame]
        left = memoryview(b"".join(pieces))
        size_bytes = len(left)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.size_bytes)
                os.lseek(self._file, self.size_bytes, os.SEEK_SET)
            raise
        self.first = self.first or number
        self.last = number
        self.size_bytes += size_bytes

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._file)
        with contextlib.suppress(OSError):
            self.path.unlink()


def read_part(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Yields the messages of a file; what was written in part at its end is left out."""
    with open(path, "rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            number, count = _HEAD.unpack(head)
            frames = []
            for _ in range(count):
                size = file.read(_SIZE.size)
                if len(size) < _SIZE.size:
                    return
                frame = file.read(_SIZE.unpack(size)[0])
                if len(frame) < _SIZE.unpack(size)[0]:
                    return
                frames.append(frame)
            yield number, frames
