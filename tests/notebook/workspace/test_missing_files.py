"""What is said of a file that a cell did not find: only where it is beside the notebook, and by which path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nbgpu.workspace.missing_files import missing_file_hint

ELSEWHERE = "/home/agent/session"
BESIDE = "is beside this notebook and not in the session: `%gpu sync"


def hint(folder: Path, filename: object, kind: type[OSError] = FileNotFoundError) -> str | None:
    return missing_file_hint(kind(2, "No such file or directory", filename), folder, ELSEWHERE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notebook/data").mkdir(parents=True)
    (tmp_path / "notebook/data/x.csv").write_text("1")
    (tmp_path / "notebook/odd name").write_text("1")
    (tmp_path / "outside").write_text("1")
    return tmp_path / "notebook"


def test_a_file_and_a_folder_beside_the_notebook(folder: Path) -> None:
    for filename in ("data/x.csv", "./data/../data/x.csv", f"{ELSEWHERE}/data/x.csv"):
        assert hint(folder, filename) == f"`data/x.csv` {BESIDE} data/x.csv`"
    assert hint(folder, "data") == f"`data` {BESIDE} data`"
    assert hint(folder, "odd name") == f"`odd name` {BESIDE} 'odd name'`"


def test_a_path_of_this_machine_is_another_one_there(folder: Path) -> None:
    line = hint(folder, str(folder / "data/x.csv"))
    assert line == f"`data/x.csv` {BESIDE} data/x.csv` sends it; open it there by its path relative to the notebook"


@pytest.mark.parametrize(
    "filename", ["nowhere", "../outside", "/etc/passwd", ".", "", None, 3, b"data/x.csv", "x" * 5000, "data\0x", ".git"]
)
def test_nothing_is_said_of_what_would_not_help(folder: Path, filename: object) -> None:
    (folder / ".git").mkdir()
    assert hint(folder, filename) is None


def test_other_errors(folder: Path) -> None:
    assert hint(folder, "data/x.csv", PermissionError) is None
    assert missing_file_hint(FileNotFoundError("data/x.csv"), folder, ELSEWHERE) is None
    assert missing_file_hint(FileNotFoundError(2, "", os.fspath("data/x.csv")), folder, "") is not None
