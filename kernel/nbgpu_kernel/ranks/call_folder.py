"""The folder of one call: what its launcher, its ranks and the session's kernel tell each other in files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_MAX_TEMPORARY_PATH_BYTES = 107 - 36
"""Of a socket's path 107 bytes are allowed, of which multiprocessing, and so a DataLoader, takes 33 for its own."""
MAX_LOG_BYTES = 64 << 20
"""What a rank writes beyond this is not kept, and the log says so."""


@dataclass(frozen=True)
class Plan:
    """What a launcher is to do."""

    call_id: str
    world_size: int
    timeout_s: float | None
    """From the ranks' start; None: for ever."""
    sys_path: list[str]
    kernel_pid: int
    whereabouts: str | None = None
    """The folder in which the kernel leaves word of where its code is."""
    cells: dict[str, int] = field(default_factory=dict)
    """Files of the notebook's cells, and the number of each."""
    hang_after_s: float | None = None
    """Without output and progress for so long the ranks are said to hang; None: that is not looked for."""


class CallFolder:
    """Paths in the folder.

    Args:
        path: Of the folder, which has the call's id as its name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path / "t"
        if len(os.fsencode(self.temporary)) > _MAX_TEMPORARY_PATH_BYTES:
            self.temporary = short_folder(path.name)
        self.plan = path / "plan.json"
        self.payload = path / "payload"
        self.outcome = path / "outcome.json"
        self._leaders = path / "leaders.json"
        self.feed = path / "feed"
        """Which rank wrote so many bytes of its log on which stream, in order: a line each, see `feed_line`."""
        self.hang = path / "hang.json"
        self.launcher_log = path / "launcher.log"

    def make(self) -> None:
        self.path.mkdir(mode=0o700)

    def make_temporary(self) -> None:
        """Makes the folder for the ranks' temporary files; the launcher's to do, which removes it."""
        self.temporary.mkdir(mode=0o700)

    def log(self, rank: int) -> Path:
        return self.path / f"rank-{rank}.log"

    def stacks(self, rank: int) -> Path:
        return self.path / f"rank-{rank}.stacks"

    def facts(self, rank: int) -> Path:
        return self.path / f"facts-{rank}.json"

    def crash(self, rank: int) -> Path:
        return self.path / f"rank-{rank}.crash"

    def result(self, rank: int) -> Path:
        return self.path / f"rank-{rank}.result"

    def report(self, rank: int) -> Path:
        return self.path / f"rank-{rank}.json"

    def error(self, rank: int) -> Path:
        return self.path / f"rank-{rank}.error"

    def write_plan(self, plan: Plan) -> None:
        write_json(self.plan, asdict(plan))

    def read_plan(self) -> Plan:
        return Plan(**json.loads(self.plan.read_text()))

    def write_leaders(self, leaders: Mapping[int, int]) -> None:
        """Keeps the process ids of the ranks, each with its start, for whoever ends what is left of them."""
        write_json(self._leaders, dict(leaders))

    def read_leaders(self) -> dict[int, int]:
        """Returns what was kept; nothing where there is none."""
        try:
            return {int(pid): int(start) for pid, start in json.loads(self._leaders.read_text()).items()}
        except (OSError, ValueError):
            return {}

    def remove_results(self) -> None:
        """Removes what the ranks returned, which may be large."""
        for path in self.path.glob("rank-*.result"):
            path.unlink(missing_ok=True)

    def remove_scratch(self) -> None:
        """Removes what is of no use when the call is over: all but its logs, its outcome and what it brought back."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        shutil.rmtree(short_folder(self.path.name), ignore_errors=True)
        self.payload.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def short_folder(call_id: str) -> Path:
    """Returns the path of a folder that a call may make for sockets whose names are long, and the kernel removes."""
    return Path(os.sep, "tmp", f"nbgpu-{call_id}")


def write_json(path: Path, content: Any) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)


def feed_line(rank: int, is_stderr: bool, size_bytes: int) -> bytes:
    return b"%d %c %d\n" % (rank, b"e" if is_stderr else b"o", size_bytes)


def parse_feed_line(line: bytes) -> tuple[int, bool, int]:
    """Returns rank, whether it was standard error, and the number of bytes."""
    rank, stream, size_bytes = line.split()
    return int(rank), stream == b"e", int(size_bytes)
