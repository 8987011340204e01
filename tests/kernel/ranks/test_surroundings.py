"""What ranks that stay have of their kernel's environment, folder and search path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nbgpu_kernel.ranks import surroundings
from nbgpu_kernel.ranks.surroundings import Surroundings


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(surroundings, "_OWN", surroundings._OWN | {"PYTEST_CURRENT_TEST"})
    for name in ("NBGPU_TEST_A", "NBGPU_TEST_B"):
        monkeypatch.setenv(name, "before")
    found = Surroundings()
    found.note_changes()
    found.welcome(1)
    return found


def test_a_new_rank_is_told_everything_and_then_what_changes(
    here: Surroundings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = here.take_for(1)
    assert told["environment"]["NBGPU_TEST_A"] == "before"
    assert told["folder"] == os.getcwd()
    assert "TMPDIR" not in told["environment"]
    here.note_changes()
    assert here.take_for(1) == {}
    monkeypatch.setenv("NBGPU_TEST_A", "after")
    monkeypatch.delenv("NBGPU_TEST_B")
    monkeypatch.chdir(tmp_path)
    sys.path.insert(0, "/of/the/notebook")
    here.note_changes()
    told = here.take_for(1)
    assert told["environment"] == {"NBGPU_TEST_A": "after", "NBGPU_TEST_B": None}
    assert told["folder"] == str(tmp_path)
    assert told["sys_path"][0] == "/of/the/notebook"


def test_what_a_cell_on_the_ranks_changed_is_each_ranks_own(
    here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.take_for(1)
    monkeypatch.setenv("NBGPU_TEST_A", "of rank 0")
    here.settle()
    here.note_changes()
    assert here.take_for(1) == {}


def test_who_was_not_there_is_told_of_all_changes_at_once(here: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    here.take_for(1)
    monkeypatch.setenv("NBGPU_TEST_A", "1")
    here.note_changes()
    monkeypatch.setenv("NBGPU_TEST_B", "2")
    here.note_changes()
    here.renew_modules(["/work"])
    assert here.take_for(1) == {"environment": {"NBGPU_TEST_A": "1", "NBGPU_TEST_B": "2"}, "renewed": ["/work"]}


def test_changes_are_carried_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBGPU_TEST_B", "gone soon")
    monkeypatch.setenv("NBGPU_TEST_A", "before")
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "beside"
    folder.mkdir()
    module = folder / "nbgpu_test_beside.py"
    module.write_text("value = 1\n")
    changes = {
        "environment": {"NBGPU_TEST_A": "after", "NBGPU_TEST_B": None},
        "sys_path": [str(folder), *sys.path],
        "folder": str(folder),
    }
    namespace: dict[str, object] = {}
    surroundings.apply(changes, namespace)
    assert (os.environ["NBGPU_TEST_A"], "NBGPU_TEST_B" in os.environ, os.getcwd()) == ("after", False, str(folder))
    exec("import nbgpu_test_beside", namespace)
    module.write_text("value = 'another'\n")
    try:
        surroundings.apply({"renewed": [str(folder)]}, namespace)
        assert namespace["nbgpu_test_beside"].value == "another"  # type: ignore[attr-defined]
    finally:
        sys.modules.pop("nbgpu_test_beside", None)
