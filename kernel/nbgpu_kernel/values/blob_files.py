"""The node's store of blobs as whoever is on the same machine sees it: files, mapped rather than read."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from nbgpu_kernel.values import mapped_files

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|xxh3:[0-9a-f]{32}")
_LENT = re.compile(r"lent:[0-9a-f]{32}")
_PIECE_BYTES = 4 << 20
FORGOTTEN_AFTER_S = 3600.0
"""What was lent and is not taken for so long is removed by the next who lends: who was to take it is gone."""


class MissingBlobError(LookupError):
    """Raised when a blob is not in the store, or no longer."""


class BlobFiles:
    """The store's folder, to which the agent's own store keeps as well: whole files, named by their digests.

    Args:
        folder: Need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def map(self, digest: str) -> memoryview:
        """Returns the content. It can be written to, which changes it for nobody else, and outlives its eviction.

        What was lent is in the store no more then: its space is free once nobody uses the content.

        Raises:
            MissingBlobError: It is not here.
        """
        is_lent = _LENT.fullmatch(digest) is not None
        if not is_lent and not _DIGEST.fullmatch(digest):
            raise MissingBlobError(digest[:100])
        path = self._path(digest)
        try:
            os.utime(path)  # used now: those used longest ago are evicted first
            with open(path, "rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    return memoryview(bytearray())
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                mapped_files.remember(mapped, file.fileno())
                if is_lent:
                    path.unlink(missing_ok=True)
                return memoryview(mapped)
        except FileNotFoundError:
            raise MissingBlobError(digest) from None

    def lend(
        self,
        segments: Iterable[bytes | bytearray | memoryview],
        report: Callable[[int], None] = lambda done_bytes: None,
    ) -> str:
        """Stores a content for the one process that is told of it; returns its name.

        Args:
            segments: The content.
            report: Told now and then how many bytes are stored.
        """
        name = f"lent:{secrets.token_hex(16)}"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_forgotten()
        path = self._path(name)
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0) as file:
                done_bytes = 0
                for segment in segments:
                    view = memoryview(segment).cast("B")
                    for start in range(0, len(view), _PIECE_BYTES):
                        piece = view[start : start + _PIECE_BYTES]
                        _write_all(file, piece)
                        done_bytes += len(piece)
                        report(done_bytes)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return name

    def discard(self, name: str) -> None:
        """Removes what was lent, if nobody has taken it."""
        if _LENT.fullmatch(name):
            self._path(name).unlink(missing_ok=True)

    def _remove_forgotten(self) -> None:
        before_s = time.time() - FORGOTTEN_AFTER_S
        for path in self._folder.glob("lent-*"):
            with contextlib.suppress(FileNotFoundError):  # somebody else takes or removes it
                if path.stat().st_mtime < before_s:
                    path.unlink()

    def _path(self, digest: str) -> Path:
        return self._folder / digest.replace(":", "-")


def _write_all(file: IO[bytes], view: memoryview) -> None:
    while len(view):
        view = view[file.write(view) :]
