"""A session's own folder as the agent walks and changes it: by paths that cannot lead out of it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nbgpu_agent.errors import InvalidRequestError
from nbgpu_protocol.workspace import ENVIRONMENT_FILE, MAX_FILES, OWN_FOLDER, Choice, path_problem

INCOMING = "incoming"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class RefusedPathError(Exception):
    """Raised when something cannot be done at a path; says why in words, without the path."""


@dataclass(frozen=True)
class Found:
    """A file or a link of the folder."""

    path: str
    status: os.stat_result
    link_target: str | None = None

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)


class SessionFolder:
    """The folder. No link is followed below it: whoever writes into it at the same time cannot lead the agent out.

    Args:
        root: The session's alone.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def walk(self, choice: Choice) -> Iterator[Found]:
        """Yields the files and links that are chosen, without what never leaves and what cannot be read.

        Raises:
            InvalidRequestError: They are more than MAX_FILES.
        """
        count = 0
        stack = [""]
        while stack:
            folder = stack.pop()
            for path, entry in self._entries(folder):
                if path_problem(path):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if choice.may_choose_below(path):
                        stack.append(path)
                elif choice.chooses(path):
                    with contextlib.suppress(OSError):  # gone this moment
                        status = entry.stat(follow_symlinks=False)
                        target = self.read_link(path) if stat.S_ISLNK(status.st_mode) else None
                        yield Found(path, status, target)
                    count += 1
                    if count > MAX_FILES:
                        raise InvalidRequestError(
                            f"there are more than {MAX_FILES} files in the session, at {path}", "name fewer of them"
                        )

    def _entries(self, folder: str) -> list[tuple[str, os.DirEntry[str]]]:
        try:
            with self.folder(folder) as descriptor, os.scandir(descriptor) as entries:
                found = [(f"{folder}/{entry.name}" if folder else entry.name, entry) for entry in entries]
                for _, entry in found:  # while the folder is open, which entries ask for what they do not know
                    with contextlib.suppress(OSError):
                        entry.stat(follow_symlinks=False)
        except (OSError, RefusedPathError):
            if not folder:
                raise
            return []
        if folder and any(entry.name == ENVIRONMENT_FILE for _, entry in found):
            return []
        return sorted(found, key=lambda each: each[0])

    @property
    def is_there(self) -> bool:
        """Whether the session's folder is still one: a cell can remove it, or put something else in its place."""
        try:
            return stat.S_ISDIR(os.lstat(self.root).st_mode)
        except OSError:
            return False

    @contextlib.contextmanager
    def folder(self, path: str, *, make: bool = False) -> Iterator[int]:
        """Opens a folder, and makes it and those above it where they are missing.

        Raises:
            RefusedPathError: Something else is there, or above it.
            FileNotFoundError: It is not there.
            OSError: The whole session's is not there, or is a link.
        """
        # A cell can put a link in the place of the folder itself.
        descriptor = os.open(self.root, _FOLDER)
        try:
            for part in path.split("/") if path else ():
                below = _open_folder(part, descriptor, make=make)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Opens the folder of a path; yields it, and the name in it."""
        folder, _, name = path.rpartition("/")
        with self.folder(folder, make=make) as descriptor:
            yield descriptor, name

    @contextlib.contextmanager
    def incoming(self) -> Iterator[int]:
        """Opens the folder of what is on its way."""
        with self.folder(f"{OWN_FOLDER}/{INCOMING}", make=True) as descriptor:
            yield descriptor

    def open_to_read(self, path: str) -> BinaryIO:
        """Opens a file.

        Raises:
            RefusedPathError: It is no file.
            OSError: It is not there, or not for us.
        """
        with self.parent(path) as (folder, name):
            try:
                file = os.fdopen(os.open(name, _FILE, dir_fd=folder), "rb")
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO):
                    raise RefusedPathError("it is no file") from None
                raise
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise RefusedPathError("it is no file")
        return file

    def read_link(self, path: str) -> str:
        with self.parent(path) as (folder, name):
            return os.readlink(name, dir_fd=folder)


def _open_folder(name: str, folder: int, *, make: bool) -> int:
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=folder)
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise RefusedPathError(f"{name} is no folder there") from None
        raise
