"""What a session's kernel leaves in a folder so that others can find out where its code is while it is busy.

The agent makes the folder, with the kernel's, and removes it. In it are `cells`, which says by which name Python knows
the code of each cell, and for every group of ranks that runs a file that says which processes they are and to which
file each of them writes its stacks when it gets SIGUSR1. A group is written by whoever starts its ranks, and forgotten
by the same when they have ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STACKS_SIGNAL = signal.SIGUSR1
"""faulthandler answers it in every kernel and every rank."""
FOLDER_VARIABLE = "NBGPU_WHEREABOUTS_FOLDER"
"""Names the folder. Removed from the environment once read."""
CELLS_FILE = "cells"
"""A line for each cell that ran: its number, a tab, and the file that its code object names."""
GROUP_SUFFIX = ".group"


@dataclass(frozen=True)
class RankProcess:
    """A rank, as others can ask it where it is."""

    rank: int
    pid: int
    stacks: str
    """The file to which it appends its stacks, by faulthandler, on SIGUSR1."""


class _Cells:
    """The file of cells, opened at the first."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.stacks_file: str | None = None
        self._descriptor: int | None = None
        self._known: dict[str, int] = {}

    def note(self, file: str, number: int) -> None:
        if self.folder is None or self._known.get(file) == number:
            return
        self._known[file] = number
        with contextlib.suppress(OSError):
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._descriptor = os.open(self.folder / CELLS_FILE, flags, 0o600)
            os.write(self._descriptor, f"{number}\t{file}\n".encode(errors="replace"))


_cells = _Cells()


def take_folder() -> None:
    """Reads from the environment where the folder is. Without one nothing is left anywhere."""
    found = os.environ.pop(FOLDER_VARIABLE, None)
    _cells.folder = Path(found) if found else None


def folder() -> str | None:
    """Returns the folder's path."""
    return str(_cells.folder) if _cells.folder is not None else None


def keep_stacks_file(path: str) -> None:
    """Keeps in mind to which file this process appends its stacks when it gets SIGUSR1."""
    _cells.stacks_file = path


def stacks_file() -> str | None:
    """Returns that file's path; None: there is none."""
    return _cells.stacks_file


def note_cell(file: str, number: int) -> None:
    """Leaves word that this file is the code of the cell of that number. Some 10 µs, nothing if it is known."""
    _cells.note(file, number)


def write_group(
    folder: str | None,
    group_id: str,
    world_size: int,
    ranks: Mapping[int, RankProcess],
    cells: Mapping[str, int] | None = None,
) -> None:
    """Leaves word of ranks that run.

    Args:
        folder: As `folder` returned it in the kernel; None: nobody wants to know.
        group_id: Of the call; letters and digits.
        world_size: Of the group.
        ranks: By number.
        cells: Files of the notebook's own cells, and their numbers: functions of theirs run on the ranks.
    """
    if folder is None:
        return
    content = {
        "id": group_id,
        "world_size": world_size,
        "ranks": [{"rank": each.rank, "pid": each.pid, "stacks": each.stacks} for each in ranks.values()],
        "cells": dict(cells or {}),
    }
    path = Path(folder, group_id + GROUP_SUFFIX)
    with contextlib.suppress(OSError):  # the session is gone
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content))
        os.replace(partial, path)


def forget_group(folder: str | None, group_id: str) -> None:
    """Takes back what `write_group` left."""
    if folder is not None:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, group_id + GROUP_SUFFIX))
