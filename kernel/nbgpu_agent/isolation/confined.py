"""Opens files by paths that somebody else has a hand in, so that no link on the way leads out of where they may be.

A session in a sandbox has the agent's own user id: other than where it is another user of the operating system, the
rights of that user do not stop the agent from following a link of the session's to what is another's. The kernel of
Linux does, by openat2(2): it looks at the whole path at once, so that no race leads out either.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from nbgpu_agent.isolation.os_user import IsolationError

_OPENAT2 = 437  # on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH, _RESOLVE_IN_ROOT = 0x02, 0x08, 0x10  # linux/openat2.h
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_as_seen_by(pid: int, path: Path) -> int:
    """Opens a file to read, where a process has it: what is mounted there for it alone counts, and its links do.

    Never waits for a pipe.

    Returns:
        The descriptor.

    Raises:
        OSError: There is none, the process is gone, or it is not ours.
    """
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return _openat2(root, os.fspath(path), flags, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    finally:
        os.close(root)


@contextlib.contextmanager
def folder_beneath(root: Path, path: str, *, make: bool = False) -> Iterator[Path]:
    """Yields by what path a folder below another one is reached, whatever is put in its place meanwhile.

    Args:
        root: Stays where it is.
        path: Relative. Links on it are followed as long as they do not lead out of the root.
        make: Whether it is made where it is missing.

    Raises:
        OSError: It is not there, is no folder, or is not below the root.
    """
    whole = os.open(root, _FOLDER)
    descriptor = os.dup(whole)
    try:
        parts = Path(path).parts
        for count, part in enumerate(parts, 1):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=descriptor)
            # From the root on: a link may go up, as long as the whole of the path stays beneath.
            below = _openat2(whole, os.path.join(*parts[:count]), _FOLDER, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
            os.close(descriptor)
            descriptor = below
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
        os.close(whole)


def is_supported() -> bool:
    """Says whether this kernel of Linux has the call, as from 5.6 on, and lets us make it."""
    try:
        os.close(_openat2_of_root())
    except (OSError, IsolationError):
        return False
    return True


def _openat2_of_root() -> int:
    root = os.open("/", _FOLDER)
    try:
        return _openat2(root, ".", _FOLDER, _RESOLVE_BENEATH)
    finally:
        os.close(root)


def _openat2(folder: int, path: str, flags: int, resolve: int) -> int:
    if not sys.platform.startswith("linux"):
        raise IsolationError("paths are confined on Linux only")
    how = _OpenHow(flags, 0, resolve)
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.syscall(
        ctypes.c_long(_OPENAT2), ctypes.c_int(folder), os.fsencode(path), ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )  # fmt: skip
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(descriptor)
