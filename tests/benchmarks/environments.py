"""Capturing an environment against importlib.metadata, building one against uv alone, and starting kernels in one."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from benchmarks.measurement import Row, Timing, measure
from nbgpu.snapshot.capture import Capture
from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.environments.materialising import Materialiser
from nbgpu_agent.environments.store import EnvironmentStore
from nbgpu_agent.environments.uv import Uv
from nbgpu_agent.kernel_launcher import KernelLauncher
from nbgpu_protocol.snapshot import Distribution, Snapshot
from wheels import make_wheel, pack_installed

INSTALLED = 250
BUILT = 100
IMPORTS = "\n".join(f"import package_{number}" for number in range(7))
REPLY_WITHIN_S = 60


def timed(work: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        began_s = time.perf_counter()
        work()
        return time.perf_counter() - began_s

    return run


def install(folder: Path, wheels: Path, count: int) -> None:
    """Unpacks tiny wheels into a folder, whose metadata is as long as that of others."""
    classifiers = [f"Framework :: Number {number}" for number in range(20)]
    for number in range(count):
        wheel = make_wheel(wheels, f"package-{number}", "1.0", classifiers=classifiers)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def write_modules(folder: Path) -> None:
    """Writes seven packages of ten modules that a notebook imports."""
    for package in range(7):
        (folder / f"package_{package}").mkdir(parents=True)
        for name in ("__init__", *(f"module_{number}" for number in range(9))):
            (folder / f"package_{package}" / f"{name}.py").write_text("import os\n\n\ndef f():\n    return 1\n" * 50)


def read_with_importlib(folder: Path) -> None:
    for each in importlib.metadata.distributions(path=[str(folder)]):
        assert each.metadata["Name"]
        assert each.version
        each.read_text("direct_url.json")
        each.read_text("INSTALLER")


def run_capture(root: Path, rounds: int, count: int) -> Sequence[Row]:
    site = root / "site-packages"
    install(site, root / "wheels", count)
    notebook = root / "notebook"
    write_modules(notebook)
    known = Capture(folder=notebook, path=[str(site)], modules={})
    known.capture(cell=IMPORTS)
    timings = measure(
        {
            "first": timed(lambda: Capture(folder=root, path=[str(site)], modules={}).capture()),
            "again": timed(lambda: known.capture(cell=IMPORTS)),
            "importlib": timed(lambda: read_with_importlib(site)),
        },
        rounds=rounds,
        repeats=3,
    )
    return [
        Row(f"capture of {count} distributions", timings["first"], "importlib.metadata", timings["importlib"], 0.5),
        Row(
            "the same with 70 local files, unchanged",
            timings["again"],
            "importlib.metadata",
            timings["importlib"],
            0.05,
        ),
    ]


def run_build(root: Path, rounds: int, count: int) -> Sequence[Row]:
    """Times builds whose packages uv has in its cache, has not, and has all but one of."""
    site, links = root / "built-site-packages", root / "links"
    install(site, links, count)
    for name, version in (("ipykernel", "7.0"), ("cloudpickle", "3.1")):
        with zipfile.ZipFile(make_wheel(links, name, version)) as archive:
            archive.extractall(site)
    variables = uv_variables(root / "cache", links)
    snapshot = Capture(folder=root, path=[str(site)], modules={}).capture().snapshot
    pins = root / "pins.txt"
    pins.write_text("".join(f"{each.name}=={each.version}\n" for each in snapshot.distributions))
    asyncio.run(materialise(snapshot, root, variables))  # fills uv's cache
    added = (f"added-{number}" for number in itertools.count())
    synced = sync(pins, root, variables)

    def cold() -> dict[str, str]:
        return uv_variables(Path(tempfile.mkdtemp(dir=root)) / "cache", links)

    def add_ours() -> float:
        """Adds a package to a notebook whose environment the agent has just built."""
        name = next(added)
        make_wheel(links, name, "1.0")
        more = replace(snapshot, distributions=(*snapshot.distributions, Distribution(name, "1.0")))
        return asyncio.run(materialise(more, root, variables, snapshot))

    def add_by_uv() -> float:
        name = next(added)
        make_wheel(links, name, "1.0")
        return timed(lambda: run_uv(variables, root, "pip", "install", "--python", str(synced), f"{name}==1.0"))()

    timings = measure(
        {
            "ours": lambda: asyncio.run(materialise(snapshot, root, variables)),
            "uv": timed(lambda: sync(pins, root, variables)),
            "ours cold": lambda: asyncio.run(materialise(snapshot, root, cold())),
            "uv cold": timed(lambda: sync(pins, root, cold())),
            "ours added": add_ours,
            "uv added": add_by_uv,
        },
        rounds=rounds,
    )
    return [
        Row(f"environment of {count} packages from uv's cache", timings["ours"], "uv alone", timings["uv"], 1.3),
        Row("the same, cold: from wheels", timings["ours cold"], "uv alone", timings["uv cold"], 1.3),
        Row("one package added", timings["ours added"], "uv, that package alone", timings["uv added"], 1.3),
    ]


def run_kernel(root: Path, rounds: int) -> Sequence[Row]:
    """Times the way from a snapshot that the agent knows to a kernel that answers, against ipykernel's own start."""
    links = root / "kernel-links"
    versions = pack_installed(links, ["ipykernel", "cloudpickle"])
    variables = uv_variables(root / "cache", links)
    distributions = tuple(Distribution(name, version, pure=False) for name, version in sorted(versions.items()))
    snapshot = Snapshot(
        platform.python_version(),
        sys.implementation.name,
        sys.platform,
        platform.machine(),
        distributions=distributions,
    )

    async def run_all() -> dict[str, Timing]:
        materialiser = await materialiser_of(root, variables)
        environment = await materialiser.materialise(snapshot, lambda progress: None)
        launcher = KernelLauncher(
            root / "k",
            environment_variables=(),
            spare_kernels=0,
            default_python=sys.executable,
            blobs_folder=root / "b",
        )
        ours, bare = list[float](), list[float]()
        for number in range(rounds + 1):
            began_s = time.perf_counter()
            known = await materialiser.materialise(snapshot, lambda progress: None)
            kernel = await launcher.take(str(known.python), root, {})
            ours.append(time.perf_counter() - began_s)
            await kernel.end()
            bare.append(await asyncio.to_thread(start_bare, environment.python, root / f"bare-{number}"))
        await launcher.close()
        return {"ours": Timing(tuple(ours[1:])), "bare": Timing(tuple(bare[1:]))}  # the first compiles

    timings = asyncio.run(run_all())
    return [
        Row("known snapshot to ready kernel", timings["ours"], "start of an ipykernel there", timings["bare"], 1.1),
    ]


def start_bare(python: Path, folder: Path) -> float:
    """Starts an ipykernel of the interpreter; returns the seconds to its first reply."""
    folder.mkdir()
    manager = _OtherPython(transport="ipc", ip=str(folder / "k"), connection_file=str(folder / "kernel.json"))
    manager.python = str(python)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began_s = time.perf_counter()
    manager.start_kernel(env=variables, stderr=subprocess.DEVNULL)
    client = manager.client()
    try:
        client.start_channels()
        client.execute("pass")
        client.get_shell_msg(timeout=REPLY_WITHIN_S)
        return time.perf_counter() - began_s
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


class _OtherPython(KernelManager):  # type: ignore[misc,unused-ignore]
    python = sys.executable

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [self.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python", language="python")


def uv_variables(cache: Path, links: Path) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "UV_CACHE_DIR": str(cache),
        "UV_FIND_LINKS": str(links),
        "UV_OFFLINE": "1",
    }


async def materialiser_of(root: Path, variables: dict[str, str]) -> Materialiser:
    store, uv = EnvironmentStore(Path(tempfile.mkdtemp(dir=root))), Uv(variables)
    await uv.cache_folder(root)  # once in the life of an agent
    return Materialiser(store, BlobStore(root / "blobs"), uv, None)


async def materialise(snapshot: Snapshot, root: Path, variables: dict[str, str], *before: Snapshot) -> float:
    """Returns the seconds that it takes an agent that runs, and has built those before."""
    materialiser = await materialiser_of(root, variables)
    for each in before:
        await materialiser.materialise(each, lambda progress: None)
    began_s = time.perf_counter()
    environment = await materialiser.materialise(snapshot, lambda progress: None)
    took_s = time.perf_counter() - began_s
    assert environment.python.exists()
    return took_s


def sync(pins: Path, root: Path, variables: dict[str, str]) -> Path:
    """Makes an environment by uv alone; returns its interpreter."""
    folder = Path(tempfile.mkdtemp(dir=root)) / "environment"
    run_uv(variables, root, "venv", "--python", sys.executable, str(folder))
    run_uv(variables, root, "pip", "sync", "--python", str(folder / "bin/python"), str(pins))
    return folder / "bin/python"


def run_uv(variables: dict[str, str], root: Path, *arguments: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "--quiet", "--no-config", *arguments], env=variables, cwd=root, check=True, timeout=120)


def run(*, rounds: int = 5, installed: int = INSTALLED, built: int = BUILT) -> Sequence[Row]:
    root = Path(tempfile.mkdtemp(prefix="nbgpu-bench-"))
    try:
        return [*run_capture(root, rounds, installed), *run_build(root, rounds, built), *run_kernel(root, rounds)]
    finally:
        shutil.rmtree(root, ignore_errors=True)
