"""Snapshots become environments, with uv, from wheels that the tests make; no index is asked."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.environments.materialising import Materialiser
from nbgpu_agent.environments.pip_refusal import refuse_pip
from nbgpu_agent.environments.plan import Action
from nbgpu_agent.environments.progress import Progress
from nbgpu_agent.environments.store import EnvironmentStore
from nbgpu_agent.environments.uv import Uv, UvResult
from nbgpu_agent.errors import (
    BuildFailedError,
    EnvironmentImpossibleError,
    InvalidRequestError,
    NoSpaceError,
    UnreachableIndexError,
)
from nbgpu_protocol.snapshot import Distribution, Origin, Snapshot, digest_of_bytes
from wheels import make_source_distribution, make_wheel

KERNEL = (Distribution("cloudpickle", "3.1"), Distribution("ipykernel", "7.4"))


def snapshot_of(*distributions: Distribution, **fields: Any) -> Snapshot:
    return Snapshot(
        python_version=platform.python_version(),
        implementation="cpython",
        platform=sys.platform,
        machine=platform.machine(),
        distributions=(*distributions, *KERNEL),
        **fields,
    )


@pytest.fixture
def links(tmp_path: Path) -> Path:
    folder = tmp_path / "links"
    for distribution in KERNEL:
        make_wheel(folder, distribution.name, distribution.version)
    make_wheel(folder, "demo", "1.0", requires=["helper", "gone; sys_platform == 'win32'"])
    make_wheel(folder, "demo", "2.0")
    make_wheel(folder, "helper", "1.0")
    make_wheel(folder, "elsewhere", "1.0", tag="cp311-cp311-win_amd64")
    return folder


@pytest.fixture
def variables(tmp_path: Path, links: Path) -> dict[str, str]:
    index = tmp_path / "index"  # which has nothing
    index.mkdir()
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(tmp_path),
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "UV_FIND_LINKS": str(links),
        "UV_DEFAULT_INDEX": index.as_uri(),
    }


def materialiser_of(tmp_path: Path, variables: dict[str, str]) -> Materialiser:
    blobs = BlobStore(tmp_path / "blobs")
    return Materialiser(EnvironmentStore(tmp_path / "environments"), blobs, Uv(variables), None)


@pytest.fixture
def materialiser(tmp_path: Path, variables: dict[str, str]) -> Materialiser:
    return materialiser_of(tmp_path, variables)


def _lines_of(file: str) -> list[str]:
    return Path(file).read_text().splitlines()


class AskedUv(Uv):
    """Notes what it is asked to resolve."""

    def __init__(self, variables: dict[str, str]) -> None:
        super().__init__(variables)
        self.asked: list[list[str]] = []

    async def run(self, arguments: Sequence[str], **options: Any) -> UvResult:
        if arguments[:2] == ["pip", "compile"]:
            self.asked.append(await asyncio.to_thread(_lines_of, arguments[2]))
        return await super().run(arguments, **options)


def run_in(python: Path, code: str) -> str:
    finished = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return finished.stdout + finished.stderr


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended, or is somebody else's
        return []


def ignore(progress: Progress) -> None:
    pass


@pytest.mark.asyncio
async def test_the_environment_has_exactly_what_the_snapshot_has(materialiser: Materialiser) -> None:
    told: list[Progress] = []
    environment = await materialiser.materialise(snapshot_of(Distribution("demo", "1.0")), told.append)
    assert run_in(environment.python, "import demo; print(demo.__version__)") == "1.0\n"
    # What it needs and the notebook does not have is added; what it needs elsewhere is not.
    assert run_in(environment.python, "import helper; print(helper.__version__)") == "1.0\n"
    assert told[-1].total == 4
    assert told[-1].done == 4
    said = run_in(environment.python, "import sys, runpy; sys.argv = ['pip', 'install', 'x']; runpy.run_module('pip')")
    assert "in a plain cell" in said


@pytest.mark.asyncio
async def test_equal_ones_are_shared_and_built_once(materialiser: Materialiser, tmp_path: Path) -> None:
    snapshot = snapshot_of(Distribution("demo", "2.0"))
    found = await asyncio.gather(*(materialiser.materialise(snapshot, ignore) for _ in range(3)))
    again = await materialiser.materialise(replace(snapshot, variables=("X",)), ignore)
    assert len({each.id for each in (*found, again)}) == 1
    assert [path.name for path in (tmp_path / "environments").iterdir()] == [again.id]
    other = await materialiser.materialise(snapshot_of(Distribution("demo", "1.0")), ignore)
    assert other.id != again.id


@pytest.mark.asyncio
async def test_all_that_cannot_be_had_is_named(materialiser: Materialiser, tmp_path: Path) -> None:
    snapshot = snapshot_of(
        Distribution("demo", "7.0"), Distribution("unheard-of", "1.0"), Distribution("elsewhere", "1.0", pure=False)
    )
    with pytest.raises(EnvironmentImpossibleError) as caught:
        await materialiser.materialise(snapshot, ignore)
    for part in ("3 packages", "demo 7.0: no index", "unheard-of 1.0: no index", "elsewhere 1.0: there is no wheel"):
        assert part in str(caught.value)
    assert list((tmp_path / "environments").iterdir()) == []
    plan = await materialiser.plan(snapshot)
    assert {each.name for each in plan.impossible} == {"demo", "unheard-of", "elsewhere"}


@pytest.mark.asyncio
async def test_what_needs_something_impossible_is_not_blamed(materialiser: Materialiser, links: Path) -> None:
    make_wheel(links, "needing", "1.0", requires=["elsewhere"])
    plan = await materialiser.plan(
        snapshot_of(Distribution("elsewhere", "1.0", pure=False), Distribution("needing", "1.0"))
    )
    assert [each.name for each in plan.impossible] == ["elsewhere"]


@pytest.mark.asyncio
async def test_what_needs_an_editable_project_or_pip_gets_none_from_an_index(
    materialiser: Materialiser, links: Path
) -> None:
    make_wheel(links, "needing", "1.0", requires=["project", "pip"])
    snapshot = snapshot_of(
        Distribution("needing", "1.0"),
        Distribution("pip", "25.0"),
        Distribution("project", "1.0", Origin.EDITABLE),
    )
    environment = await materialiser.materialise(snapshot, ignore)
    assert run_in(environment.python, "import needing; print(needing.__version__)") == "1.0\n"
    actions = {each.name: each.action for each in (await materialiser.plan(snapshot)).distributions}
    assert (actions["pip"], actions["project"]) == (Action.LEAVE_OUT, Action.SEND)


@pytest.mark.asyncio
async def test_a_plan_says_what_is_cached(materialiser: Materialiser) -> None:
    snapshot = snapshot_of(Distribution("demo", "2.0"))
    before = {each.name: each.action for each in (await materialiser.plan(snapshot)).distributions}
    assert before["demo"] is Action.FETCH
    await materialiser.materialise(snapshot, ignore)
    after = {each.name: each.action for each in (await materialiser.plan(snapshot)).distributions}
    assert set(after.values()) == {Action.CACHED}


@pytest.mark.asyncio
async def test_environments_that_contradict_themselves_are_built_as_they_are(
    materialiser: Materialiser, links: Path
) -> None:
    make_wheel(links, "strict", "1.0", requires=["demo<2"])
    snapshot = snapshot_of(Distribution("demo", "2.0"), Distribution("strict", "1.0"))
    environment = await materialiser.materialise(snapshot, ignore)
    assert run_in(environment.python, "import demo, strict; print(demo.__version__)") == "2.0\n"


@pytest.mark.asyncio
async def test_a_wheel_that_came_along_is_installed(materialiser: Materialiser, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "own", "private", "1.0", code="answer = 42\n")
    digest = digest_of_bytes(wheel.read_bytes())
    await put(materialiser, digest, wheel.read_bytes())
    distribution = Distribution("private", "1.0", Origin.WHEEL, digest, wheel_name=wheel.name)
    environment = await materialiser.materialise(snapshot_of(distribution), ignore)
    assert run_in(environment.python, "import private; print(private.answer)") == "42\n"


@pytest.mark.asyncio
async def test_a_source_that_does_not_build_is_named_with_its_log(materialiser: Materialiser, links: Path) -> None:
    backend = (
        "def get_requires_for_build_wheel(c=None): return []\n"
        "def build_wheel(d, c=None, m=None): raise SystemExit('the compiler ' + 'is missing')\n"
    )
    make_source_distribution(links, "broken", "1.0", setup=backend)
    with pytest.raises((BuildFailedError, EnvironmentImpossibleError)) as caught:
        await materialiser.materialise(snapshot_of(Distribution("broken", "1.0")), ignore)
    assert "broken" in str(caught.value)
    assert "the compiler is missing" in str(caught.value)


@pytest.mark.asyncio
async def test_an_index_that_does_not_answer(tmp_path: Path, variables: dict[str, str]) -> None:
    variables |= {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
    materialiser = materialiser_of(tmp_path, variables)
    with pytest.raises(UnreachableIndexError, match=r"127\.0\.0\.1:9"):
        await materialiser.materialise(snapshot_of(Distribution("demo", "3.0")), ignore)


@pytest.mark.asyncio
async def test_a_python_that_is_not_here_is_said_with_those_that_are(materialiser: Materialiser) -> None:
    with pytest.raises(EnvironmentImpossibleError, match=r"no Python 3\.99") as caught:
        await materialiser.materialise(replace(snapshot_of(), python_version="3.99.1"), ignore)
    assert platform.python_version() in caught.value.message
    assert "`%%gpu --python any`" in caught.value.hint


@pytest.mark.asyncio
async def test_any_python_will_do_where_that_was_asked_for(materialiser: Materialiser) -> None:
    snapshot = replace(snapshot_of(Distribution("demo", "2.0")), python_version="3.99.1", any_python=True)
    plan = await materialiser.plan(snapshot)
    environment = await materialiser.materialise(snapshot, ignore)
    said = run_in(environment.python, "import demo, platform; print(demo.__version__, platform.python_version())")
    assert said == f"2.0 {plan.python.version}\n"
    running = await materialiser.materialise(snapshot, ignore, platform.python_version())
    own = ".".join(platform.python_version_tuple()[:2])
    assert run_in(running.python, "import sys; print(sys.version)").startswith(f"{own}.")


@pytest.mark.asyncio
async def test_what_is_not_made_for_the_other_python_is_of_another_version_and_that_is_said(
    materialiser: Materialiser, links: Path
) -> None:
    make_wheel(links, "demo", "3.0", requires_python=">=3.90")
    make_wheel(links, "tagged", "2.0", tag="cp399-cp399-any")
    make_wheel(links, "tagged", "1.0")
    snapshot = snapshot_of(Distribution("demo", "3.0"), Distribution("tagged", "2.0", pure=False))
    plan = await materialiser.plan(snapshot)
    assert {each.name: each.why for each in plan.impossible} == {
        "demo": "it is not made for this version of Python",
        "tagged": "there is no wheel of it for this platform and Python",
    }
    plan = await materialiser.plan(replace(snapshot, python_version="3.99.1", any_python=True))
    minor = plan.python.minor
    found = {
        each.name: (each.action, each.version, each.why)
        for each in plan.distributions
        if each.name in ("demo", "tagged")
    }
    assert found == {
        "demo": (Action.SWAP, "2.0", f"3.0 is not made for Python {minor}"),
        "tagged": (Action.SWAP, "1.0", f"2.0 is not made for Python {minor}"),
    }


@pytest.mark.asyncio
async def test_a_cancelled_build_ends_uv_and_leaves_nothing(
    materialiser: Materialiser, links: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "building"
    backend = (
        "import pathlib, time\n"
        "def get_requires_for_build_wheel(c=None): return []\n"
        f"def build_wheel(d, c=None, m=None):\n    pathlib.Path({str(mark)!r}).touch()\n    time.sleep(600)\n"
    )
    make_source_distribution(links, "slow", "1.0", setup=backend)
    task = asyncio.ensure_future(materialiser.materialise(snapshot_of(Distribution("slow", "1.0")), ignore))
    while not mark.exists():
        assert not task.done(), task.result()
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "environments").iterdir()) == []
    assert [process for process in psutil.process_iter() if str(tmp_path) in " ".join(command_of(process))] == []


@pytest.mark.asyncio
async def test_a_full_disk_is_said(materialiser: Materialiser, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(materialiser.store, "add", full)
    with pytest.raises(NoSpaceError, match="the node's disk is full"):
        await materialiser.materialise(snapshot_of(), ignore)


@pytest.mark.asyncio
async def test_what_is_no_snapshot_is_refused(materialiser: Materialiser) -> None:
    for content in (b"{}", b"[1]", b"\xff", b'{"format": 99}'):
        digest = digest_of_bytes(content)
        await put(materialiser, digest, content)
        with pytest.raises(InvalidRequestError):
            await materialiser.read_snapshot(digest)


async def put(materialiser: Materialiser, digest: str, content: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    await materialiser._blobs.put(digest, chunks())


def test_the_pip_that_refuses_is_never_written_into_a_file_that_is_a_link(tmp_path: Path) -> None:
    package = tmp_path / "e/lib/python3/site-packages/pip"
    package.mkdir(parents=True)
    (tmp_path / "e/bin").mkdir()
    (tmp_path / "others").write_text("somebody else's")
    os.link(tmp_path / "others", package / "__init__.py")
    (package / "__main__.py").symlink_to(tmp_path / "others")
    (tmp_path / "e/bin/pip").symlink_to(tmp_path / "others")
    refuse_pip(tmp_path / "e")
    assert (tmp_path / "others").read_text() == "somebody else's"
    assert "in a plain cell" in (package / "__main__.py").read_text()


@pytest.mark.asyncio
async def test_of_what_is_added_alone_it_is_asked_whether_it_can_be_had(
    tmp_path: Path, links: Path, variables: dict[str, str]
) -> None:
    uv = AskedUv(variables)
    materialiser = Materialiser(EnvironmentStore(tmp_path / "environments"), BlobStore(tmp_path / "blobs"), uv, None)
    had = (Distribution("demo", "1.0"), Distribution("helper", "1.0"))
    await materialiser.materialise(snapshot_of(*had), lambda progress: None)
    uv.asked.clear()
    make_wheel(links, "added", "1.0")
    environment = await materialiser.materialise(snapshot_of(*had, Distribution("added", "1.0")), lambda progress: None)
    assert uv.asked == [["added==1.0"]]
    assert run_in(environment.python, "import added, demo, helper") == ""
    elsewhere, missing = Distribution("elsewhere", "1.0"), Distribution("missing", "1.0")
    with pytest.raises(EnvironmentImpossibleError) as raised:
        await materialiser.materialise(snapshot_of(*had, elsewhere, missing), lambda progress: None)
    assert "2 packages" in str(raised.value)
    assert "elsewhere 1.0: there is no wheel of it" in str(raised.value)
    assert "missing 1.0: no index" in str(raised.value)
    assert all(len(lines) <= 2 for lines in uv.asked)
