"""A user of the operating system whose processes sessions are, and the files that the agent handles with its rights.

The boundary: an agent that is root never trusts a folder that such a user can write to. What the agent alone has to
believe (which process a kernel is, how far its output was taken, its log, its sockets once it listens) lies in folders
that only root can change. Whatever lies in a user's own folders (files of a session, blobs, environments, stacks, what
a kernel wrote down without an agent) is opened, made and renamed inside `acting`: the kernel of Linux then looks at the
user's rights, not at root's, so that a link, a device or a race leads nowhere that the user could not go by themselves.
Removing is the exception: `shutil.rmtree` holds on to each folder and follows no link.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgpu_agent.errors import AgentError

_THREAD = threading.local()


class IsolationError(AgentError):
    """Raised when the operating system does not let the agent act for a user, or a user's folder is another's."""


@dataclass(frozen=True)
class OsUser:
    """A user of the operating system, not root, as whom processes run.

    Attributes:
        name: For USER and LOGNAME; the system need not know it.
        groups: Further ones, beside `gid`.
        home: Their folder; it exists.
    """

    name: str
    uid: int
    gid: int
    home: Path
    groups: tuple[int, ...] = ()

    def variables(self) -> dict[str, str]:
        """Returns the environment variables that say who they are."""
        return {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name}

    def process_arguments(self) -> dict[str, Any]:
        """Returns what has `subprocess` start a process as them, whose files are theirs alone."""
        return {"user": self.uid, "group": self.gid, "extra_groups": list(self.groups), "umask": 0o077}


@contextlib.contextmanager
def acting(user: OsUser | None) -> Iterator[None]:
    """Has this thread's work on files done with a user's rights, and what it makes be theirs. It nests.

    Never around an `await`: the thread is shared.

    Args:
        user: None: the agent itself.

    Raises:
        IsolationError: The operating system does not permit it.
    """
    before: OsUser | None = getattr(_THREAD, "user", None)
    if user == before:
        yield
        return
    _become(user)
    _THREAD.user = user
    try:
        yield
    finally:
        _become(before)
        _THREAD.user = before


def passable(folder: Path) -> Path:
    """Makes a folder, of which only the agent has a list and which others can pass on their way; returns it."""
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o011 != 0o011:  # by the agent's umask
        folder.chmod(mode | 0o011)
    return folder


def own_folder(folder: Path, user: OsUser | None, *, replace: bool = False) -> Path:
    """Makes a folder that is a user's alone, in one that only the agent changes; returns it. Idempotent.

    Args:
        replace: Whether one of another user's, who had the number before, is removed, rather than refused.

    Raises:
        IsolationError: It is another user's.
    """
    if user is None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder
    with acting(None):
        passable(folder.parent)
        with contextlib.suppress(FileNotFoundError):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == user.uid:
                return folder
            if not replace:
                raise IsolationError(f"{folder} is not {user.name}'s, whose user id is {user.uid}")
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        give(folder, user)
    return folder


def give(path: Path, user: OsUser) -> None:
    """Makes what the agent has just made, where nobody else can put anything, a user's."""
    os.chown(path, user.uid, user.gid, follow_symlinks=False)


def read_regular(path: Path, limit_bytes: int) -> bytes:
    """Returns a file's first bytes; other than reading it as any file, never waits for a pipe, or reads a device.

    Raises:
        OSError: It is not there, or no file.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is no file")
        return file.read(limit_bytes)


def _become(user: OsUser | None) -> None:
    if user is None:
        _set("setfsuid", os.geteuid())
        _set("setfsgid", os.getegid())
    else:
        _set("setfsgid", user.gid)
        _set("setfsuid", user.uid)


def _set(name: str, number: int) -> None:
    """Calls setfsuid(2) or setfsgid(2): of the calling thread alone, other than what Python offers."""
    if not sys.platform.startswith("linux"):
        raise IsolationError("another user's rights can be taken on Linux only")
    function = getattr(_libc(), name)
    function(ctypes.c_uint(number))
    # It returns the previous one, also where it fails; an impossible one changes nothing.
    if function(ctypes.c_uint(0xFFFFFFFF)) != ctypes.c_int(number).value:
        raise IsolationError(f"the operating system does not let the agent work on files as {name[5:]} {number}")


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
