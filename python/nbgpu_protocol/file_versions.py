"""Versions of files, and the pieces that they are of, so that what was cut off in a large file goes on there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

PIECE_BYTES = 8 << 20
DIGEST_BYTES = 32
_KEPT = 400_000
"""Versions that are remembered."""
_YOUNG_NS = 2_000_000_000
_EXECUTABLE = "+x"


@dataclass(frozen=True)
class Inspected:
    """A file that was read."""

    version: str
    size_bytes: int
    modified_unix_ns: int
    piece_digests: tuple[str, ...]


def version_of_file(piece_digests: Iterable[str], *, executable: bool) -> str:
    return _digest("\n".join(piece_digests).encode()) + (_EXECUTABLE if executable else "")


def is_executable(version: str) -> bool:
    return version.endswith(_EXECUTABLE)


class FileVersions:
    """The versions of files that were read, known for as long as the files do not change. For one thread at a time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, ...], Inspected]] = {}

    def known(self, path: str, status: os.stat_result) -> Inspected | None:
        found = self._known.get(path)
        return found[1] if found is not None and found[0] == stamp_of(status) else None

    def remember(self, path: str, status: os.stat_result, inspected: Inspected) -> None:
        """Remembers a version that was read, or written, when the file had that status."""
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[path] = (stamp_of(status), inspected)

    def forget(self, path: str) -> None:
        self._known.pop(path, None)

    def inspect(
        self, path: str, file: BinaryIO, on_progress: Callable[[int], None] = lambda _: None
    ) -> Inspected | None:
        """Reads an open file, unless its version is known; None where it changes while it is read."""
        before = os.fstat(file.fileno())
        if (known := self.known(path, before)) is not None:
            on_progress(before.st_size)
            return known
        digests = []
        size_bytes = 0
        for piece in _pieces(file):
            digests.append(_digest(piece))
            size_bytes += len(piece)
            on_progress(len(piece))
            if size_bytes > before.st_size:
                return None  # and not read on: whoever writes may be as fast
        after = os.fstat(file.fileno())
        if stamp_of(before) != stamp_of(after) or size_bytes != after.st_size:
            return None
        version = version_of_file(digests, executable=bool(after.st_mode & 0o111))
        inspected = Inspected(version, size_bytes, after.st_mtime_ns, tuple(digests))
        # Within the clock's tick, a file can change again and look the same.
        if abs(time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns)) > _YOUNG_NS:
            self.remember(path, after, inspected)
        return inspected


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Returns what differs after a file has changed."""
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


@dataclass
class PieceCheck:
    """Checks bytes that come in order against the digests of pieces."""

    piece_digests: tuple[str, ...]
    position: int = 0
    """Bytes so far; to begin with, a whole number of pieces."""
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def take(self, chunk: bytes) -> bool:
        """Takes the next bytes; False where they are not those that were announced."""
        view = memoryview(chunk)
        while view:
            index, within = divmod(self.position, PIECE_BYTES)
            part = view[: PIECE_BYTES - within]
            self._hash.update(part)
            self.position += len(part)
            view = view[len(part) :]
            if self.position % PIECE_BYTES == 0 and not self._ends(index):
                return False
        return True

    def finish(self) -> bool:
        """Says whether all pieces have come, and nothing else."""
        index, within = divmod(self.position, PIECE_BYTES)
        if within:
            return self._ends(index) and index + 1 == len(self.piece_digests)
        return index == len(self.piece_digests)

    def _ends(self, index: int) -> bool:
        digest, self._hash = f"sha256:{self._hash.hexdigest()}", hashlib.sha256()
        return index < len(self.piece_digests) and digest == self.piece_digests[index]


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def packed(piece_digests: Iterable[str]) -> bytes:
    """Returns digests in the form in which many of them travel."""
    return b"".join(bytes.fromhex(digest.partition(":")[2]) for digest in piece_digests)


def unpacked(content: bytes) -> tuple[str, ...]:
    return tuple(
        f"sha256:{content[start : start + DIGEST_BYTES].hex()}" for start in range(0, len(content), DIGEST_BYTES)
    )


def partial_name(path: str, version: str) -> str:
    """Returns the name of the file that holds what has come of a version on its way to a path."""
    return f"{partial_prefix(path)}{hashlib.sha256(version.encode()).hexdigest()[:16]}.partial"


def partial_prefix(path: str) -> str:
    return f"{hashlib.sha256(path.encode(errors='replace')).hexdigest()[:16]}-"


def whole_pieces(size_bytes: int) -> int:
    """Returns the bytes of the pieces that are whole in a partial file, of which the last may have been cut."""
    return size_bytes - size_bytes % PIECE_BYTES


def remove_partials(folder: str, prefix: str, *, but: str = "") -> None:
    """Removes what is on its way to a path, as it stands for a version that nobody has any more."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(prefix) and name != but:
                os.unlink(os.path.join(folder, name))
