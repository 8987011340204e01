"""The processes of a call, wherever they went: found by the marker in their environment or their session, and ended.

A program that gives itself a title in `ps`, such as those of Ray, writes it over its environment. It is still in its
rank's session, in the operating system's sense.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping

MARKER_VARIABLE = "NBGPU_CALL_ID"
RANK_MARKER_VARIABLE = "NBGPU_RANK_PROCESS"
"""Marks what comes from one rank that stays, see `rank_mark`."""
_ASK_S = 1.0
"""What keeps shared memory tidy (multiprocessing's resource tracker) ends by itself when its owner is gone."""
_KILL_S = 5.0
_POLL_S = 0.01


def rank_mark(call_id: str, pid: int) -> str:
    """Returns what RANK_MARKER_VARIABLE is in a rank, and in all that it starts."""
    return f"{call_id}-{pid}"


def marked_processes(call_id: str, leaders: Mapping[int, int], *, variable: str = MARKER_VARIABLE) -> Iterator[int]:
    """Yields the ids of the call's processes that still run, without this one. Linux only; elsewhere there are none.

    Args:
        call_id: Of the call.
        leaders: The ids of its ranks, with their start, see `read_starts`.
        variable: Which of the marks is looked for, of which `call_id` is the value.
    """
    if not sys.platform.startswith("linux"):
        return
    needle = f"{variable}={call_id}".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # another user's, or gone; one that has ended has no environment
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = file.read().split(b"\0")
            if needle in variables or _is_led_by(int(name), leaders):
                yield int(name)


def _is_led_by(pid: int, leaders: Mapping[int, int]) -> bool:
    if not leaders:
        return False
    state, session, _ = _read_stat(pid)
    if session not in leaders or state in "ZX":
        return False
    try:
        return _read_stat(session)[2] == leaders[session]
    except OSError:  # the leader is gone; as long as one of its session is there, its number is not given to another
        return True


def read_starts(pids: Iterable[int]) -> dict[int, int]:
    """Returns when processes have started, in the operating system's ticks; without those that are gone."""
    starts = {}
    for pid in pids:
        with contextlib.suppress(OSError):  # gone, or there is no /proc
            starts[pid] = _read_stat(pid)[2]
    return starts


def _read_stat(pid: int) -> tuple[str, int, int]:
    """Returns state, session and start, see proc(5)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[3]), int(fields[19])


def end_marked(call_id: str, leaders: Mapping[int, int], *, variable: str = MARKER_VARIABLE) -> int:
    """Ends what is left of a call: asked first, killed after a second. Blocks; returns how many there were.

    Args:
        call_id: Of the call.
        leaders: As for `marked_processes`.
        variable: As for `marked_processes`.
    """
    ended: set[int] = set()
    begun_s = time.monotonic()
    while pids := list(marked_processes(call_id, leaders, variable=variable)):
        elapsed_s = time.monotonic() - begun_s
        if elapsed_s > _KILL_S:  # what SIGKILL does not end hangs in the operating system
            break
        for pid in pids:
            if pid not in ended or elapsed_s > _ASK_S:
                signal_process(pid, signal.SIGKILL if elapsed_s > _ASK_S else signal.SIGTERM)
        ended.update(pids)
        time.sleep(_POLL_S)
    return len(ended)


def signal_process(pid: int, number: int) -> None:
    """Sends a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def signal_group(group: int, number: int) -> None:
    """Sends a signal to a process group that may be gone, or to the process that is about to lead it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        signal_process(group, number)
    except PermissionError:
        pass


def exit_of(pid: int) -> tuple[int | None, int | None] | None:
    """Returns the exit code and the signal of a child that has ended, one of them None; None while it runs.

    The child stays a zombie, as its parent's other code is to reap it; but not where there is no waitid(2), on macOS.
    """
    try:
        if not hasattr(os, "waitid"):
            reaped, status = os.waitpid(pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status)
            return None if not reaped else (code, None) if code >= 0 else (None, -code)
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None, None
    if found is None:
        return None
    if found.si_code == os.CLD_EXITED:
        return found.si_status, None
    return None, found.si_status
