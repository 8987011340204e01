"""One process at a time brings files into a notebook's folder: two would write the same file on its way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

_POLL_S = 0.1
_LOCK_FILE = "lock"


@contextlib.asynccontextmanager
async def locked(folder: Path) -> AsyncIterator[None]:
    """Makes the folder, and holds it; waits while another process does. Leaves no folder where nothing is in it.

    Windows does not let a file be replaced that another process has open, and needs no lock.

    Raises:
        OSError: The folder cannot be made.
    """
    descriptor = _try(folder)
    while descriptor is None:
        await asyncio.sleep(_POLL_S)
        descriptor = _try(folder)
    try:
        yield
    finally:
        _leave(folder, descriptor)


def _leave(folder: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        (folder / _LOCK_FILE).unlink()
    os.close(descriptor)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _try(folder: Path) -> int | None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if folder.exists() and not folder.is_dir():
            raise
    try:
        descriptor = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except FileNotFoundError:  # another has just left
        return None
    if sys.platform == "win32":
        return descriptor
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one that had it has removed it: whoever comes next locks another.
        if os.path.samestat(os.fstat(descriptor), os.stat(folder / _LOCK_FILE)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
