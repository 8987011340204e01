"""What both sides hold of a file: its paths, versions and pieces, and which of them a choice is about."""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgpu_protocol import file_versions, workspace
from nbgpu_protocol.file_versions import FileVersions, PieceCheck, packed, unpacked, version_of_file
from nbgpu_protocol.workspace import Choice, leads_out, path_problem

OLD_NS = 1_600_000_000_000_000_000


@pytest.mark.parametrize("path", ["x", "a/b.csv", "süß", "a b\n", "...", ".hidden", "-x", "x" * 255])
def test_paths(path: str) -> None:
    assert path_problem(path) == ""


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "/x", "a/../b", "a//b", "a/", "./a", "a\0b", "\udcff", "x" * 256, "ü" * 128, "a/" * 1500 + "x"]
    + [f"a/{name}/b" for name in sorted(workspace.NEVER)],
)
def test_no_paths(path: str) -> None:
    assert path_problem(path)


@pytest.mark.parametrize(
    ("pattern", "chosen", "not_chosen"),
    [
        ("", ["a", "a/b"], []),
        ("a", ["a", "a/b", "a/b/c"], ["ab", "b/a"]),
        ("a/b", ["a/b", "a/b/c"], ["a", "a/c"]),
        ("*.csv", ["x.csv", "x.csv/below"], ["a/x.csv", "x.txt"]),
        ("a/*", ["a/b", "a/b/c"], ["a", "b/a"]),
        ("**/*.csv", ["x.csv", "a/x.csv", "a/b/x.csv"], ["x.txt", "a/x.txt"]),
        ("a/**", ["a/b", "a/b/c"], ["b"]),
        ("x?[12]", ["xa1", "xb2"], ["x1", "xa3"]),
        ("[odd].csv", ["[odd].csv", "o.csv"], ["x.csv"]),
    ],
)
def test_a_choice(pattern: str, chosen: list[str], not_chosen: list[str]) -> None:
    choice = Choice((pattern,))
    assert [path for path in chosen + not_chosen if choice.chooses(path)] == chosen
    for path in chosen:
        parts = path.split("/")
        assert all(choice.may_choose_below("/".join(parts[:count])) for count in range(len(parts)))


def test_a_pattern_that_stands_for_a_path_in_very_many_ways() -> None:
    pattern = "/".join(["**", "a"] * 40)
    path = "/".join(["a"] * 400)
    assert Choice((pattern,)).chooses(path)  # takes longer than anybody waits where each way is tried
    assert not Choice((f"{pattern}/b",)).chooses(path)
    assert Choice(("/".join(["**"] * 500),)).chooses(path)


def test_paths_of_very_many_parts() -> None:
    path = "/".join(["a"] * 1400)
    assert Choice((path,)).chooses(f"{path}/b")
    assert Choice((path,)).may_choose_below(path)
    assert not Choice((f"{path}/x",)).may_choose_below(f"{path}/b")


def test_folders_that_hold_nothing_chosen_are_not_walked() -> None:
    choice = Choice(("data/*.csv", "x"))
    assert choice.may_choose_below("data")
    assert not choice.may_choose_below("other")


@pytest.mark.parametrize(
    ("path", "target", "expected"),
    [
        ("a", "b", False),
        ("a/b", "../c", False),
        ("a/b", "c/d", False),
        ("a/b/c", "../../d", False),
        ("a", "../b", True),
        ("a/b", "../../c", True),
        ("a", "/etc", True),
        ("a/b", "c/../../d", True),
        ("a/b", "c/../d", True),  # c may be a link, whose parent is elsewhere
        ("a", "", True),
        ("a", ".git/config", True),
    ],
)
def test_links_that_lead_out(path: str, target: str, expected: bool) -> None:
    assert leads_out(path, target) is expected


@given(st.binary(max_size=100), st.lists(st.integers(1, 40), max_size=20))
def test_pieces_are_checked_however_they_are_cut(content: bytes, sizes: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_versions, "PIECE_BYTES", 16)
        pieces = [content[start : start + 16] for start in range(0, len(content), 16)]
        digests = tuple(f"sha256:{hashlib.sha256(piece).hexdigest()}" for piece in pieces)
        assert unpacked(packed(digests)) == digests
        for altered in (content, content[:-1], content + b"x", content[:40] + b"?" + content[41:]):
            check, file, right = PieceCheck(digests), io.BytesIO(altered), True
            for size in [*sizes, len(altered) + 1]:
                right = right and check.take(file.read(size))
            assert (right and check.finish()) is (altered == content)


def inspect(versions: FileVersions, path: Path) -> file_versions.Inspected | None:
    with open(path, "rb") as file:
        return versions.inspect(str(path), file)


def test_a_version_is_of_the_content_and_the_permission(tmp_path: Path) -> None:
    path, versions = tmp_path / "x", FileVersions()
    path.write_bytes(b"1")
    first = inspect(versions, path)
    path.touch()
    assert first is not None
    again = inspect(versions, path)
    assert again is not None
    assert again.version == first.version == version_of_file(first.piece_digests, executable=False)
    path.chmod(0o755)
    executable = inspect(versions, path)
    assert executable is not None
    assert executable.version == f"{first.version}+x"


def test_what_is_known_is_not_read_again_but_what_is_young_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, versions = tmp_path / "x", FileVersions()
    path.write_bytes(b"1")
    inspect(versions, path)
    assert versions.known(str(path), path.stat()) is None  # it can change within the clock's tick
    later_ns = time.time_ns() + 10**10
    monkeypatch.setattr(file_versions.time, "time_ns", lambda: later_ns)
    inspected = inspect(versions, path)
    assert versions.known(str(path), path.stat()) == inspected
    path.write_bytes(b"2")
    assert versions.known(str(path), path.stat()) is None
    os.utime(path, ns=(OLD_NS, OLD_NS))
    assert versions.known(str(path), path.stat()) is None


def test_a_file_that_grows_while_it_is_read_has_no_version(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1" * 100)

    def grow(_: int) -> None:
        with path.open("ab") as file:
            file.write(b"2")

    with open(path, "rb") as file:
        assert FileVersions().inspect("x", file, grow) is None


def test_a_file_that_is_rewritten_while_it_is_read_has_no_version(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1" * 100)
    os.utime(path, ns=(OLD_NS, OLD_NS))
    with open(path, "rb") as file:
        assert FileVersions().inspect("x", file, lambda _: path.write_bytes(b"2" * 100) and None) is None
