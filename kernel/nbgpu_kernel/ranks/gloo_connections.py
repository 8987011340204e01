"""Shuts down the connections of gloo's process groups, whoever still refers to the groups.

torch closes them with the group itself, which lives for as long as anything has it: a model in DDP, an optimizer, the
traceback of what the group raised. `destroy_process_group` and `abort` leave gloo's connections open (torch 2.13), and
until they are closed those who wait for this rank wait on.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

_LOOP = re.compile(r"gloo_\w*loop")
"""The name of gloo's threads, each of which waits at an epoll instance for the connections of one group."""
_TARGET = re.compile(r"^tfd:\s*(\d+).*?\bino:([0-9a-f]+)", re.MULTILINE)
_TASKS = Path("/proc/self/task")
_LOOK_FOR_S = 1.0
_LOOK_EVERY_S = 0.005


def shut_down_gloo_connections() -> int:
    """Shuts them down; returns how many. For any thread; what waits in this process for others then raises as well.

    Linux only; elsewhere, and where the system tells nothing of threads, there are none.
    """
    count = 0
    for epoll in list(_epolls()):
        with contextlib.suppress(OSError):  # closed meanwhile
            for descriptor, inode in _TARGET.findall(Path(f"/proc/self/fdinfo/{epoll}").read_text()):
                count += _shut_down(int(descriptor), int(inode, 16))
    return count


def _epolls() -> Iterator[int]:
    """Yields the file descriptors at which gloo's threads wait."""
    with contextlib.suppress(OSError):
        for task in list(_TASKS.iterdir()):
            with contextlib.suppress(OSError):  # it has just ended
                if _LOOP.match((task / "comm").read_text()) and (epoll := _epoll_of(task)) is not None:
                    yield epoll


def _epoll_of(task: Path) -> int | None:
    """Returns the first argument of the system call in which a thread waits."""
    deadline = time.monotonic() + _LOOK_FOR_S
    while time.monotonic() < deadline:
        fields = (task / "syscall").read_text().split()
        with contextlib.suppress(IndexError, ValueError, OSError):  # it runs
            descriptor = int(fields[1], 16)
            if os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:[eventpoll]":
                return descriptor
        time.sleep(_LOOK_EVERY_S)
    return None


def _shut_down(descriptor: int, inode: int) -> bool:
    """Shuts a connection down, if it still is the one of that inode; what listens, or is no socket, stays."""
    with contextlib.suppress(OSError):
        own = os.dup(descriptor)
        try:
            connection = socket.socket(fileno=own)
        except OSError:
            os.close(own)
            raise
        with connection:
            if os.fstat(own).st_ino == inode:
                connection.getpeername()
                connection.shutdown(socket.SHUT_RDWR)
                return True
    return False
