"""How two snapshots differ, as a person reads it."""

from __future__ import annotations

from dataclasses import replace

from nbgpu.snapshot.difference import Difference, compare
from nbgpu_protocol.snapshot import Distribution, LocalFile, Origin, Snapshot

BEFORE = Snapshot(
    "3.11.7",
    "cpython",
    "linux",
    "x86_64",
    distributions=(
        Distribution("alpha", "1.0"),
        Distribution("beta", "1.0"),
        Distribution("gamma", "1.0", Origin.VCS, "git+https://example.org/gamma@aaaa"),
    ),
    files=(
        LocalFile("workspace/mine.py", "sha256:1", 10),
        LocalFile("workspace/gone.py", "sha256:2", 10),
        LocalFile("editables/tool/tool.py", "sha256:3", 10),
    ),
)


def test_nothing_differs_between_equal_snapshots() -> None:
    assert not compare(BEFORE, replace(BEFORE, distributions=tuple(replace(each) for each in BEFORE.distributions)))


def test_packages_are_named_with_both_versions_and_files_by_their_paths() -> None:
    now = replace(
        BEFORE,
        distributions=(
            Distribution("alpha", "2.0"),
            Distribution("delta", "0.1"),
            Distribution("gamma", "1.0", Origin.VCS, "git+https://example.org/gamma@bbbb"),
        ),
        files=(
            LocalFile("workspace/mine.py", "sha256:4", 10),
            LocalFile("workspace/new.py", "sha256:5", 10),
            LocalFile("editables/tool/tool.py", "sha256:3", 10, executable=True),
        ),
    )
    assert compare(BEFORE, now) == Difference(
        packages=(
            ("alpha", "1.0", "2.0"),
            ("beta", "1.0", ""),
            ("delta", "", "0.1"),
            ("gamma", "1.0", "1.0"),  # of another commit
        ),
        files=("gone.py", "mine.py", "new.py", "tool/tool.py"),
    )
