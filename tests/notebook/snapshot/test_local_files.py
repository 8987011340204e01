"""Local modules and editable projects: which are found, what is ignored, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbgpu.snapshot.capture import Capture
from nbgpu.snapshot.distributions import Installed
from nbgpu.snapshot.ignored import IgnoreRules, parse_rules
from nbgpu.snapshot.local_files import (
    LocalFileScan,
    LocalFilesTooLargeError,
    TooManyLocalFilesError,
    editable_roots,
    imported_names,
    workspace_roots,
)
from nbgpu_protocol.snapshot import Distribution, Origin


def module(name: str, file: Path) -> ModuleType:
    made = ModuleType(name)
    made.__file__ = str(file)
    return made


def write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        path = folder / name.replace("__slash__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(content)


def test_what_is_imported_and_what_that_imports_is_found(tmp_path: Path) -> None:
    write(tmp_path, used="import deeper", deeper="", unused="", cell_only="", package__slash____init__="")
    write(tmp_path, package__slash__part="import by_part", by_part="")
    modules = {
        "used": module("used", tmp_path / "used.py"),
        "package": module("package", tmp_path / "package/__init__.py"),
    }
    roots = workspace_roots(tmp_path, modules, ["cell_only", "json"], [])
    assert set(roots) == {
        f"workspace/{name}" for name in ("used.py", "deeper.py", "package", "by_part.py", "cell_only.py")
    }


def test_modules_of_environments_and_other_projects_are_not_the_notebooks(tmp_path: Path) -> None:
    write(tmp_path, project__slash__inside="", mine="")
    site = tmp_path / "env/lib"
    write(site, library="")
    modules = {
        "inside": module("inside", tmp_path / "project/inside.py"),
        "library": module("library", site / "library.py"),
        "mine": module("mine", tmp_path / "mine.py"),
    }
    roots = workspace_roots(tmp_path, modules, [], [tmp_path / "project", tmp_path / "env"])
    assert set(roots) == {"workspace/mine.py"}


def test_objects_that_are_no_modules_do_not_disturb(tmp_path: Path) -> None:
    class Odd:
        def __getattr__(self, name: str) -> object:
            return 7

    modules: dict[str, ModuleType] = {"odd": Odd(), "none": None}  # type: ignore[dict-item]
    assert workspace_roots(tmp_path, modules, [], []) == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b, c as d\nfrom e.f import g\nfrom . import h", {"a", "c", "e"}),
        ("%matplotlib inline\nimport a\n  from b import c", {"a", "b"}),
        ("def f():\n    import inner", {"inner"}),
        ("%%time\nimport a, b", {"a", "b"}),
        ("text = 'import nothing'", set()),
        ("", set()),
    ],
)
def test_imported_names(source: str, names: set[str]) -> None:
    assert imported_names(source) == names


def test_only_what_changed_is_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, a="1", b="2")
    scan = LocalFileScan()
    roots = {"workspace/a.py": tmp_path / "a.py", "workspace/b.py": tmp_path / "b.py"}
    first = scan.scan(roots)
    (tmp_path / "b.py").write_text("22")
    read: list[Path] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), original(path))[1])
    second = scan.scan(roots)
    assert read == [tmp_path / "b.py"]
    assert first["workspace/a.py"] == second["workspace/a.py"]
    assert first["workspace/b.py"][0].digest != second["workspace/b.py"][0].digest


def test_too_large_names_the_largest(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/weights.bin").write_bytes(bytes(3000))
    (tmp_path / "pkg/__init__.py").write_text("")
    with pytest.raises(LocalFilesTooLargeError) as caught:
        LocalFileScan(limit_bytes=1000).scan({"workspace/pkg": tmp_path / "pkg"})
    assert caught.value.largest[0] == ("workspace/pkg/weights.bin", 3000)
    assert "workspace/pkg/weights.bin" in str(caught.value)
    assert ".nbgpuignore" in str(caught.value)
    (tmp_path / "pkg/.nbgpuignore").write_text("*.bin\n")
    assert "workspace/pkg/weights.bin" not in LocalFileScan(limit_bytes=1000).scan({"workspace/pkg": tmp_path / "pkg"})


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbgpu.snapshot.local_files.MAX_FILES", 2)
    for number in range(3):
        (tmp_path / f"m{number}.py").write_text("")
    with pytest.raises(TooManyLocalFilesError, match="more than 2 files"):
        LocalFileScan().scan({"workspace/pkg": tmp_path})


@pytest.mark.parametrize("style", ["pth", "finder"])
def test_an_editable_project_travels_with_its_metadata(tmp_path: Path, style: str) -> None:
    project, site = tmp_path / "project", tmp_path / "site-packages"
    (project / "src/tool").mkdir(parents=True)
    (project / "src/tool/__init__.py").write_text("")
    (project / "src/tool/data.json").write_text("{}")
    (project / "src/notes.txt").write_text("not importable")
    info = site / "tool-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: tool\nVersion: 1.0\n")
    if style == "pth":
        (site / "tool.pth").write_text(f"{project / 'src'}\n")
        (info / "RECORD").write_text("tool.pth,,\ntool-1.0.dist-info/METADATA,,\n")
    else:
        finder = f"MAPPING: dict[str, str] = {{'tool': {str(project / 'src/tool')!r}}}\n"
        (site / "__editable___tool_finder.py").write_text(finder)
        (info / "RECORD").write_text("__editable___tool_finder.py,,\n")
    installed = Installed(Distribution("tool", "1.0", Origin.EDITABLE), info, project)
    roots, entries = editable_roots([installed])
    assert entries == ("editables/tool",)
    assert set(LocalFileScan().scan(roots)) == {
        "editables/tool/tool/__init__.py",
        "editables/tool/tool/data.json",
        "editables/tool/tool-1.0.dist-info/METADATA",
    }


def test_a_cell_that_uses_what_an_earlier_one_imported_over_there(tmp_path: Path) -> None:
    write(tmp_path, helper="")
    capture = Capture(folder=tmp_path, path=[], modules={})
    capture.capture(cell="import helper")
    assert [file.path for file in capture.capture(cell="helper.f()").snapshot.files] == ["workspace/helper.py"]


RULES = [
    "*.log", "build/", "/top", "a/b", "**/deep", "a/**/z", "x?z", "[ab].txt", "!keep.log", "# note", "", "docs/*.md",
]  # fmt: skip
PATTERNS = st.lists(st.sampled_from(RULES), max_size=4)
PATHS = [
    "x.log", "keep.log", "a/b/c.txt", "build/o", "src/build/o", "top", "src/top", "deep", "a/deep/f", "a/z", "a/q/r/z",
    "xyz", "a.txt", "c.txt", "docs/a.md", "src/docs/a.md",
]  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here to compare with")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patterns=PATTERNS)
def test_ignores_what_git_ignores(patterns: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("repository")
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "init", "-q"], cwd=folder, env=environ, check=True, timeout=60)
    (folder / ".gitignore").write_text("\n".join(patterns) + "\n")
    checked = subprocess.run(
        ["git", "check-ignore", "--stdin", "--no-index"],
        input="\n".join(PATHS), cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    rules = IgnoreRules(tuple(("", rule) for rule in parse_rules(patterns)))

    def ignored(path: str) -> bool:
        parts = path.split("/")
        folders = any(rules.ignores("/".join(parts[:end]), is_folder=True) for end in range(1, len(parts)))
        return folders or rules.ignores(path, is_folder=False)

    assert {path for path in PATHS if ignored(path)} == set(checked.stdout.splitlines())


def test_nothing_is_found_outside_of_the_folder(tmp_path: Path) -> None:
    assert workspace_roots(tmp_path, sys.modules, [], []) == {}
