"""The node's content-addressed store: what was sent once is not sent again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from nbgpu_agent.errors import DigestMismatchError, InvalidRequestError, NoSuchBlobError
from nbgpu_protocol import blobs as protocol

DEFAULT_LIMIT_BYTES = 64 << 30
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PARTIAL_SUFFIX = ".partial"


class BlobStore:
    """Blobs as files in a folder, the ones used longest ago removed when there are too many bytes.

    File work happens in threads. Any number of puts and gets may go on at once, of the same blob as well: what is there
    is always whole.

    Args:
        folder: The store's alone; made when it is needed.
        limit_bytes: Of all blobs. One that is larger is kept until the next comes.
    """

    def __init__(self, folder: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Returns those that are not here. What is here counts as used.

        Raises:
            InvalidRequestError: A digest is malformed.
        """
        return [digest for digest in digests if not self._touch(self._path(digest))]

    async def put(self, digest: str, chunks: AsyncIterator[bytes]) -> None:
        """Stores a content, whole or not at all. One that is here already is not read again.

        Raises:
            InvalidRequestError: The digest is malformed.
            DigestMismatchError: The content has another digest. Nothing is stored.
        """
        path = self._path(digest)
        if await asyncio.to_thread(self._touch, path):
            return
        partial = path.with_name(f"{secrets.token_hex(8)}{_PARTIAL_SUFFIX}")
        content_hash = protocol.new_hash()
        await asyncio.to_thread(self._make_folder)
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:

                def take(chunk: bytes) -> None:
                    content_hash.update(chunk)
                    file.write(chunk)

                async for chunk in chunks:
                    await asyncio.to_thread(take, chunk)
            if protocol.digest_of(content_hash) != digest:
                raise DigestMismatchError(
                    f"the content has the digest {protocol.digest_of(content_hash)}, {digest} was announced"
                )
            os.replace(partial, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()
        await asyncio.to_thread(self._evict, path)

    async def get(self, digest: str) -> AsyncIterator[bytes]:
        """Yields the content in chunks. It stays whole when it is evicted meanwhile.

        Raises:
            InvalidRequestError: The digest is malformed.
            NoSuchBlobError: It is not here.
        """
        path = self._path(digest)
        try:
            file = await asyncio.to_thread(open, path, "rb", 0)
        except FileNotFoundError:
            raise NoSuchBlobError(f"there is no blob {digest} here", "put it first") from None
        with file:
            self._touch(path)
            while chunk := await asyncio.to_thread(file.read, protocol.CHUNK_BYTES):
                yield chunk

    def size_bytes(self) -> int:
        """Returns how much is stored."""
        return sum(size for _, size, _ in self._stored())

    def remove_all(self) -> None:
        """Removes every blob, and the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise InvalidRequestError(f"{digest[:100]!r} is not a digest, which is `sha256:` and 64 hexadecimal digits")
        return self._folder / digest.replace(":", "-")

    def _touch(self, path: Path) -> bool:
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _stored(self) -> list[tuple[int, int, Path]]:
        """Returns time of last use, size and path of every blob."""
        found = []
        for entry in os.scandir(self._folder) if self._folder.is_dir() else ():
            if entry.name.endswith(_PARTIAL_SUFFIX):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                found.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        return found

    def _evict(self, newest: Path) -> None:
        stored = sorted(self._stored())
        excess = sum(size for _, size, _ in stored) - self._limit_bytes
        for _, size, path in stored:
            if excess <= 0:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                excess -= size
