"""Keeps kernels from the GPUs that their sessions do not hold, by Linux's devices controller (cgroup v1).

cgroup v2 has no such controller, but programs that are loaded into the kernel of Linux: there the device files stay as
the system has them. Only root can do either.

Source: https://docs.kernel.org/admin-guide/cgroup-v1/devices.html
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from nbgpu_agent.isolation.device_files import device_files
from nbgpu_agent.isolation.os_user import IsolationError
from nbgpu_agent.model import Accelerator

logger = logging.getLogger(__name__)

PREFIX = "nbgpu-"
_OWN = re.compile(r"^\d+:(?:[^:]*,)?devices(?:,[^:]*)?:(/.*)$", re.MULTILINE)
_OF_A_GPU = re.compile(r"nvidia\d+")
_TASKS = "tasks"
_LEFT_AFTER_S = 60.0
"""An empty group that is younger may be one that another agent has just made."""


class DeviceCgroups:
    """A group below the agent's own for each kernel, removed when nothing is in it any more.

    Args:
        root: Below which `dev`, `proc` and `sys` are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._folder = _folder_of_own(root)
        self._left: set[str] = set()

    @property
    def is_there(self) -> bool:
        """Whether the agent may make groups; else kernels reach every GPU's device file."""
        return self._folder is not None

    @contextlib.contextmanager
    def entered(self, kernel_id: str, accelerators: Iterable[Accelerator]) -> Iterator[None]:
        """What this thread starts meanwhile reaches these GPUs and no others, and so does all that it starts itself.

        Where that cannot be, it goes on as if there were no groups, and the log says why.
        """
        entered = False
        try:
            entered = self._enter(kernel_id, accelerators)
        except (OSError, IsolationError) as error:
            logger.warning("kernel %s reaches the device files of all GPUs: %s", kernel_id, error)
        try:
            yield
        finally:
            if entered:
                assert self._folder is not None
                _move_this_thread(self._folder)

    def leave(self, kernel_id: str) -> None:
        """Removes the kernel's group, now or, while something of it runs, with one of the next."""
        self._left.add(kernel_id)
        self.tidy()

    def tidy(self) -> bool:
        """Removes what was left of groups; returns whether there is none any more."""
        if self._folder is None:
            self._left.clear()
        else:
            self._left = {each for each in self._left if not _removed(self._folder / f"{PREFIX}{each}")}
        return not self._left

    def remove_leftovers(self) -> None:
        """Removes the groups of kernels of earlier agents of which nothing runs."""
        if self._folder is None:
            return
        for group in self._folder.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - group.stat().st_mtime > _LEFT_AFTER_S:
                    group.rmdir()  # which is refused while it has processes

    def _enter(self, kernel_id: str, accelerators: Iterable[Accelerator]) -> bool:
        if self._folder is None:
            return False
        denied = {path for path in (self._root / "dev").glob("nvidia*") if _OF_A_GPU.fullmatch(path.name)}
        denied -= set(device_files(accelerators, self._root))
        if not denied:
            return False
        group = self._folder / f"{PREFIX}{kernel_id}"
        group.mkdir()
        for path in sorted(denied):
            status = path.stat()
            if stat.S_ISCHR(status.st_mode):
                number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
                (group / "devices.deny").write_text(f"c {number} rwm")
        _move_this_thread(group)
        return True


def _folder_of_own(root: Path) -> Path | None:
    """Returns the agent's own group, if groups can be made in it."""
    try:
        found = _OWN.search((root / "proc/self/cgroup").read_text())
    except OSError:
        return None
    if found is None:
        return None
    folder = root / "sys/fs/cgroup/devices" / found[1].lstrip("/")
    return folder if os.access(folder / _TASKS, os.W_OK) and os.access(folder, os.W_OK) else None


def _move_this_thread(group: Path) -> None:
    (group / _TASKS).write_text(str(threading.get_native_id()))


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
