"""What ranks that stay have of their session's kernel beside values: variables of the environment, folder, search path.

What changes in the kernel outside of the cells that run on the ranks changes there as well; what such a cell changes it
has changed in each rank for itself.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from nbgpu_kernel import updates

_OWN = frozenset(
    {
        "JPY_PARENT_PID", "JPY_SESSION_NAME", "MPLBACKEND", "CLICOLOR", "FORCE_COLOR", "CLICOLOR_FORCE",
        "TMPDIR", "NBGPU_CALL_ID", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    }
)  # fmt: skip
"""The kernel's own, for its front end and its figures, and the ranks' own."""


class Surroundings:
    """The kernel's, and what each rank has not been told of yet."""

    def __init__(self) -> None:
        self._environment = rank_environment()
        self._sys_path = list(sys.path)
        self._folder = _folder()
        self._untold: dict[int, dict[str, Any]] = {}

    def welcome(self, rank: int) -> None:
        """Has a rank that was made anew be told everything."""
        self._untold[rank] = {
            "environment": rank_environment(),
            "sys_path": [entry or self._folder for entry in sys.path],
            "folder": _folder(),
        }

    def note_changes(self) -> None:
        """Compares with what there was when the last cell on ranks was over."""
        environment, folder = rank_environment(), _folder()
        gone = dict.fromkeys(self._environment.keys() - environment.keys())
        changed = {name: value for name, value in environment.items() if self._environment.get(name) != value}
        found: dict[str, Any] = {}
        if gone or changed:
            found["environment"] = {**gone, **changed}
        if sys.path != self._sys_path:
            found["sys_path"] = [entry or folder for entry in sys.path]
        if folder != self._folder:
            found["folder"] = folder
        if found:
            for untold in self._untold.values():
                environment_before = untold.get("environment", {})
                untold.update(found)
                if "environment" in found:
                    untold["environment"] = {**environment_before, **found["environment"]}
        self.settle()

    def renew_modules(self, folders: Iterable[str]) -> None:
        """Has every rank import the modules of these folders again, which have changed."""
        for untold in self._untold.values():
            untold["renewed"] = sorted({*untold.get("renewed", ()), *folders})

    def settle(self) -> None:
        """Takes what there is now for what all ranks have: they ran what changed it."""
        self._environment, self._sys_path, self._folder = rank_environment(), list(sys.path), _folder()

    def take_for(self, rank: int) -> dict[str, Any]:
        """Returns what a rank is to be told, which it has been then."""
        found = self._untold.get(rank, {})
        self._untold[rank] = {}
        return found


def apply(changes: Mapping[str, Any], namespace: MutableMapping[str, Any]) -> None:
    """Carries changes out in a rank."""
    for name, value in changes.get("environment", {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "sys_path" in changes:
        sys.path[:] = changes["sys_path"]
    if "folder" in changes:
        with contextlib.suppress(OSError):
            os.chdir(changes["folder"])
    if "renewed" in changes:
        updates.renew_modules(changes["renewed"], namespace)


def rank_environment() -> dict[str, str]:
    """Returns this process's environment without what is its own."""
    return {name: value for name, value in os.environ.items() if name not in _OWN}


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
