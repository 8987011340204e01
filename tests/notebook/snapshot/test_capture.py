"""Capturing an environment: what is found, what a second look costs, and what changes are noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from nbgpu.snapshot.capture import Capture
from nbgpu.snapshot.distributions import DistributionScan, operating_systems
from nbgpu_protocol.snapshot import Origin, digest_of_bytes, snapshot_from_bytes
from wheels import make_wheel


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    return folder


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    folder = tmp_path / "notebook"
    folder.mkdir()
    return folder


@pytest.fixture
def install(tmp_path: Path, site: Path) -> Callable[..., Path]:
    """Installs a tiny wheel by unpacking it; returns its `.dist-info` folder."""

    def run(name: str, version: str, *, direct_url: object = None, installer: str = "pip", **wheel: object) -> Path:
        path = make_wheel(tmp_path / "wheels", name, version, **wheel)  # type: ignore[arg-type]
        with zipfile.ZipFile(path) as archive:
            archive.extractall(site)
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        (info / "INSTALLER").write_text(f"{installer}\n")
        if direct_url is not None:
            (info / "direct_url.json").write_text(json.dumps(direct_url))
        return info

    return run


def capture_of(notebook: Path, site: Path, modules: dict[str, ModuleType] | None = None) -> Capture:
    return Capture(folder=notebook, path=[str(site)], modules=modules or {})


def test_origins_are_told_apart(install: Callable[..., Path], site: Path, tmp_path: Path) -> None:
    install("from-index", "1.0")
    install("from-url", "1.0", direct_url={"url": "https://x.org/a.whl", "archive_info": {}})
    vcs = {"vcs": "git", "commit_id": "abc123"}
    install("from-vcs", "1.0", direct_url={"url": "https://x.org/a.git", "vcs_info": vcs, "subdirectory": "py"})
    install("from-file", "1.0", direct_url={"url": (tmp_path / "a.whl").as_uri(), "archive_info": {}})
    install("from-folder", "1.0", direct_url={"url": tmp_path.as_uri(), "dir_info": {}})
    install("editable", "1.0", direct_url={"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    install("from-conda", "1.0", installer="conda", direct_url={"url": "file:///croot/x", "dir_info": {}})
    found = {each.distribution.name: each.distribution for each in DistributionScan([str(site)]).scan()}
    assert {name: each.origin for name, each in found.items()} == {
        "from-index": Origin.INDEX,
        "from-url": Origin.URL,
        "from-vcs": Origin.VCS,
        "from-file": Origin.WHEEL,
        "from-folder": Origin.WHEEL,
        "editable": Origin.EDITABLE,
        "from-conda": Origin.CONDA,
    }
    assert found["from-vcs"].location == "git+https://x.org/a.git@abc123#subdirectory=py"
    assert found["from-url"].location == "https://x.org/a.whl"


def test_metadata_is_read_up_to_the_description(install: Callable[..., Path], site: Path) -> None:
    info = install("demo", "2.0", requires=["a>=1", 'b; sys_platform == "darwin"'], tag="cp311-cp311-linux_x86_64")
    with open(info / "METADATA", "a") as metadata:
        metadata.write("Requires-Dist: what a description quotes\n")
    (info / "REQUESTED").touch()
    [found] = DistributionScan([str(site)]).scan()
    assert found.distribution.requires == ("a>=1", 'b; sys_platform == "darwin"')
    assert (found.distribution.pure, found.distribution.requested) == (False, True)


def test_agrees_with_importlib_metadata() -> None:
    import importlib.metadata

    theirs = {
        (each.metadata["Name"].lower().replace("_", "-").replace(".", "-"), each.version)
        for each in importlib.metadata.distributions()
        if str(getattr(each, "_path", "")).endswith(".dist-info")
    }
    ours = {(each.distribution.name, each.distribution.version) for each in DistributionScan().scan()}
    assert ours <= theirs
    assert {name for name, _ in ours} == {name for name, _ in theirs}


@pytest.mark.parametrize(
    ("classifiers", "platforms"),
    [
        ([], ()),
        (["Operating System :: OS Independent"], ()),
        (["Operating System :: MacOS :: MacOS X"], ("darwin",)),
        (["Operating System :: POSIX :: Linux", "Operating System :: Microsoft :: Windows"], ("linux", "win32")),
        (["Operating System :: POSIX", "Operating System :: Microsoft :: Windows"], ()),
    ],
)
def test_operating_systems(classifiers: list[str], platforms: tuple[str, ...]) -> None:
    assert operating_systems(classifiers) == platforms


def test_an_install_an_upgrade_and_a_removal_are_noticed(install: Callable[..., Path], site: Path) -> None:
    scan = DistributionScan([str(site)])

    def versions() -> dict[str, str]:
        return {each.distribution.name: each.distribution.version for each in scan.scan()}

    install("one", "1.0")
    assert versions() == {"one": "1.0"}
    first = scan.scan()
    assert scan.scan() is first
    info = install("two", "1.0")
    assert versions() == {"one": "1.0", "two": "1.0"}
    info.rename(info.with_name("two-2.0.dist-info"))
    text = (site / "two-2.0.dist-info/METADATA").read_text()
    (site / "two-2.0.dist-info/METADATA").write_text(text.replace("1.0", "2.0"))
    os.utime(site / "two-2.0.dist-info", ns=(1, 1))
    assert versions() == {"one": "1.0", "two": "2.0"}


def test_an_unreadable_or_half_removed_distribution_is_passed_over(install: Callable[..., Path], site: Path) -> None:
    install("good", "1.0")
    (site / "gone-1.0.dist-info").mkdir()
    (site / "bad-1.0.dist-info").mkdir()
    (site / "bad-1.0.dist-info/METADATA").write_bytes(b"\xff\xfe\x00")
    assert [each.distribution.name for each in DistributionScan([str(site)]).scan()] == ["good"]


def test_a_package_that_changed_under_its_module_is_said(
    install: Callable[..., Path], site: Path, notebook: Path
) -> None:
    old = install("demo", "2.1")
    capture = capture_of(notebook, site, {"demo": ModuleType("demo")})
    assert capture.capture().notes == ()
    for file in old.iterdir():
        file.unlink()
    old.rmdir()
    install("demo", "2.3")
    install("other", "1.0")
    assert capture.capture().notes == ("demo is 2.3 on disk, 2.1 in memory: restart this notebook's kernel",)
    assert capture.capture().notes == ()


def test_equal_environments_have_equal_digests(install: Callable[..., Path], site: Path, notebook: Path) -> None:
    install("demo", "1.0")
    (notebook / "local.py").write_text("x = 1\n")
    first, second = (capture_of(notebook, site).capture(cell="import local") for _ in range(2))
    assert first.snapshot.digest() == second.snapshot.digest()
    assert snapshot_from_bytes(first.snapshot.to_bytes()) == first.snapshot
    (notebook / "local.py").write_text("x = 2\n")
    assert capture_of(notebook, site).capture(cell="import local").snapshot.digest() != first.snapshot.digest()


def test_values_of_variables_are_not_in_the_snapshot(
    site: Path, notebook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret-value")
    captured = capture_of(notebook, site).capture(variables=["HF_TOKEN"])
    assert captured.snapshot.variables == ("HF_TOKEN",)
    assert b"a-secret-value" not in captured.snapshot.to_bytes()


def test_what_came_from_a_local_file_travels_as_a_wheel_that_installs(
    install: Callable[..., Path], site: Path, notebook: Path, tmp_path: Path
) -> None:
    install("demo", "1.0", direct_url={"url": tmp_path.as_uri(), "dir_info": {}}, code="answer = 42\n")
    captured = capture_of(notebook, site).capture()
    [distribution] = captured.snapshot.distributions
    content = captured.contents[distribution.location]
    assert isinstance(content, bytes)
    assert digest_of_bytes(content) == distribution.location
    wheel = tmp_path / distribution.wheel_name
    wheel.write_bytes(content)
    command = [sys.executable, "-c", "import demo; print(demo.answer)"]
    printed = subprocess.run(command, env={"PYTHONPATH": str(wheel)}, capture_output=True, text=True, timeout=60)
    assert printed.stdout == "42\n", printed.stderr
