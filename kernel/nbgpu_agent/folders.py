"""The agent's folder: one agent at a time in it, its socket, and nothing left after its end, or a kill."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nbgpu_agent.errors import AgentError, InvalidRequestError
from nbgpu_agent.guardian import TOKEN_FILE
from nbgpu_agent.listening import MAX_SOCKET_PATH_BYTES
from nbgpu_agent.processes import start_time
from nbgpu_agent.user_blobs import USERS_FOLDER
from nbgpu_protocol import blobs
from nbgpu_protocol.discovery import AGENT_FILE, RUN_LOCK_FILE, read_record

SOCKET_FILE = "agent.sock"
KERNELS_FOLDER = "kernels"
SESSIONS_FOLDER = "sessions"
ENVIRONMENTS_FOLDER = "environments"
USERS_ENVIRONMENTS_FOLDER = "environments-of-users"
"""In it a store for each user who is a user of the operating system as well."""
SOCKET_FOLDER_FILE = "socket-folder"
"""Holds the path of the folder of the socket, where the socket's path would be too long in the agent's own folder."""
_SOCKET_FOLDER_PREFIX = "nbgpu-agent-"

ENDING_TIMEOUT_S = 30.0
"""How long to wait for an agent that is ending, which is one that holds the lock and has no record any more."""
_POLL_S = 0.05


class AlreadyRunningError(AgentError):
    """Raised when another agent has the folder."""


@dataclass(frozen=True)
class AgentFolders:
    """Where the agent keeps what it needs while it runs. All of it is the owner's alone."""

    root: Path

    @property
    def kernels(self) -> Path:
        return self.root / KERNELS_FOLDER

    @property
    def blobs(self) -> Path:
        return self.root / blobs.FOLDER

    @property
    def sessions(self) -> Path:
        """What is kept of sessions for the next agent, each in a folder of its id."""
        return self.root / SESSIONS_FOLDER

    @property
    def environments(self) -> Path:
        """Outlives the agent: the next one finds what is built."""
        return self.root / ENVIRONMENTS_FOLDER

    @property
    def users_environments(self) -> Path:
        return self.root / USERS_ENVIRONMENTS_FOLDER

    @property
    def users_blobs(self) -> Path:
        return self.root / USERS_FOLDER

    @property
    def passed_by_users(self) -> tuple[Path, ...]:
        """Those in which there are folders of other users of the operating system, where there are such users."""
        return (self.kernels, self.users_blobs, self.users_environments)

    def make_socket_path(self) -> Path:
        """Returns where the embedded agent's socket goes, in a short folder of its own if it must be."""
        path = self.root / SOCKET_FILE
        if len(str(path).encode()) <= MAX_SOCKET_PATH_BYTES:
            return path
        if (previous := self._previous_socket()) is not None:  # where clients look for it
            return previous
        folder = Path(tempfile.gettempdir()) / f"{_SOCKET_FOLDER_PREFIX}{secrets.token_hex(8)}"
        path = folder / SOCKET_FILE
        if len(str(path).encode()) > MAX_SOCKET_PATH_BYTES:
            raise InvalidRequestError(
                f"{str(path)!r} is too long for a Unix socket", "set TMPDIR to a folder with a shorter path"
            )
        # Written down before it is made, so that the next agent finds it whenever this one is killed.
        (self.root / SOCKET_FOLDER_FILE).write_text(str(folder))
        folder.mkdir(mode=0o700)
        return path

    def _previous_socket(self) -> Path | None:
        """Returns where a killed agent's socket was, if its folder is there still."""
        try:
            folder = Path((self.root / SOCKET_FOLDER_FILE).read_text())
            status = folder.lstat()
        except OSError:
            return None
        own = folder.name.startswith(_SOCKET_FOLDER_PREFIX) and status.st_uid == os.getuid()
        if not own or status.st_mode != stat.S_IFDIR | 0o700:
            return None
        (folder / SOCKET_FILE).unlink(missing_ok=True)
        return folder / SOCKET_FILE

    def close_to_others(self) -> None:
        """Lets nobody else pass through the folder."""
        self.root.chmod(0o700)

    def remove_record(self) -> None:
        """Makes clients look for another agent, of which the next waits until this one has ended."""
        (self.root / AGENT_FILE).unlink(missing_ok=True)

    def clean(self, *, for_next: bool = False, keep_record: bool = False) -> None:
        """Removes the record, the socket and what was stored. Kernels must have ended; locks and logs stay.

        Args:
            for_next: Leave what the next agent needs to take over sessions.
            keep_record: Leave the record, by which clients of an embedded agent come back to the next one.
        """
        if not keep_record:
            self.remove_record()
        for temporary in self.root.glob(f"{AGENT_FILE}.*"):
            temporary.unlink(missing_ok=True)
        (self.root / SOCKET_FILE).unlink(missing_ok=True)
        if for_next:
            return
        _remove_socket_folder(self.root / SOCKET_FOLDER_FILE)
        (self.root / TOKEN_FILE).unlink(missing_ok=True)
        for folder in (self.kernels, self.blobs, self.sessions, self.users_blobs):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # there are environments in it, which stay
            self.users_environments.rmdir()


@contextlib.contextmanager
def locked_folder(root: Path, asked_to_end: threading.Event) -> Iterator[AgentFolders]:
    """Makes the folder, and holds it for as long as the agent runs; blocks while another agent is ending in it.

    Raises:
        AlreadyRunningError: Another agent has it, or still had it when this one was asked to end.
        InvalidRequestError: It cannot be had, or belongs to somebody else.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if root.stat().st_uid != os.getuid():
            raise InvalidRequestError(f"the folder {root} belongs to another user", "choose another with --folder")
        # Others may have passed through it to what is theirs, as `isolation` lets them, and sessions that run still do.
        root.chmod(stat.S_IMODE(root.stat().st_mode) & 0o711 | 0o700)
        lock = os.open(root / RUN_LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidRequestError(f"the folder {root} cannot be used: {error.strerror}") from error
    try:
        _lock(lock, root, asked_to_end)
        yield AgentFolders(root)
    finally:
        os.close(lock)  # releases it


def _lock(lock: int, root: Path, asked_to_end: threading.Event) -> None:
    deadline_s = time.monotonic() + ENDING_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            record = read_record(root)
            if record is not None and start_time(record.pid) is not None:
                raise AlreadyRunningError(
                    f"an agent runs in {root} already, with process id {record.pid}",
                    f"use that one, end it first by `kill {record.pid}`, or give this one another folder by --folder",
                ) from None
            if time.monotonic() > deadline_s:
                raise AlreadyRunningError(f"another agent holds {root}, and neither serves nor ends") from None
        if asked_to_end.wait(_POLL_S):
            raise AlreadyRunningError(f"asked to end while another agent was ending in {root}")


def _remove_socket_folder(pointer: Path) -> None:
    try:
        folder = Path(pointer.read_text())
        status = folder.lstat()
    except OSError:
        pointer.unlink(missing_ok=True)
        return
    # The file is the owner's alone, and yet: remove nothing that this module did not make.
    if (
        folder.name.startswith(_SOCKET_FOLDER_PREFIX)
        and stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and set(os.listdir(folder)) <= {SOCKET_FILE}
    ):
        shutil.rmtree(folder, ignore_errors=True)
    pointer.unlink(missing_ok=True)
