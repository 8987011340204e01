"""How often the operating system has killed a process for memory, as far as it tells: on the node, in our group."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MemoryKills:
    """Counts since the node was started; None where they cannot be read."""

    on_node: int | None
    in_group: int | None
    """In this process's control group, whose memory may be limited."""


def read_memory_kills(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> MemoryKills:
    """Reads the counts: proc(5) `vmstat`, and `memory.events` (version 2) or `memory.oom_control` (version 1)."""
    return MemoryKills(_field(proc / "vmstat"), _in_group(proc, cgroups))


def _in_group(proc: Path, cgroups: Path) -> int | None:
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            relative = group.lstrip("/")
            if not controllers:
                files = [cgroups / relative / "memory.events", cgroups / "memory.events"]
            elif "memory" in controllers.split(","):
                files = [
                    cgroups / "memory" / relative / "memory.oom_control",
                    cgroups / "memory" / "memory.oom_control",
                ]
            else:
                continue
            for file in files:
                if (count := _field(file)) is not None:
                    return count
    return None


def _field(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def killed_between(before: MemoryKills, after: MemoryKills) -> bool | None:
    """Says whether something was killed for memory between two readings; None if that is not known."""
    pairs = ((before.in_group, after.in_group), (before.on_node, after.on_node))
    known = [later > earlier for earlier, later in pairs if earlier is not None and later is not None]
    return any(known) if known else None
