"""The node's content-addressed store: what was sent once is not sent again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import queue
import secrets
import shutil
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from nbgpu_agent.errors import DigestMismatchError, DiskFullError, InvalidRequestError, NoSuchBlobError
from nbgpu_agent.isolation.os_user import OsUser, acting, own_folder
from nbgpu_protocol import blobs as protocol

DEFAULT_LIMIT_BYTES = 64 << 30
_PARTIAL_SUFFIX = ".partial"
_CHUNKS_AHEAD = 8
"""Received and not yet written; of one content."""
_NO_BLOB = frozenset({errno.ELOOP, errno.EACCES, errno.ENXIO})
"""Numbers of the errors of what a kernel has put in the place of a blob."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Numbers of the errors of a full disk."""


class BlobStore:
    """Blobs as files in a folder, the ones used longest ago removed when there are too many bytes.

    File work happens in threads. Any number of puts and gets may go on at once, of the same blob as well: what is there
    is always whole.

    Args:
        folder: The store's alone; made when it is needed.
        limit_bytes: Of all blobs. One that is larger is kept until the next comes.
        os_user: Whose it is, and with whose rights all is done in it: kernels of theirs put files there as well. None:
            the agent's.
    """

    def __init__(self, folder: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES, os_user: OsUser | None = None) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._os_user = os_user
        self._room_bytes = 0
        """How much can come before all blobs are looked at, which takes long where they are many."""

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
            DiskFullError: There is no space. Nothing is stored.
        """
        path = self._path(digest)
        if await asyncio.to_thread(self._touch, path):
            return
        partial = path.with_name(f"{secrets.token_hex(8)}{_PARTIAL_SUFFIX}")
        content_hash = protocol.hash_for(digest)
        await asyncio.to_thread(self._make_folder)
        try:
            with acting(self._os_user):
                descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb", 0) as file:

                def take(chunk: bytes) -> None:
                    content_hash.update(chunk)
                    view = memoryview(chunk)
                    while view:
                        view = view[file.write(view) :]

                await _take_each(chunks, take)
            if not protocol.is_of(content_hash, digest):
                raise DigestMismatchError(
                    f"the content has the digest {content_hash.hexdigest()}, {digest} was announced"
                )
            with acting(self._os_user):
                os.replace(partial, path)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DiskFullError("no space is left on the node for what is sent") from error
            raise
        finally:
            self._unlink(partial)
        await asyncio.to_thread(self._evict, path)

    async def get(self, digest: str) -> AsyncIterator[bytes]:
        """Yields the content in chunks. It stays whole when it is evicted meanwhile. What is lent is then removed.

        Raises:
            InvalidRequestError: The digest is malformed.
            NoSuchBlobError: It is not here.
        """
        is_lent = protocol.LENT.fullmatch(digest) is not None
        path = self._folder / digest.replace(":", "-") if is_lent else self._path(digest)
        try:
            file = await asyncio.to_thread(self._open, path)
        except FileNotFoundError:
            raise NoSuchBlobError(f"there is no blob {digest} here", "put it first") from None
        with file:
            self._touch(path)
            reading = asyncio.create_task(asyncio.to_thread(file.read, protocol.CHUNK_BYTES))
            try:
                while chunk := await reading:
                    # The next is read while this one is sent.
                    reading = asyncio.create_task(asyncio.to_thread(file.read, protocol.CHUNK_BYTES))
                    yield chunk
            finally:
                await asyncio.wait([reading])
        if is_lent:
            await asyncio.to_thread(self._unlink, path)

    def path_of(self, digest: str) -> Path:
        """Returns the file of a blob, which is there if the blob is; it counts as used.

        Raises:
            InvalidRequestError: The digest is malformed.
            NoSuchBlobError: It is not here.
        """
        path = self._path(digest)
        if not self._touch(path):
            raise NoSuchBlobError(f"there is no blob {digest} here", "put it first")
        return path

    def open(self, digest: str) -> BinaryIO:
        """Opens a blob to read; it stays whole when it is evicted meanwhile.

        Raises:
            InvalidRequestError: The digest is malformed.
            NoSuchBlobError: It is not here.
        """
        try:
            return self._open(self.path_of(digest))
        except FileNotFoundError:
            raise NoSuchBlobError(f"there is no blob {digest} here", "put it first") from None

    def _open(self, path: Path) -> BinaryIO:
        try:
            with acting(self._os_user):
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NO_BLOB:
                raise FileNotFoundError(path) from None
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(path)
        return os.fdopen(descriptor, "rb", buffering=0)

    def size_bytes(self) -> int:
        """Returns how much is stored."""
        return sum(size for _, size, _ in self._stored())

    def remove_all(self) -> None:
        """Removes every blob, and the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, digest: str) -> Path:
        if not protocol.DIGEST.fullmatch(digest):
            raise InvalidRequestError(f"{digest[:100]!r} is not a digest, such as `sha256:` and 64 hexadecimal digits")
        return self._folder / digest.replace(":", "-")

    def _unlink(self, path: Path) -> None:
        with acting(self._os_user):
            path.unlink(missing_ok=True)

    def _touch(self, path: Path) -> bool:
        try:
            with acting(self._os_user):
                os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _make_folder(self) -> None:
        own_folder(self._folder, self._os_user, replace=True)

    def _stored(self) -> list[tuple[int, int, Path]]:
        """Returns time of last use, size and path of every blob."""
        found = []
        with acting(self._os_user):
            for entry in os.scandir(self._folder) if self._folder.is_dir() else ():
                if entry.name.endswith(_PARTIAL_SUFFIX):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        return found

    def _evict(self, newest: Path) -> None:
        with contextlib.suppress(FileNotFoundError), acting(self._os_user):
            self._room_bytes -= newest.stat().st_size
        if self._room_bytes >= 0:
            return
        stored = sorted(self._stored())
        excess = sum(size for _, size, _ in stored) - self._limit_bytes
        # Others put files here as well: looked at again long before there is no room.
        self._room_bytes = min(-excess, self._limit_bytes // 16)
        for _, size, path in stored:
            if excess <= 0:
                return
            if path != newest:
                self._unlink(path)
                excess -= size


async def _take_each(chunks: AsyncIterator[bytes], take: Callable[[bytes], None]) -> None:
    """Has every chunk taken in one thread, one after the other, while the next ones are received.

    A thread of its own, with a queue before it: to hand each chunk to a pool and wait for it costs the event loop as
    much time again as receiving it, and a slow client would hold one of the pool's few threads for as long as it sends.
    """
    loop = asyncio.get_running_loop()
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    free = asyncio.Semaphore(_CHUNKS_AHEAD)
    has_failed = threading.Event()

    def take_all() -> None:
        try:
            while (chunk := waiting.get()) is not None:
                take(chunk)
                loop.call_soon_threadsafe(free.release)
        except BaseException:
            has_failed.set()
            loop.call_soon_threadsafe(free.release)
            raise

    thread = ThreadPoolExecutor(1, "blob")
    taking = loop.run_in_executor(thread, take_all)
    thread.shutdown(wait=False)  # it ends with what it does
    try:
        async for chunk in chunks:
            await free.acquire()
            if has_failed.is_set():
                break
            waiting.put(chunk)
    finally:
        waiting.put(None)
        await asyncio.wait([taking])  # it uses the caller's file
    taking.result()
