"""Makes a rank of a process that was forked for it: its own group, output, signals, and files for its stacks."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import io
import multiprocessing.util
import os
import signal
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from nbgpu_kernel.process import end_with_parent
from nbgpu_kernel.whereabouts import STACKS_SIGNAL


def prepare_rank_process(
    parent: int, outputs: tuple[int, int], keep: Collection[int], inherited: Iterable[int], crash: Path, stacks: Path
) -> None:
    """Called first in the forked process.

    Args:
        parent: The launcher, with which it ends.
        outputs: File descriptors that become its standard output and error.
        keep: Further ones that stay open.
        inherited: All that the launcher had.
        crash: File to which a crash's stack is written.
        stacks: File to which STACKS_SIGNAL appends the stacks of all threads.
    """
    os.setsid()  # a group of its own: its children end with it
    end_with_parent(parent)
    stdout, stderr = outputs
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for descriptor in inherited:
        if descriptor not in keep:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    for descriptor in outputs:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = _text(1), _text(2)  # type: ignore[misc]
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Kept open: they are written when the process crashes, or is asked where it is.
    crash_file = os.open(crash, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    stacks_file = os.open(stacks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    faulthandler.enable(file=crash_file, all_threads=True)
    # The stack of the main thread alone. Where it waits in C the others go on: to read theirs has crashed ranks.
    faulthandler.register(STACKS_SIGNAL, file=stacks_file, all_threads=False)
    os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)  # the launcher's, for itself
    atexit._clear()  # what the launcher had to do at its end
    atexit.register(multiprocessing.util._exit_function)  # type: ignore[attr-defined]
    numpy = sys.modules.get("numpy")
    if numpy is not None:  # torch imports it: its global generator would be the same in all ranks
        numpy.random.seed()


def _text(descriptor: int) -> io.TextIOWrapper:
    raw = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    # Through at once: a rank that is killed has said what it said.
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
