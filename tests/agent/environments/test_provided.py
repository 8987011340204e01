"""What is used from the environment that the node's owner provides: decided from values, and linked for real."""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.environments.base import BaseReader, link_distributions
from nbgpu_agent.environments.materialising import Materialiser
from nbgpu_agent.environments.plan import Action, BaseEnvironment, NodeFacts, Plan, Python, Resolution
from nbgpu_agent.environments.planning import make_pins, make_plan
from nbgpu_agent.environments.platforms import Target
from nbgpu_agent.environments.provided import choose_provided
from nbgpu_agent.environments.store import EnvironmentStore
from nbgpu_agent.environments.uv import Uv
from nbgpu_agent.errors import InvalidRequestError
from nbgpu_protocol.snapshot import Distribution, Origin, Snapshot
from wheels import make_wheel

PYTHON = Python("3.12.7", Path("/usr/bin/python3.12"))
NODE = Target("linux", "x86_64", "3.12.7")
CUDA_12 = ('nvidia-cublas-cu12==12.6; sys_platform == "linux"', "triton==3.4", "typing-extensions>=4", "filelock")
BASE = BaseEnvironment(
    PYTHON,
    Path("/opt/stack/lib/python3.12/site-packages"),
    (
        Distribution("filelock", "3.1"),
        Distribution("numpy", "2.3.4"),
        Distribution("nvidia-cublas-cu12", "12.6"),
        Distribution("pandas", "2.2.0"),
        Distribution("torch", "2.13.0+cu126", requires=CUDA_12),
        Distribution("triton", "3.4"),
        Distribution("typing-extensions", "4.1"),
        Distribution("unrelated", "1.0"),
    ),
)
SNAPSHOT = Snapshot(
    python_version="3.12.4",
    implementation="cpython",
    platform="linux",
    machine="x86_64",
    distributions=(
        Distribution("cloudpickle", "3.1"),
        Distribution("ipykernel", "7.4"),
        Distribution("numpy", "2.3.4"),
        Distribution("nvidia-cublas-cu13", "13.0"),
        Distribution("pandas", "2.3.0"),
        Distribution("torch", "2.13.0+cu130", requires=("nvidia-cublas-cu13==13.0", "triton==3.5")),
        Distribution("triton", "3.5"),
        Distribution("typing-extensions", "4.16"),
    ),
)


def planned(snapshot: Snapshot = SNAPSHOT, base: BaseEnvironment | None = BASE) -> Plan:
    facts = NodeFacts("linux", "x86_64", (PYTHON,), "550.1", base=base)
    pins = make_pins(snapshot, facts, PYTHON, {})
    return make_plan(snapshot, facts, pins, Resolution(pins.requirements))


def test_the_bases_torch_wins_with_the_cuda_libraries_that_it_was_built_against() -> None:
    found = {each.name: (each.action, each.version, each.why, each.added) for each in planned().distributions}
    assert found == {
        "cloudpickle": (Action.FETCH, "3.1", "", False),
        "filelock": (Action.PROVIDED, "3.1", "on the node already", True),
        "ipykernel": (Action.FETCH, "7.4", "", False),
        "numpy": (Action.PROVIDED, "2.3.4", "on the node already", False),
        "nvidia-cublas-cu12": (Action.PROVIDED, "12.6", "on the node already", True),
        "nvidia-cublas-cu13": (Action.LEAVE_OUT, "13.0", "the node's torch brings its own", False),
        "pandas": (Action.FETCH, "2.3.0", "the node's own is 2.2.0", False),
        "torch": (Action.PROVIDED, "2.13.0+cu126", "on the node already, for 2.13.0+cu130", False),
        "triton": (Action.PROVIDED, "3.4", "on the node already, for 3.5", False),
        "typing-extensions": (Action.FETCH, "4.16", "the node's own is 4.1", False),
    }


def test_another_version_of_torch_is_the_notebooks_with_all_that_it_needs() -> None:
    newer = tuple(replace(each, version="2.14.0") if each.name == "torch" else each for each in SNAPSHOT.distributions)
    actions = {each.name: each.action for each in planned(replace(SNAPSHOT, distributions=newer)).distributions}
    assert actions["torch"] is Action.SWAP  # for the driver, as without a base
    assert actions["nvidia-cublas-cu13"] is Action.FETCH
    assert actions["triton"] is Action.FETCH
    assert "nvidia-cublas-cu12" not in actions


@pytest.mark.parametrize("base", [None, replace(BASE, python=replace(PYTHON, version="3.11.9"))])
def test_a_base_of_another_python_gives_nothing(base: BaseEnvironment | None) -> None:
    assert Action.PROVIDED not in {each.action for each in planned(base=base).distributions}
    assert choose_provided(SNAPSHOT.distributions, NODE, NODE, base).used == {}


def test_somebodys_own_code_is_never_the_bases() -> None:
    own = (Distribution("numpy", "2.3.4", Origin.VCS, "git+https://x.org/numpy.git@abc"),)
    assert choose_provided(own, NODE, NODE, BASE).used == {}


def test_what_is_needed_comes_along_and_what_can_merely_be_used_does_not() -> None:
    base = replace(
        BASE,
        distributions=(
            Distribution(
                "pandas", "3.0", requires=("python-dateutil", 'pyarrow>=13; extra == "parquet"', "fsspec[http]")
            ),
            Distribution("python-dateutil", "2.9"),
            Distribution("pyarrow", "22.0"),
            Distribution("fsspec", "2025.1", requires=('aiohttp; extra == "http"', 's3fs; extra == "s3"')),
            Distribution("aiohttp", "3.9"),
            Distribution("s3fs", "2025.1"),
        ),
    )
    found = choose_provided((Distribution("pandas", "3.0"),), NODE, NODE, base)
    assert found.used.keys() == {"pandas", "python-dateutil", "fsspec", "aiohttp"}


def test_the_environment_is_named_by_what_the_base_gives() -> None:
    upgraded = tuple(replace(each, version="3.4.1") if each.name == "triton" else each for each in BASE.distributions)
    ids = {planned().environment_id, planned(base=None).environment_id}
    ids.add(planned(base=replace(BASE, distributions=upgraded)).environment_id)
    assert len(ids) == 3
    # What is not used of it does not matter.
    fewer = tuple(each for each in BASE.distributions if each.name != "unrelated")
    assert planned(base=replace(BASE, distributions=fewer)).environment_id in ids


def uv(variables: dict[str, str], *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("uv")), "--quiet", "--no-config", *arguments]
    subprocess.run(command, env=variables, check=True, timeout=60)


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    links = tmp_path / "links"
    for name, version in (("cloudpickle", "3.1"), ("ipykernel", "7.4"), ("other", "1.0"), ("other", "2.0")):
        make_wheel(links, name, version)
    make_wheel(links, "torch", "2.13.0+cu126", requires=["nvidia-thing"], code="import nvidia_thing\n")
    make_wheel(links, "nvidia-thing", "12.6")
    make_wheel(links, "pip", "26.0")
    return {
        "PATH": str(Path(sys.executable).parent),
        "HOME": str(tmp_path),
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "UV_FIND_LINKS": str(links),
        "UV_OFFLINE": "1",
    }


@pytest.fixture
def base(tmp_path: Path, variables: dict[str, str]) -> Path:
    folder = tmp_path / "stack"
    uv(variables, "venv", "--python", sys.executable, str(folder))
    python = str(folder / "bin/python")
    uv(variables, "pip", "install", "--python", python, "torch==2.13.0+cu126", "other==2.0", "pip==26.0")
    info = next(folder.glob("lib/python*/site-packages/torch-*.dist-info"))
    (info / "entry_points.txt").write_text("[console_scripts]\ntorchrun = torch:run.main\n")
    (info.parent / "torch/__init__.py").write_text(
        (info.parent / "torch/__init__.py").read_text()
        + "class run:\n    @staticmethod\n    def main():\n        print('running', __version__)\n"
    )
    return folder


def run_in(*command: object) -> str:
    finished = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, check=False)
    return finished.stdout + finished.stderr


def test_what_the_base_has_is_linked_and_nothing_else_of_it_is_seen(
    tmp_path: Path, variables: dict[str, str], base: Path
) -> None:
    (tmp_path / "links/torch-2.13.0+cu126-py3-none-any.whl").unlink()  # nothing but the base has it any more
    store = EnvironmentStore(tmp_path / "environments")
    materialiser = Materialiser(store, BlobStore(tmp_path / "blobs"), Uv(variables), None, base)
    snapshot = Snapshot(
        platform.python_version(), "cpython", sys.platform, platform.machine(),
        distributions=(
            Distribution("cloudpickle", "3.1"), Distribution("ipykernel", "7.4"), Distribution("other", "1.0"),
            Distribution("torch", "2.13.0", pure=False), Distribution("pip", "26.0"),
        ),
    )  # fmt: skip
    environment = asyncio.run(materialiser.materialise(snapshot, lambda progress: None))
    code = "import torch, other, nvidia_thing; print(torch.__version__, other.__version__, torch.__file__)"
    torch, other, place = run_in(environment.python, "-c", code).split()
    assert (torch, other) == ("2.13.0+cu126", "1.0")
    assert Path(place).is_relative_to(environment.folder)
    source = next(base.glob("lib/python*/site-packages/torch/__init__.py"))
    assert os.path.samefile(place, source)
    listed = "import importlib.metadata as m; print(*sorted(d.name for d in m.distributions()))"
    assert run_in(environment.python, "-c", listed).split() == [
        "cloudpickle", "ipykernel", "nvidia-thing", "other", "torch",
    ]  # fmt: skip
    assert run_in(environment.folder / "bin/torchrun") == "running 2.13.0+cu126\n"
    assert "in a plain cell" in run_in(environment.python, "-m", "pip", "install", "other")
    own_pip = next(base.glob("lib/python*/site-packages/pip/__init__.py"))
    assert own_pip.read_text() == "__version__ = '26.0'\n"  # ours was not written into it
    again = asyncio.run(materialiser.materialise(snapshot, lambda progress: None))
    assert again.id == environment.id
    uv(variables, "pip", "uninstall", "--python", str(base / "bin/python"), "nvidia-thing")
    plan = asyncio.run(materialiser.plan(snapshot))
    assert "nvidia-thing" not in plan.provided  # the base is read again when it has changed


def test_links_across_file_systems_are_symbolic(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "e/lib/python3/site-packages").mkdir(parents=True)
    (tmp_path / "e/bin").mkdir()
    read = asyncio.run(BaseReader(base).read())
    link_distributions(read, ["torch"], tmp_path / "e")
    assert (tmp_path / "e/lib/python3/site-packages/torch/__init__.py").is_symlink()
    assert not (tmp_path / "e/lib/python3/site-packages/other").exists()


def test_a_base_that_is_none_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InvalidRequestError, match="has no Python that runs"):
            asyncio.run(BaseReader(folder).read())
