"""Whether the operating system killed something for memory, from both versions of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbgpu_kernel.ranks.memory_events import MemoryKills, killed_between, read_memory_kills


@pytest.mark.parametrize(
    ("cgroup", "file", "content"),
    [
        ("0::/box", "box/memory.events", "low 0\noom 1\noom_kill 3\n"),
        ("0::/elsewhere", "memory.events", "oom_kill 3\n"),
        ("4:cpu,memory:/box\n3:cpu:/x", "memory/box/memory.oom_control", "oom_kill_disable 0\noom_kill 3\n"),
    ],
)
def test_counts_are_read(tmp_path: Path, cgroup: str, file: str, content: str) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "vmstat").write_text("nr_free_pages 5\noom_kill 9\n")
    (proc / "self" / "cgroup").write_text(cgroup + "\n")
    (groups / file).parent.mkdir(parents=True)
    (groups / file).write_text(content)
    assert read_memory_kills(proc, groups) == MemoryKills(9, 3)


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    assert read_memory_kills(tmp_path, tmp_path) == MemoryKills(None, None)


@pytest.mark.parametrize(
    ("before", "after", "killed"),
    [
        ((0, 0), (1, 0), True),
        ((0, 0), (0, 1), True),
        ((5, 2), (5, 2), False),
        ((None, 2), (None, 2), False),
        ((None, None), (None, None), None),
    ],
)
def test_a_kill_between_two_readings(
    before: tuple[int | None, int | None], after: tuple[int | None, int | None], killed: bool | None
) -> None:
    assert killed_between(MemoryKills(*before), MemoryKills(*after)) is killed
