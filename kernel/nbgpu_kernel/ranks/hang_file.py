"""The file by which the launcher of ranks tells the session's kernel that its ranks hang, and when they went on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nbgpu_kernel.ranks.call_folder import write_json
from nbgpu_kernel.ranks.doctor import Hang, RankProgress
from nbgpu_kernel.ranks.gpu_load import GpuLoad
from nbgpu_kernel.ranks.stacks import users_frame


class HangTeller:
    """Writes the file.

    Args:
        path: Of it.
        world_size: Of the call.
        runs: What hangs: "call" or "cell".
    """

    def __init__(self, path: Path, world_size: int, *, runs: str = "call") -> None:
        self._path = path
        self._world_size = world_size
        self._runs = runs
        self._number = 0
        self._last: dict[str, Any] | None = None

    def tell(self, hang: Hang | None, now_s: float, gpus: Mapping[int, GpuLoad]) -> None:
        """Tells of a hang as it is now; None: the last one is over."""
        if hang is None:
            if self._last is not None:
                write_json(self._path, {**self._last, "is_over": True})
                self._last = None
            return
        if self._last is None:
            self._number += 1
        behind = hang.behind

        def describe(each: RankProgress) -> dict[str, Any]:
            own = users_frame(list(each.look.stack))
            gpu = gpus.get(each.look.rank)
            return {
                "rank": each.look.rank,
                "waits_in": each.waits_in,
                "for_s": now_s - each.since_s,
                "behind": behind.get(each.look.rank, 0),
                "gpu": asdict(gpu) if gpu is not None else None,
                "frame": asdict(own) if own is not None else None,
                "stack": [asdict(frame) for frame in each.look.stack],
            }

        self._last = {
            "number": self._number,
            "world_size": self._world_size,
            "runs": self._runs,
            "for_s": now_s - hang.since_s,
            "waiting": [describe(each) for each in hang.waiting],
            "missing": [describe(each) for each in hang.missing],
            "returned": list(hang.returned),
            "is_over": False,
        }
        write_json(self._path, self._last)


def read_hang(path: Path) -> dict[str, Any] | None:
    """Returns what the file says; None if there is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found
