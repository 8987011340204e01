"""What a session's folder has, what of it was in step after the last sync, and its changes, one request at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.errors import InvalidRequestError, NoSuchSessionError
from nbgpu_agent.isolation.os_user import OsUser, acting
from nbgpu_agent.journal_store import write_side_file
from nbgpu_agent.workspace.changes import Change, Changes, Outcome, Result
from nbgpu_agent.workspace.session_folder import Found, RefusedPathError, SessionFolder
from nbgpu_protocol.file_versions import FileVersions, Inspected
from nbgpu_protocol.workspace import CHUNK_BYTES, MAX_FILES, MAX_PATTERNS, Choice, path_problem, version_of_link

T = TypeVar("T")
U = TypeVar("U")

_MAX_WORKSPACES = 100
_KEEP_EVERY_S = 1.0
_MAX_WORKSPACE_ID_CHARACTERS = 200
_MAX_VERSION_CHARACTERS = 5000
"""That of a link has its target in it, which can be as long as a path of the system."""


class _StoppedError(Exception):
    pass


@dataclass(frozen=True)
class Listed:
    """A file of the session."""

    path: str
    size_bytes: int
    version: str
    """Empty: not known."""
    special: bool = False


@dataclass
class _Noted:
    """Of one folder that syncs with the session."""

    versions: dict[str, str] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()


class SessionWorkspace:
    """The folder of one session. Its coroutines wait for each other, and work in threads.

    Args:
        root: The session's alone.
        blobs: Where pieces are.
        side_file: Where what is in step is kept for the next agent; None: nowhere.
        os_user: Whose the files are, with whose rights all is done in the folder; None: the agent's.
    """

    def __init__(
        self, root: Path, blobs: BlobStore, side_file: Path | None = None, os_user: OsUser | None = None
    ) -> None:
        self._os_user = os_user
        self._side_file = side_file
        self._folder = SessionFolder(root)
        self._versions = FileVersions()
        self._changes = Changes(self._folder, self._versions, blobs)
        self._noted: dict[str, _Noted] = _read_noted(side_file) if side_file is not None else {}
        self._lock = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None
        self._has_changed = False

    def patterns(self, workspace_id: str, patterns: Sequence[str]) -> tuple[str, ...]:
        """Returns these patterns, checked; where there are none, those that were noted.

        Raises:
            InvalidRequestError: One of them is none.
        """
        if not patterns:
            return self._noted_of(workspace_id).patterns
        if len(patterns) > MAX_PATTERNS:
            raise InvalidRequestError(f"{len(patterns)} patterns, {MAX_PATTERNS} at most")
        for pattern in patterns:
            if pattern and (problem := path_problem(pattern)):
                raise InvalidRequestError(f"{pattern[:200]!r} is not looked for: {problem}")
        return tuple(patterns)

    async def noted(self, workspace_id: str, choice: Choice) -> dict[str, str]:
        """Returns the versions that both sides had after the last sync, of what is chosen."""
        versions = self._noted_of(workspace_id).versions.copy()

        def chosen(stopped: threading.Event) -> dict[str, str]:
            found = {}
            for path, version in versions.items():
                if stopped.is_set():
                    raise _StoppedError
                if choice.chooses(path):
                    found[path] = version
            return found

        return await self._in_thread(chosen)  # many files and patterns take seconds

    def note(self, workspace_id: str, versions: Mapping[str, str], patterns: Sequence[str]) -> None:
        """Notes versions that both sides have; an empty one is forgotten.

        Raises:
            InvalidRequestError: They are more than there can be files, or are none of files. Nothing is noted.
        """
        for path, version in versions.items():
            if problem := path_problem(path):
                raise InvalidRequestError(f"{path[:200]!r} is not noted: {problem}")
            if len(version) > _MAX_VERSION_CHARACTERS:
                raise InvalidRequestError(f"no file has a version of {len(version)} characters")
        noted = self._noted_of(workspace_id)
        for path, version in versions.items():
            if version:
                noted.versions[path] = version
            else:
                noted.versions.pop(path, None)
        if len(noted.versions) > MAX_FILES:
            noted.versions.clear()  # nothing is lost by it: what differs is then a conflict
            raise InvalidRequestError(f"there are more than {MAX_FILES} files in step", "sync fewer of them")
        if patterns:
            noted.patterns = self.patterns(workspace_id, patterns)

    def keep(self) -> None:
        """Has what is in step written down soon. Where that fails, what differs is a conflict to the next agent."""
        self._has_changed = True
        if self._side_file is not None and (self._keeping is None or self._keeping.done()):
            self._keeping = asyncio.get_running_loop().create_task(self._keep(self._side_file))

    async def _keep(self, path: Path) -> None:
        while self._has_changed:
            self._has_changed = False
            await self._write_down(path)
            await asyncio.sleep(_KEEP_EVERY_S)

    async def _write_down(self, path: Path) -> None:
        noted = {each: {"versions": of.versions, "patterns": of.patterns} for each, of in self._noted.items()}
        content = json.dumps(noted).encode()

        def write(_: threading.Event) -> None:
            with acting(None), contextlib.suppress(OSError):
                if path.parent.is_dir():  # else the session is closed
                    write_side_file(path, content)

        await self._in_thread(write)

    async def list_files(self, choice: Choice) -> list[Listed]:
        """Returns the files that are chosen, by path.

        Raises:
            InvalidRequestError: They are too many.
        """

        def walk(stopped: threading.Event) -> list[Listed]:
            found = []
            for each in self._folder.walk(choice):
                if stopped.is_set():
                    raise _StoppedError
                found.append(self._listed(each))
            return found

        return await self._in_thread(walk)

    def _listed(self, found: Found) -> Listed:
        if found.link_target is not None:
            return Listed(found.path, 0, version_of_link(found.link_target))
        if not found.is_file:
            return Listed(found.path, 0, "", special=True)
        known = self._versions.known(found.path, found.status)
        return Listed(found.path, found.status.st_size, known.version if known is not None else "")

    async def inspect(self, paths: Iterable[str]) -> AsyncIterator[tuple[str, Inspected | None]]:
        """Reads files; yields None for one that is none, that is not for us, or that changes while it is read."""
        for path in paths:
            yield path, await self._in_thread(lambda stopped, path=path: self._inspect(path, stopped))  # type: ignore[misc]

    def _inspect(self, path: str, stopped: threading.Event) -> Inspected | None:
        def check(_: int) -> None:
            if stopped.is_set():
                raise _StoppedError

        if path_problem(path):
            return None
        try:
            with self._folder.open_to_read(path) as file:
                inspected = self._versions.inspect(path, file, check)
                if inspected is not None and inspected.size_bytes and not inspected.piece_digests:
                    self._versions.forget(path)
                    inspected = self._versions.inspect(path, file, check)
                return inspected
        except (OSError, RefusedPathError):
            return None

    async def apply(self, workspace_id: str, changes: Sequence[Change]) -> list[Outcome]:
        """Makes changes, and notes the versions that both sides have by that; see `Changes.apply`."""
        self._noted_of(workspace_id)
        outcomes = await self._in_thread(lambda _: self._changes.apply(changes))
        done = zip(changes, outcomes, strict=True)
        self.note(workspace_id, {c.path: c.version for c, outcome in done if outcome.result is Result.DONE}, ())
        self.keep()
        return outcomes

    async def read(self, path: str, offset_bytes: int) -> AsyncIterator[bytes]:
        """Yields a file's bytes from the offset on.

        Raises:
            InvalidRequestError: It cannot be read.
        """
        if problem := path_problem(path):
            raise InvalidRequestError(f"{path[:200]!r} is not read: {problem}")
        try:
            file: BinaryIO = await asyncio.to_thread(self._acting, self._folder.open_to_read, path)
            with file:
                file.seek(offset_bytes)
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    yield chunk
        except (OSError, RefusedPathError) as error:
            raise InvalidRequestError(f"{path[:200]!r} cannot be read in the session: {error}") from error

    def _acting(self, work: Callable[[U], T], argument: U) -> T:
        with acting(self._os_user):
            return work(argument)

    async def _in_thread(self, work: Callable[[threading.Event], T]) -> T:
        stopped = threading.Event()
        async with self._lock:
            task = asyncio.ensure_future(asyncio.to_thread(self._acting, work, stopped))
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                stopped.set()
                await asyncio.wait([task])  # whoever is next must find the folder as it is told to be
                task.exception()
                raise
            error = task.exception()
            if not self._folder.is_there:
                raise NoSuchSessionError(
                    "the session's folder is gone: the session was closed, or a cell removed it"
                ) from error
            return task.result()

    def _noted_of(self, workspace_id: str) -> _Noted:
        if workspace_id not in self._noted:
            if len(self._noted) >= _MAX_WORKSPACES or len(workspace_id) > _MAX_WORKSPACE_ID_CHARACTERS:
                raise InvalidRequestError(f"a session syncs with {_MAX_WORKSPACES} folders at most")
            self._noted[workspace_id] = _Noted()
        return self._noted[workspace_id]


def _read_noted(path: Path) -> dict[str, _Noted]:
    """Returns what an earlier agent has written down; nothing where that cannot be read."""
    try:
        return {
            each: _Noted(dict(noted["versions"]), tuple(noted["patterns"]))
            for each, noted in json.loads(path.read_bytes()).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
