"""Modules that a cell imported in its session are found here: loaded once, and when they are used."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from nbgpu.values.gathering import _UNCHANGING
from nbgpu.values.modules import find_module


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that imports its own submodule, which may be executed once only, as `torch.distributed` may."""
    name = "nbgpu_test_package"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(f"import builtins\nfrom {name} import inner\n")
    (folder / "inner.py").write_text("import sys\nsys.nbgpu_test_runs.append(__name__)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "nbgpu_test_runs", [], raising=False)
    for each in (name, f"{name}.inner"):
        monkeypatch.delitem(sys.modules, each, raising=False)
    return name


def runs() -> list[str]:
    found: list[str] = sys.nbgpu_test_runs  # type: ignore[attr-defined]
    return found


def test_a_submodule_that_its_package_imports_is_executed_once(package: str) -> None:
    outer, inner = find_module(package), find_module(f"{package}.inner")
    assert outer is not None
    assert inner is not None
    assert inner.__name__.endswith(".inner")
    assert dir(inner)
    assert runs() == [f"{package}.inner"]
    assert outer.inner is inner is sys.modules[f"{package}.inner"]


def test_looking_at_what_may_change_loads_no_module(package: str) -> None:
    found = find_module(package)
    assert isinstance(found, _UNCHANGING)
    assert runs() == []
    assert ModuleType.__getattribute__(found, "__name__") == package
