"""Changes of a session's files: each is made whole or not at all, and only where its file is as it was expected."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from nbgpu_agent.blobs import NO_SPACE, BlobStore
from nbgpu_agent.errors import DiskFullError, InvalidRequestError
from nbgpu_agent.workspace.session_folder import INCOMING, RefusedPathError, SessionFolder
from nbgpu_protocol.file_versions import (
    FileVersions,
    Inspected,
    is_executable,
    partial_name,
    partial_prefix,
    whole_pieces,
)
from nbgpu_protocol.workspace import CHUNK_BYTES, OWN_FOLDER, leads_out, path_problem, version_of_link

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_STAGED_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Result(enum.Enum):
    DONE = "done"
    STAGED = "staged"
    CHANGED = "changed"
    REFUSED = "refused"


@dataclass(frozen=True)
class Part:
    """Pieces of a file that follow each other."""

    version: str
    size_bytes: int
    offset_bytes: int
    piece_digests: tuple[str, ...]
    modified_unix_ns: int


@dataclass(frozen=True)
class Change:
    """What is to be at a path: the rest of a file, a link, or nothing, where neither is given."""

    path: str
    expected_version: str
    """Of what is there; empty: nothing."""
    part: Part | None = None
    link_target: str | None = None
    keep_present: bool = False

    @property
    def version(self) -> str:
        if self.part is not None:
            return self.part.version
        return "" if self.link_target is None else version_of_link(self.link_target)


@dataclass(frozen=True)
class Outcome:
    path: str
    result: Result
    staged_bytes: int = 0
    kept_path: str = ""
    why: str = ""


class Changes:
    """Makes changes in a folder. Blocks; for one thread at a time.

    Args:
        folder: The session's.
        versions: Of its files.
        blobs: Where pieces are.
    """

    def __init__(self, folder: SessionFolder, versions: FileVersions, blobs: BlobStore) -> None:
        self._folder = folder
        self._versions = versions
        self._blobs = blobs

    def apply(self, changes: Sequence[Change]) -> list[Outcome]:
        """Makes them one after another. Made again, a change that was made is done already.

        Raises:
            NoSuchBlobError: A piece is not here. Nothing has been changed.
            DiskFullError: There is no space. What comes before in the sequence has been made.
            InvalidRequestError: A part's pieces are not of their size.
        """
        for change in changes:
            for digest in change.part.piece_digests if change.part is not None else ():
                self._blobs.path_of(digest)
        return [self._apply(change) for change in changes]

    def present_version(self, path: str) -> str | None:
        """Returns the version of what is there, empty for nothing; None where it changes meanwhile.

        Raises:
            RefusedPathError: It is a folder or a special file, or is not in one.
        """
        try:
            with self._folder.parent(path) as (folder, name):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    return version_of_link(os.readlink(name, dir_fd=folder))
        except FileNotFoundError:
            return ""
        if stat.S_ISDIR(status.st_mode):
            raise RefusedPathError("a folder has that name there")
        with self._folder.open_to_read(path) as file:
            inspected = self._versions.inspect(path, file)
        return inspected.version if inspected is not None else None

    def _apply(self, change: Change) -> Outcome:
        try:
            if problem := path_problem(change.path):
                raise RefusedPathError(problem)
            if change.link_target is not None and leads_out(change.path, change.link_target):
                raise RefusedPathError(f"the link leads out of the folder, to {change.link_target[:200]!r}")
            return self._make(change)
        except RefusedPathError as error:
            return Outcome(change.path, Result.REFUSED, why=str(error))
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DiskFullError(f"no space is left on the node for {change.path[:200]!r}") from error
            return Outcome(change.path, Result.REFUSED, why=(error.strerror or str(error)).lower())

    def _make(self, change: Change) -> Outcome:
        present = self.present_version(change.path)
        if present == change.version:
            self._forget_staged(change.path)
            return Outcome(change.path, Result.DONE)
        if present != change.expected_version:
            return Outcome(change.path, Result.CHANGED)
        if change.part is not None:
            return self._take(change, change.part)
        with self._folder.parent(change.path, make=change.link_target is not None) as (folder, name):
            kept = self._keep(change, folder, name)
            if change.link_target is None:
                os.unlink(name, dir_fd=folder)
            else:
                with self._folder.incoming() as incoming:
                    temporary = f"{secrets.token_hex(8)}.partial"
                    os.symlink(change.link_target, temporary, dir_fd=incoming)
                    _move(temporary, incoming, name, folder)
        return Outcome(change.path, Result.DONE, kept_path=kept)

    def _take(self, change: Change, part: Part) -> Outcome:
        with contextlib.ExitStack() as opened:
            # Opened, they can be read also when the store has no place for them any more.
            pieces = [opened.enter_context(self._blobs.open(digest)) for digest in part.piece_digests]
            return self._take_pieces(change, part, pieces)

    def _take_pieces(self, change: Change, part: Part, pieces: Sequence[BinaryIO]) -> Outcome:
        new_bytes = sum(os.fstat(piece.fileno()).st_size for piece in pieces)
        if part.offset_bytes + new_bytes > part.size_bytes:
            raise InvalidRequestError(f"there are more pieces for {change.path[:200]!r} than it has bytes")
        partial = partial_name(change.path, part.version)
        is_whole = part.offset_bytes == 0 and new_bytes == part.size_bytes
        with self._folder.incoming() as incoming:
            if is_whole:
                partial = f"{secrets.token_hex(8)}.partial"
            elif part.offset_bytes == 0:
                self._forget_staged(change.path, but=partial)
            descriptor = os.open(partial, _NEW_FILE if is_whole else _STAGED_FILE, 0o600, dir_fd=incoming)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    staged_bytes = min(whole_pieces(os.fstat(descriptor).st_size), part.size_bytes)
                    if staged_bytes != part.offset_bytes or (not pieces and staged_bytes < part.size_bytes):
                        return Outcome(change.path, Result.STAGED, staged_bytes)
                    file.truncate(staged_bytes)
                    file.seek(staged_bytes)
                    for piece in pieces:
                        shutil.copyfileobj(piece, file, CHUNK_BYTES)
                    if part.offset_bytes + new_bytes < part.size_bytes:
                        return Outcome(change.path, Result.STAGED, part.offset_bytes + new_bytes)
                    file.flush()
                    os.fchmod(descriptor, 0o755 if is_executable(part.version) else 0o644)
                    os.utime(descriptor, ns=(part.modified_unix_ns, part.modified_unix_ns))
                return self._install(change, part, partial, incoming)
            except OSError:
                is_whole = True  # so that nothing is left of what cannot go on
                raise
            finally:
                if is_whole:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(partial, dir_fd=incoming)

    def _install(self, change: Change, part: Part, partial: str, incoming: int) -> Outcome:
        with self._folder.parent(change.path, make=True) as (folder, name):
            if self.present_version(change.path) != change.expected_version:  # a cell was as fast
                return Outcome(change.path, Result.CHANGED)
            kept = self._keep(change, folder, name)
            _move(partial, incoming, name, folder)
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        # Of the pieces of a file that came in parts only the last ones are known here.
        piece_digests = part.piece_digests if part.offset_bytes == 0 else ()
        inspected = Inspected(part.version, part.size_bytes, part.modified_unix_ns, piece_digests)
        self._versions.remember(change.path, status, inspected)
        return Outcome(change.path, Result.DONE, kept_path=kept)

    def _keep(self, change: Change, folder: int, name: str) -> str:
        """Gives what is there another name as well; returns that one's path, empty where nothing is to be kept."""
        if not change.keep_present or not change.expected_version:
            return ""
        for kept in _other_names(name, change.expected_version):
            try:
                os.link(name, kept, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                continue
            except OSError:  # a file system without hard links
                if _exists(kept, folder):
                    continue
                os.rename(name, kept, src_dir_fd=folder, dst_dir_fd=folder)
            return str(PurePosixPath(change.path).with_name(kept))
        raise AssertionError("names do not end")

    def _forget_staged(self, path: str, *, but: str = "") -> None:
        try:
            with self._folder.folder(f"{OWN_FOLDER}/{INCOMING}") as incoming:
                for name in os.listdir(incoming):
                    if name.startswith(partial_prefix(path)) and name != but:
                        os.unlink(name, dir_fd=incoming)
        except FileNotFoundError:
            return


def _move(source: str, source_folder: int, target: str, target_folder: int) -> None:
    try:
        os.replace(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder)
    except (IsADirectoryError, NotADirectoryError):
        raise RefusedPathError("a folder has that name there") from None


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _other_names(name: str, version: str) -> Iterator[str]:
    """Yields `data.session-1a2b3c4d.csv`, `data.session-1a2b3c4d-2.csv` and so on.

    A name that says which version it holds is not taken for another version of a file that was kept before.
    """
    path = PurePosixPath(name)
    stem, suffix = path.stem, path.suffix
    label = f"session-{hashlib.sha256(version.encode()).hexdigest()[:8]}"
    while len(f"{stem}.{label}-1000000{suffix}".encode()) > 255:
        stem, suffix = (stem[:-1], suffix) if len(stem) > 1 else (stem, suffix[:-1])
    yield f"{stem}.{label}{suffix}"
    number = 2
    while True:
        yield f"{stem}.{label}-{number}{suffix}"
        number += 1
