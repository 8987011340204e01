"""Brings files of the session here: each takes its place whole, and what was cut off goes on where it was."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nbgpu import errors
from nbgpu.client.workspace import WorkspaceClient
from nbgpu.workspace.errors import LocalDiskError
from nbgpu.workspace.folder_lock import locked
from nbgpu.workspace.local_tree import LocalEntry, LocalTree
from nbgpu_protocol.file_versions import (
    Inspected,
    PieceCheck,
    is_executable,
    partial_name,
    partial_prefix,
    remove_partials,
    stamp_of,
    whole_pieces,
)
from nbgpu_protocol.workspace import CHUNK_BYTES, OWN_FOLDER, path_problem

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class RefusedFileError(Exception):
    """Raised when a file cannot have its place here; says why in words, without the path."""


class ChangedError(Exception):
    """Raised when a file, here or there, is not what it was when it was looked at."""


@dataclass(frozen=True)
class Arrival:
    """A file of the session that is to be here."""

    path: str
    inspected: Inspected
    present: LocalEntry | None
    """What is here now."""


class Bringing:
    """Brings files of one session into the notebook's folder.

    Args:
        client: Of the session's folder.
        tree: The notebook's folder.
        on_progress: Told how many more bytes are here.
    """

    def __init__(self, client: WorkspaceClient, tree: LocalTree, on_progress: Callable[[int], None]) -> None:
        self._client = client
        self._tree = tree
        self._incoming = tree.folder / OWN_FOLDER
        self._on_progress = on_progress

    @contextlib.asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """To be entered before files are brought: nobody else brings files into the folder until it is left.

        Raises:
            LocalDiskError: Nothing can be written into the folder.
        """
        if self._incoming.is_symlink():
            raise LocalDiskError(f"{self._incoming} is a link, and has to be a folder")
        async with contextlib.AsyncExitStack() as held:
            try:
                await held.enter_async_context(locked(self._incoming))
            except OSError as error:
                raise LocalDiskError(f"{self._incoming} cannot be written: {error.strerror}") from error
            yield

    async def bring(self, arrival: Arrival) -> None:
        """Brings one file.

        Raises:
            RefusedFileError: It cannot have its place here.
            ChangedError: It changed there while it was read, or what is here has changed.
            LocalDiskError: There is no space here. Nothing of it is left.
        """
        partial = self._incoming / partial_name(arrival.path, arrival.inspected.version)
        try:
            self._refuse(arrival)
            prefix = partial_prefix(arrival.path)
            await asyncio.to_thread(remove_partials, str(self._incoming), prefix, but=partial.name)
            await self._fetch(arrival, partial)
            await asyncio.to_thread(self._install, arrival, partial)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            if error.errno in _NO_SPACE:
                raise LocalDiskError(f"no space is left here for {arrival.path}") from error
            raise RefusedFileError((error.strerror or str(error)).lower()) from error

    async def _fetch(self, arrival: Arrival, partial: Path) -> None:
        check = PieceCheck(arrival.inspected.piece_digests)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(partial, flags, 0o666), "r+b") as file:
            try:
                await asyncio.to_thread(_recheck, file, check, arrival.inspected.size_bytes)
                self._on_progress(check.position)

                def take(chunk: bytes) -> None:
                    file.write(chunk)
                    if not check.take(chunk):
                        raise ChangedError

                if check.position < arrival.inspected.size_bytes:
                    async with contextlib.aclosing(self._client.read(arrival.path, check.position)) as chunks:
                        async for chunk in chunks:
                            await asyncio.to_thread(take, chunk)
                            self._on_progress(len(chunk))
                if not check.finish():
                    raise ChangedError
            except (ChangedError, errors.InvalidRequestError) as error:
                file.truncate(0)
                raise ChangedError from error

    def _install(self, arrival: Arrival, partial: Path) -> None:
        self._refuse(arrival)
        place = self._tree.folder / arrival.path
        place.parent.mkdir(parents=True, exist_ok=True)
        before = arrival.inspected.modified_unix_ns
        os.chmod(partial, _mode_of(arrival, partial))
        os.utime(partial, ns=(before, before))
        self._refuse(arrival)
        os.replace(partial, place)
        self._tree.versions.remember(arrival.path, os.lstat(place), arrival.inspected)

    def _refuse(self, arrival: Arrival) -> None:
        """Refuses what would be written elsewhere, or over what nobody has looked at."""
        if problem := path_problem(arrival.path):
            raise RefusedFileError(problem)
        parts = arrival.path.split("/")
        for count in range(1, len(parts)):
            parent = "/".join(parts[:count])
            try:
                mode = os.lstat(self._tree.folder / parent).st_mode
            except FileNotFoundError:
                break
            if not stat.S_ISDIR(mode):
                raise RefusedFileError(f"{parent} is {'a link' if stat.S_ISLNK(mode) else 'no folder'} here")
        try:
            status = os.lstat(self._tree.folder / arrival.path)
        except FileNotFoundError:
            if arrival.present is not None:
                raise ChangedError from None
            return
        if stat.S_ISDIR(status.st_mode):
            raise RefusedFileError("a folder has that name here")
        if arrival.present is None or arrival.present.stamp != stamp_of(status):
            raise ChangedError


def _mode_of(arrival: Arrival, partial: Path) -> int:
    """Returns the permissions that the file here has, or else those that a new file gets, executable or not."""
    mask = 0o111 if is_executable(arrival.inspected.version) else 0
    has_file = arrival.present is not None and arrival.present.link_target is None
    present = arrival.present.stamp[-1] if arrival.present is not None and has_file else os.stat(partial).st_mode
    made = present & 0o666 | 0o600
    return made | (made >> 2 & mask)


def _recheck(file: BinaryIO, check: PieceCheck, size_bytes: int) -> None:
    """Reads what came before, as far as it is right."""
    end = whole_pieces(os.fstat(file.fileno()).st_size)
    end = end if end <= size_bytes else 0
    good = 0
    while check.position < end:
        if not check.take(file.read(CHUNK_BYTES)):
            check.position = good
            break
        good = whole_pieces(check.position)
    file.seek(check.position)
    file.truncate()
