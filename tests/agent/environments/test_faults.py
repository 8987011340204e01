"""What goes wrong while environments are planned and built, injected: indexes, builds, disks, kills, and cells."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.environments import building
from nbgpu_agent.environments.materialising import Materialiser
from nbgpu_agent.environments.plan import Action
from nbgpu_agent.environments.progress import Progress
from nbgpu_agent.environments.protection import can_clone, link_modes, make_read_only
from nbgpu_agent.environments.store import EnvironmentStore
from nbgpu_agent.environments.uv import Uv
from nbgpu_agent.errors import EnvironmentImpossibleError, NoSpaceError, UnreachableIndexError
from nbgpu_agent.processes import MARKER_VARIABLE, end_processes_now, marked_pids
from nbgpu_protocol.snapshot import Distribution, Snapshot
from package_index import PackageIndex
from wheels import make_source_distribution, make_wheel

KERNEL = (Distribution("cloudpickle", "3.1"), Distribution("ipykernel", "7.4"))
SLOW = (
    "import pathlib, time\n"
    "def get_requires_for_build_wheel(c=None): return []\n"
    "def build_wheel(d, c=None, m=None):\n    pathlib.Path({mark!r}).touch()\n    time.sleep(600)\n"
)


def snapshot_of(*distributions: Distribution, **fields: Any) -> Snapshot:
    values: dict[str, Any] = {
        "python_version": platform.python_version(),
        "implementation": "cpython",
        "platform": sys.platform,
        "machine": platform.machine(),
        "distributions": (*distributions, *KERNEL),
    }
    return Snapshot(**{**values, **fields})


def ignore(progress: Progress) -> None:
    pass


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    links = tmp_path / "links"
    for distribution in KERNEL:
        make_wheel(links, distribution.name, distribution.version)
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "UV_FIND_LINKS": str(links),
        "UV_DEFAULT_INDEX": nothing.as_uri(),
        "NO_PROXY": "127.0.0.1",
        "UV_HTTP_RETRIES": "0",
    }


@pytest.fixture
def index(variables: dict[str, str]) -> Iterator[PackageIndex]:
    made = PackageIndex()
    with made.served() as address:
        variables["UV_DEFAULT_INDEX"] = address
        yield made


def materialiser_of(tmp_path: Path, variables: dict[str, str]) -> Materialiser:
    return Materialiser(EnvironmentStore(tmp_path / "environments"), BlobStore(tmp_path / "blobs"), Uv(variables), None)


def materialise(materialiser: Materialiser, snapshot: Snapshot) -> Path:
    return asyncio.run(materialiser.materialise(snapshot, ignore)).folder


# -- Indexes --------------------------------------------------------------------------------------------------------


def test_a_version_that_was_withdrawn_is_installed_as_it_was_here_and_that_is_said(
    tmp_path: Path, variables: dict[str, str], index: PackageIndex
) -> None:
    index.add(make_wheel(tmp_path / "remote", "thing", "1.0"), yanked="it deletes files")
    index.add(make_wheel(tmp_path / "remote", "thing", "1.1"))
    materialiser = materialiser_of(tmp_path, variables)
    snapshot = snapshot_of(Distribution("thing", "1.0"))
    [thing] = [each for each in asyncio.run(materialiser.plan(snapshot)).distributions if each.name == "thing"]
    assert (thing.action, thing.version) == (Action.FETCH, "1.0")
    assert thing.why == "withdrawn by its authors: it deletes files"
    folder = materialise(materialiser, snapshot)
    assert list(folder.glob("lib/python*/site-packages/thing-1.0.dist-info"))


def test_a_wheel_for_other_platforms_only_is_said_to_be(
    tmp_path: Path, variables: dict[str, str], index: PackageIndex
) -> None:
    index.add(make_wheel(tmp_path / "remote", "foreign", "1.0", tag="cp39-cp39-win_amd64"))
    with pytest.raises(EnvironmentImpossibleError, match=r"foreign 1\.0: there is no wheel of it for this platform"):
        materialise(materialiser_of(tmp_path, variables), snapshot_of(Distribution("foreign", "1.0", pure=False)))


def test_sizes_are_asked_of_the_server_where_the_index_has_none_and_unknown_where_nobody_says(
    tmp_path: Path, variables: dict[str, str], index: PackageIndex
) -> None:
    wheels = {name: make_wheel(tmp_path / "remote", name, "1.0") for name in ("said", "unsaid", "hidden")}
    index.add(wheels["said"])
    index.add(wheels["unsaid"], says_size=False)
    index.add(wheels["hidden"], says_size=False, answers_head=False)
    snapshot = snapshot_of(*(Distribution(name, "1.0") for name in wheels))
    plan = asyncio.run(materialiser_of(tmp_path, variables).plan(snapshot))
    sizes = {each.name: each.size_bytes for each in plan.distributions if each.name in wheels}
    assert sizes == {
        "said": wheels["said"].stat().st_size, "unsaid": wheels["unsaid"].stat().st_size, "hidden": None,
    }  # fmt: skip
    assert plan.estimate.unknown_sizes == 1


def test_an_index_that_goes_away_before_the_files_are_fetched(tmp_path: Path, variables: dict[str, str]) -> None:
    gone = PackageIndex()
    gone.add_recorded("thing", "1.0", tag="py3-none-any", requires=[], size_bytes=5)
    with gone.served() as address:
        variables["UV_DEFAULT_INDEX"] = address
        materialiser = materialiser_of(tmp_path, variables)
        asyncio.run(materialiser.plan(snapshot_of(Distribution("thing", "1.0"))))
    with pytest.raises(UnreachableIndexError, match=r"127\.0\.0\.1"):
        materialise(materialiser, snapshot_of(Distribution("thing", "1.0")))
    assert list((tmp_path / "environments").iterdir()) == []


# -- Disks ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("only root mounts a small disk; what uv says of a full one is tested below")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_while_packages_are_unpacked(tmp_path: Path, variables: dict[str, str]) -> None:
    make_wheel(tmp_path / "links", "large", "1.0", code=f"data = {'x' * 3_000_000!r}\n")
    with small_disk(tmp_path / "environments", "2m"):
        materialiser = materialiser_of(tmp_path, variables)
        with pytest.raises(NoSpaceError, match="the node's disk is full") as caught:
            materialise(materialiser, snapshot_of(Distribution("large", "1.0")))
        assert "free some space" in caught.value.hint
        assert list((tmp_path / "environments").iterdir()) == []
        folder = materialise(materialiser, snapshot_of())  # what fits is built
        assert (folder / "bin/python").exists()


@pytest.mark.parametrize("step", ["venv", "pip"])
def test_what_uv_says_of_a_full_disk_is_understood(
    tmp_path: Path, variables: dict[str, str], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Uv.run

    async def full(self: Uv, arguments: list[str], **options: Any) -> Any:
        if arguments[0] == step and "install" in (arguments[1], "install" if step == "venv" else ""):
            return building_result("error: Failed to write\n  cause: No space left on device (os error 28)")
        return await real(self, arguments, **options)

    monkeypatch.setattr(Uv, "run", full)
    with pytest.raises(NoSpaceError, match="No space left on device"):
        materialise(materialiser_of(tmp_path, variables), snapshot_of())
    assert list((tmp_path / "environments").iterdir()) == []


def building_result(log: str) -> Any:
    from nbgpu_agent.environments.uv import UvResult

    return UvResult(2, "", log)


# -- Kills and interrupts -------------------------------------------------------------------------------------------

_BUILDS = """
import asyncio, os, sys
from pathlib import Path
from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.environments.materialising import Materialiser
from nbgpu_agent.environments.store import EnvironmentStore
from nbgpu_agent.environments.uv import Uv
from nbgpu_protocol.snapshot import snapshot_from_bytes
root = Path(sys.argv[1])
materialiser = Materialiser(EnvironmentStore(root / "environments"), BlobStore(root / "blobs"), Uv(os.environ), None)
asyncio.run(materialiser.materialise(snapshot_from_bytes((root / "snapshot").read_bytes()), lambda progress: None))
"""


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Waits until the file is there, made by the process or one that it started."""
    while not path.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"the build ended with exit code {process.wait(0.02)}")


def test_what_an_agent_was_building_when_it_was_killed_ends_with_the_start_of_the_next(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    mark = tmp_path / "building"
    source = make_source_distribution(tmp_path / "links", "slow", "1.0", setup=SLOW.format(mark=str(mark)))
    (tmp_path / "snapshot").write_bytes(snapshot_of(Distribution("slow", "1.0")).to_bytes())
    agent = subprocess.Popen(
        [sys.executable, "-c", _BUILDS, str(tmp_path)],
        env={**variables, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        wait_for(mark, agent)
    finally:
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    left = {path.name for path in (tmp_path / "environments").glob(".building-*")}
    orphans = [pid for marker, pids in marked_pids().items() if marker in left for pid in pids]
    try:
        assert len(orphans) >= 2  # uv, and the build that it runs
        removed = EnvironmentStore(tmp_path / "environments").remove_leftovers()
        assert {Path(path).name for path in removed} == left
        assert left.isdisjoint(marked_pids())
        assert not any(psutil.pid_exists(pid) and not is_zombie(pid) for pid in orphans)
    finally:
        end_processes_now(left)
    source.unlink()
    make_wheel(tmp_path / "links", "slow", "1.0")
    folder = materialise(materialiser_of(tmp_path, variables), snapshot_of(Distribution("slow", "1.0")))
    assert [path.name for path in (tmp_path / "environments").iterdir()] == [folder.name]


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


@pytest.mark.asyncio
async def test_two_that_want_the_same_build_it_once_and_one_that_gives_up_takes_nothing_from_the_other(
    tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    materialiser, builds = materialiser_of(tmp_path, variables), list[Path]()
    began, go_on = asyncio.Event(), asyncio.Event()
    real = building.Builder.build

    async def counted(self: Any, plan: Any, target: Path, *rest: Any) -> None:
        builds.append(target)
        began.set()
        await go_on.wait()
        await real(self, plan, target, *rest)

    monkeypatch.setattr(building.Builder, "build", counted)
    first, second = (asyncio.ensure_future(materialiser.materialise(snapshot_of(), ignore)) for _ in range(2))
    await began.wait()
    first.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    environment = await second
    assert environment.python.exists()
    count = len(builds)
    assert count in (1, 2)  # whichever came first: the one that was withdrawn, or the one that waited for it
    more = await asyncio.gather(*(materialiser.materialise(snapshot_of(), ignore) for _ in range(3)))
    assert {each.id for each in more} == {environment.id}
    assert len(builds) == count
    assert MARKER_VARIABLE not in os.environ


# -- Cells that write into their environment --------------------------------------------------------------------------


def test_what_a_cell_writes_into_a_package_reaches_no_other_environment(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    make_wheel(tmp_path / "links", "shared", "1.0", code="value = 1\n")
    make_wheel(tmp_path / "links", "other", "1.0")
    materialiser = materialiser_of(tmp_path, variables)
    first = materialise(materialiser, snapshot_of(Distribution("shared", "1.0")))
    [module] = first.glob("lib/python*/site-packages/shared/__init__.py")
    writes = f"open({str(module)!r}, 'a').write('value = 2')"
    done = subprocess.run([first / "bin/python", "-c", writes], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if os.geteuid() == 0 else 1), done.stderr
    second = materialise(materialiser, snapshot_of(Distribution("shared", "1.0"), Distribution("other", "1.0")))
    code = "import shared; print(shared.value)"
    assert subprocess.run([second / "bin/python", "-c", code], capture_output=True, check=True).stdout == b"1\n"


@pytest.mark.parametrize(
    ("clones", "as_root", "modes"),
    [
        (True, True, {"clone": ["numpy", "nvidia-cublas"]}),
        (False, True, {"copy": ["numpy"], "hardlink": ["nvidia-cublas"]}),
        (False, False, {"hardlink": ["numpy", "nvidia-cublas"]}),
    ],
)
def test_how_packages_are_linked(clones: bool, as_root: bool, modes: dict[str, list[str]]) -> None:
    assert link_modes(["numpy", "nvidia-cublas"], clones=clones, as_root=as_root) == modes


def test_hard_links_are_made_read_only_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "e/package").mkdir(parents=True)
    own, linked, tool = (tmp_path / "e/package" / name for name in ("own.py", "linked.py", "tool"))
    own.write_text("")
    for path, mode in ((linked, 0o644), (tool, 0o755)):
        cached = tmp_path / f"cached-{path.name}"
        cached.write_text("")
        cached.chmod(mode)
        os.link(cached, path)
    (tmp_path / "e/link").symlink_to(own)
    make_read_only(tmp_path / "e")
    assert [oct(path.stat().st_mode & 0o777) for path in (own, linked, tool)] == ["0o644", "0o444", "0o555"]
    assert os.access(tmp_path / "e/package", os.W_OK)


def test_asking_whether_files_can_be_cloned_leaves_none(tmp_path: Path) -> None:
    assert can_clone(tmp_path, tmp_path) in (True, False)
    assert list(tmp_path.iterdir()) == []
    assert not can_clone(tmp_path / "gone", tmp_path)
