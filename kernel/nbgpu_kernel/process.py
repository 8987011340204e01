"""Prepares the kernel's process: how it ends with the agent, and that it says where it was when it crashed."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys

from nbgpu_kernel import whereabouts

STACKS_FILE_VARIABLE = "NBGPU_STACKS_FILE"
"""Names the file to which this process appends its stacks. Removed from the environment once read."""
_ALL_THREADS_MARK = b"nbgpu: all threads\n"

_stacks_file: int | None = None


def prepare_process() -> None:
    """Called before ipykernel is imported, while standard error still is the kernel's log."""
    # What starts it in a sandbox is its group's leader there: interrupts are for the kernel and what it starts alone.
    if os.getpgrp() != os.getpid():
        os.setsid()
    # Removed: ipykernel would end the process itself when its parent does.
    end_with_parent(int(os.environ.pop("JPY_PARENT_PID", None) or 0))
    # A copy: ipykernel puts a pipe in the place of standard error, which nobody reads once the process has crashed.
    log = os.dup(2)
    # The crashed thread alone: the end of the log, which people see, has room for one.
    faulthandler.enable(file=log, all_threads=False)
    whereabouts.take_folder()
    stacks_path = os.environ.pop(STACKS_FILE_VARIABLE, None)
    if stacks_path is not None:
        whereabouts.keep_stacks_file(stacks_path)
        global _stacks_file
        _stacks_file = os.open(stacks_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # The main thread alone. Where it waits in C the others go on: to read theirs has crashed processes.
        faulthandler.register(signal.SIGUSR1, file=_stacks_file, all_threads=False)


def write_stacks() -> None:
    """Appends the stacks of all threads, the main thread's last, and keeps the others from running meanwhile."""
    if _stacks_file is not None:
        os.write(_stacks_file, _ALL_THREADS_MARK)
        faulthandler.dump_traceback(file=_stacks_file, all_threads=True)


def outlive_parent() -> None:
    """Has this process go on when its agent ends: the next agent takes it over, or ends it. On the main thread."""
    _send_when_parent_ends(0)


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Has this process sent a signal when the thread that started it ends, for a kernel its agent's. Nothing for 0.

    A spare kernel, which is nobody's yet, ends so; a session's goes on.
    """
    if not sys.platform.startswith("linux") or not parent:
        return
    _send_when_parent_ends(number)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def _send_when_parent_ends(number: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, linux/prctl.h; of the calling thread
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, number, 0, 0, 0)
