"""Updates of a running kernel: local modules that were edited, the search path, another environment."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbgpu_kernel.updates import apply, renew_modules


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Puts back what an update changes."""
    before, modules, environ = list(sys.path), set(sys.modules), dict(os.environ)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    os.environ.clear()
    os.environ.update(environ)


@pytest.fixture
def namespace(tmp_path: Path) -> dict[str, Any]:
    """A person's variables, with two local modules imported, of which one uses the other."""
    (tmp_path / "local_base.py").write_text("def value(): return 1\nclass Thing: pass\nconstant = 1\n")
    (tmp_path / "local_user.py").write_text("from local_base import value\ndef twice(): return 2 * value()\n")
    sys.path.insert(0, str(tmp_path))
    names: dict[str, Any] = {}
    exec("import json, local_user\nfrom local_base import value, Thing, constant\nthing = Thing()", names)
    return names


def edit(folder: Path, content: str) -> None:
    (folder / "local_base.py").write_text(content)
    importlib.invalidate_caches()


def test_names_mean_the_new_modules(namespace: dict[str, Any], tmp_path: Path) -> None:
    json, old_thing = namespace["json"], namespace["thing"]
    edit(tmp_path, "def value(): return 10\nclass Thing: new = True\nconstant = 10\n")
    renew_modules([str(tmp_path)], namespace)
    assert namespace["value"]() == 10
    assert namespace["local_user"].twice() == 20
    assert namespace["Thing"].new
    # Values stay what they were, as everything that a cell computed.
    assert namespace["constant"] == 1
    assert namespace["thing"] is old_thing
    assert namespace["json"] is json


def test_a_module_that_cannot_be_imported_stays_until_it_can(namespace: dict[str, Any], tmp_path: Path) -> None:
    edit(tmp_path, "this is no Python")
    renew_modules([str(tmp_path)], namespace)
    assert namespace["value"]() == 1
    assert namespace["local_user"].twice() == 2
    with pytest.raises(SyntaxError):
        importlib.import_module("local_base")


def test_a_name_that_a_module_has_no_more_keeps_its_object(namespace: dict[str, Any], tmp_path: Path) -> None:
    edit(tmp_path, "def value(): return 10\n")
    renew_modules([str(tmp_path)], namespace)
    assert namespace["value"]() == 10
    assert not hasattr(namespace["Thing"], "new")


def test_variables_and_paths_are_set(tmp_path: Path) -> None:
    entry = str(tmp_path / "editables/tool")
    content = {"variables": {"NBGPU_TEST_NAME": "value"}, "path_entries": [entry]}
    for _ in range(2):
        assert apply(content, {}) == {"status": "ok"}
    assert os.environ["NBGPU_TEST_NAME"] == "value"
    assert sys.path.count(entry) == 1
    installed = next(at for at, path in enumerate(sys.path) if path.endswith("site-packages"))
    assert sys.path.index(entry) < installed
    assert os.environ["PYTHONPATH"] == entry


def test_another_environment_takes_the_place_of_the_first(tmp_path: Path) -> None:
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    os.environ["VIRTUAL_ENV"] = old
    os.environ["PATH"] = f"{old}/bin:/usr/bin:{old}er/bin"
    sys.path[:] = [*sys.path, f"{old}/lib/site-packages", f"{old}er/lib"]
    assert apply({"environment": new}, {}) == {"status": "ok"}
    assert sys.path[-2:] == [f"{new}/lib/site-packages", f"{old}er/lib"]
    assert os.environ["PATH"] == f"{new}/bin:/usr/bin:{old}er/bin"
    assert os.environ["VIRTUAL_ENV"] == new


def test_a_variable_that_cannot_be_set_is_an_answer() -> None:
    assert apply({"variables": {"A=B": "x"}}, {})["status"] == "error"
