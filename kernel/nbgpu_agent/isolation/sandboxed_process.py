"""The process of a kernel in a sandbox: bwrap waits for it, and the agent signals and asks the kernel itself."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable
from pathlib import Path

import psutil

_FIRST_INSIDE = 2
"""Number, in its own namespace, of what bwrap starts there; 1 is bwrap's, which reaps what nobody else does."""
_OF_SIGNALS = range(128 + 1, 128 + 65)


class SandboxedProcess:
    """A kernel that bwrap was started for. Its end is bwrap's, who tells its exit code.

    Args:
        bwrap: That the agent has started.
    """

    def __init__(self, bwrap: subprocess.Popen[bytes]) -> None:
        self._bwrap = bwrap
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """The kernel's once it was found, before bwrap's. In the agent's own namespace."""
        return self._pid if self._pid is not None else self._bwrap.pid

    @property
    def returncode(self) -> int | None:
        return _exit_code(self._bwrap.returncode)

    def wait(self) -> int | None:
        return _exit_code(self._bwrap.wait())

    def find(self) -> bool:
        """Looks for the kernel's own process, which bwrap starts soon; returns whether it was found."""
        with contextlib.suppress(psutil.Error):
            below = psutil.Process(self._bwrap.pid).children(recursive=True)
            # The one in the outermost of namespaces: a kernel may have made others by now.
            inside = [each.pid for each in below if len(numbers_of(each.pid)) > len(numbers_of(self._bwrap.pid))]
            for pid in sorted(inside, key=lambda pid: len(numbers_of(pid))):
                if numbers_of(pid)[len(numbers_of(self._bwrap.pid)) :][:1] == [_FIRST_INSIDE]:
                    self._pid = pid
                    return True
        return False


def numbers_of(pid: int) -> list[int]:
    """Returns the numbers of a process, from our namespace to its own; none if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []
    return next(([int(each) for each in line.split()[1:]] for line in lines if line.startswith("NSpid:")), [])


def outside_numbers(kernel_pid: int, pids: Iterable[int]) -> dict[int, int]:
    """Returns how processes are numbered here, by how the kernel of their sandbox numbers them.

    Args:
        kernel_pid: As it is numbered here.
        pids: Of processes that may be in its sandbox.
    """
    depth = len(numbers_of(kernel_pid))
    found = {}
    for pid in pids:
        numbers = numbers_of(pid)
        if 0 < depth <= len(numbers):
            found[numbers[depth - 1]] = pid
    return found


def _exit_code(code: int | None) -> int | None:
    """Returns the exit code of what ran in bwrap, who tells 128 and the number of a signal."""
    return 128 - code if code is not None and code in _OF_SIGNALS else code
