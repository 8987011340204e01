"""The process of a kernel, whether this agent started it or an earlier one did: when it ends, and what it has taken."""

from __future__ import annotations

import mmap
import os
import select
import struct
import time
from pathlib import Path
from typing import Protocol

from nbgpu_agent.processes import start_time

ACKNOWLEDGED_FILE = "acknowledged"
_NUMBERS = struct.Struct("<QQ")
_POLL_S = 0.2


class KernelProcess(Protocol):
    """What is asked of a process; `subprocess.Popen` answers it."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None:
        """None while it runs."""

    def wait(self) -> int | None:
        """Waits for its end; returns its exit code, negative for a signal, None where that is not known."""


class AdoptedProcess:
    """A process that an earlier agent started. Nobody here learns its exit code, which its parent alone is told.

    Args:
        pid: Its number.
        started: When it was started, as `processes.start_time` says; another of the number is another process.
    """

    def __init__(self, pid: int, started: float) -> None:
        self.pid = pid
        self._started = started
        self._gone = False

    @property
    def returncode(self) -> int | None:
        return -1 if self._gone or start_time(self.pid) != self._started else None

    def wait(self) -> None:
        """Waits for its end. Blocks."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # no such call here, or no such process
            while start_time(self.pid) == self._started:
                time.sleep(_POLL_S)
        else:
            try:
                if start_time(self.pid) == self._started:
                    poll = select.poll()
                    poll.register(descriptor, select.POLLIN)
                    poll.poll()
            finally:
                os.close(descriptor)
        self._gone = True


class Acknowledgement:
    """The file by which a kernel learns what its agent has for good, and the next agent where it was.

    Args:
        folder: The kernel's.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / ACKNOWLEDGED_FILE
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(file).st_size < _NUMBERS.size:
                os.truncate(path, _NUMBERS.size)
            self._numbers = mmap.mmap(file, _NUMBERS.size)
        finally:
            os.close(file)

    def read(self) -> tuple[int, int]:
        """Returns the number of the kernel's last message, and that of the journal's entry, that were acknowledged."""
        kernel_number, journal_number = _NUMBERS.unpack_from(self._numbers)
        return kernel_number, journal_number

    def write(self, kernel_number: int, journal_number: int) -> None:
        if not self._numbers.closed:
            _NUMBERS.pack_into(self._numbers, 0, kernel_number, journal_number)

    def close(self) -> None:
        self._numbers.close()
