"""Finds the processes of a kernel, wherever they went, and ends them.

A kernel's children may start sessions of their own and lose their parents, but they keep the environment that they
were started with. Each kernel has a random marker in it: what bears the marker is the kernel's, and nothing else is,
whatever numbers processes are given again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from nbgpu_agent.isolation.os_user import IsolationError, OsUser, acting

MARKER_VARIABLE = "NBGPU_KERNEL_ID"
_PROC = Path("/proc")
_FILES = 1 << 14


def marked_pids() -> dict[str, list[int]]:
    """Returns the process ids of every marker on this machine, as far as this user may see them.

    Takes 10 µs a process. A process that is ending has no environment any more, and is not in it.
    """
    found: dict[str, list[int]] = {}
    for pid, environment in _environments():
        marker = environment.get(MARKER_VARIABLE)
        if marker and pid != os.getpid():
            found.setdefault(marker, []).append(pid)
    return found


def _environments() -> Iterable[tuple[int, Mapping[str, str]]]:
    if not sys.platform.startswith("linux"):
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                yield process.pid, process.environ()
        return
    needle = f"{MARKER_VARIABLE}=".encode()
    for name in os.listdir(_PROC):
        if not name.isdigit():
            continue
        try:
            content = _read_environ(int(name))
        except OSError:  # another user's, or gone
            continue
        if needle not in content:
            continue
        for variable in content.split(b"\0"):
            if variable.startswith(needle):
                yield int(name), {MARKER_VARIABLE: variable[len(needle) :].decode(errors="replace")}
                break


def environment_of(pid: int) -> dict[str, str]:
    """Returns the environment variables that a process was started with.

    Raises:
        OSError, psutil.Error: It is gone, or somebody's whose processes this one may not look at.
    """
    if not sys.platform.startswith("linux"):
        return psutil.Process(pid).environ()
    variables = _read_environ(pid).decode(errors="replace").split("\0")
    return {name: value for name, sign, value in (each.partition("=") for each in variables) if sign}


def _read_environ(pid: int) -> bytes:
    path = f"/proc/{pid}/environ"
    try:
        with open(path, "rb") as file:
            return file.read()
    except PermissionError:
        if os.geteuid() != 0:
            raise
    # In a container root may lack CAP_SYS_PTRACE, and look at other users' processes only as that user.
    status = os.stat(_PROC / str(pid))
    try:
        with acting(OsUser("", status.st_uid, status.st_gid, _PROC)), open(path, "rb") as file:
            return file.read()
    except IsolationError as error:
        raise PermissionError(path) from error


def bears_marker(pid: int, marker: str, uid: int | None = None) -> bool:
    """Says whether a process runs and is the kernel's that has this marker. Asks the operating system anew.

    Args:
        uid: Of the kernel's user; None: any. Others can have read the marker, and bear it too.
    """
    try:
        if pid <= 0 or (uid is not None and _uid_of(pid) != uid):
            return False
        return environment_of(pid).get(MARKER_VARIABLE) == marker
    except (psutil.Error, OSError):
        return False


class ProcessTable:
    """The processes of all kernels: one look at the machine serves all that ask within a short while.

    Args:
        max_age_s: For how long a look is good.
    """

    def __init__(self, max_age_s: float = 0.5) -> None:
        self._max_age_s = max_age_s
        self._pids: dict[str, list[int]] = {}
        self._looked_s = float("-inf")
        self._processes: dict[int, psutil.Process] = {}

    def processes(self, marker: str, kernel_pid: int, uid: int | None = None) -> list[psutil.Process]:
        """Returns the kernel's process, if it lives, and all that came from it.

        Processes are the same objects from call to call, so that a caller can compare their readings.

        Args:
            uid: Of the kernel's user; None: any. Another's process that bears the marker is nothing of this kernel's.
        """
        if time.monotonic() - self._looked_s > self._max_age_s:
            self._pids = marked_pids()
            self._looked_s = time.monotonic()
            living = {pid for pids in self._pids.values() for pid in pids}
            self._processes = {pid: process for pid, process in self._processes.items() if pid in living}
        pids = [pid for pid in self._pids.get(marker, []) if uid is None or _uid_of(pid) == uid]
        found = [self._process(pid) for pid in sorted(pids, key=lambda pid: (pid != kernel_pid, pid))]
        return [process for process in found if process is not None]

    def _process(self, pid: int) -> psutil.Process | None:
        process = self._processes.get(pid)
        try:
            if process is None or not process.is_running():
                process = self._processes[pid] = psutil.Process(pid)
        except psutil.Error:
            return None
        return process


def raise_file_limit() -> None:
    """Lets this process have as many files and sockets as hundreds of kernels take, 16 each, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def end_processes(markers: Iterable[str], *, grace_s: float) -> list[int]:
    """Ends every process that bears one of the markers: SIGTERM, and after the grace SIGKILL.

    Children that are born meanwhile are found by looking again until there is none left.

    Returns:
        The process ids that were signalled.
    """
    signalled: set[int] = set()
    kill_from = time.monotonic() + grace_s
    while pids := _pids_of(markers):
        kill = time.monotonic() >= kill_from
        for pid in pids:
            if kill or pid not in signalled:
                signal_process(pid, signal.SIGKILL if kill else signal.SIGTERM)
        signalled.update(pids)
        await asyncio.sleep(0.01)
        if time.monotonic() > kill_from + 5.0:  # what SIGKILL does not end hangs in the operating system
            break
    return sorted(signalled)


def end_processes_now(markers: Iterable[str]) -> list[int]:
    """As `end_processes`, without a grace and blocking: for what an agent left that is gone."""
    signalled: set[int] = set()
    deadline = time.monotonic() + 5.0
    while (pids := _pids_of(markers)) and time.monotonic() < deadline:
        for pid in pids:
            signal_process(pid, signal.SIGKILL)
        signalled.update(pids)
        time.sleep(0.005)
    return sorted(signalled)


def _pids_of(markers: Iterable[str]) -> list[int]:
    wanted = set(markers)
    return [pid for marker, pids in marked_pids().items() if marker in wanted for pid in pids if not _is_zombie(pid)]


def _uid_of(pid: int) -> int | None:
    try:
        return os.stat(_PROC / str(pid)).st_uid
    except OSError:
        return None


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def signal_process(pid: int, signal_number: int) -> None:
    """Sends a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal_number)


def signal_group(group: int, signal_number: int) -> None:
    """Sends a signal to a process group that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal_number)


def start_time(pid: int) -> float | None:
    """Returns when the process was started, by which one is told from a later one of the same number; None: gone.

    On Linux in clock ticks since the machine started, which no change of its clock changes.
    """
    if sys.platform.startswith("linux"):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                return float(file.read().rpartition(b")")[2].split()[19])
        except (OSError, IndexError, ValueError):
            return None
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None
