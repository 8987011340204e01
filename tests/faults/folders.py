"""What happens to an agent's folder: a full disk, files that are damaged, and another agent that wants it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from agent_processes import DEADLINE_S
from faults.scenes import Place, Scene
from nbgpu_agent.app import EXIT_ALREADY_RUNNING
from nbgpu_protocol.v1 import pool_pb2

DISK_BYTES = 24 << 20
_FILLER = "filler"


def why_no_disk() -> str:
    """Returns why there can be no disk of a test's own; empty: there can."""
    if os.getuid() != 0:
        return "only root mounts file systems"
    return "" if shutil.which("mount") else "there is no `mount`"


@contextlib.contextmanager
def small_disk(place: Place) -> Iterator[None]:
    """Has the agent's folder on a small file system of its own."""
    folder = place.workplace.folder
    folder.mkdir(mode=0o700)
    _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "nbgpu-faults", str(folder))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(folder))


async def fill_disk(scene: Scene) -> None:
    """Leaves no room on the agent's disk, until the cell is over."""
    filler = scene.place.workplace.folder / _FILLER
    await asyncio.to_thread(_fill, filler)
    try:
        await scene.notebook.agent_is(lambda session: session.kernel_state == pool_pb2.KERNEL_IDLE)
    finally:
        filler.unlink()


def _fill(path: Path) -> None:
    size = 1 << 20
    with path.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2


async def truncate_journal(scene: Scene) -> None:
    """Kills the agent, cuts off a file of the session's journal, and starts another agent."""
    scene.place.kill()
    path = _chosen(scene)
    os.truncate(path, scene.moments.randrange(path.stat().st_size))
    await asyncio.to_thread(scene.place.start)


async def flip_journal(scene: Scene) -> None:
    """Kills the agent, changes some bytes in a file of the session's journal, and starts another agent."""
    scene.place.kill()
    path = _chosen(scene)
    content = bytearray(path.read_bytes())
    for _ in range(16):
        content[scene.moments.randrange(len(content))] ^= scene.moments.randrange(1, 256)
    path.write_bytes(content)
    await asyncio.to_thread(scene.place.start)


async def remove_index(scene: Scene) -> None:
    """Kills the agent, removes the index of the session's journal, and starts another agent."""
    scene.place.kill()
    for path in _folder(scene).glob("journal.db*"):
        path.unlink()
    await asyncio.to_thread(scene.place.start)


async def start_another_agent(scene: Scene) -> None:
    """Starts another agent in the same folder, which has to refuse."""
    place = scene.place.workplace
    process = place.start("--listen=127.0.0.1:0", f"--folder={place.folder}", NBGPU_AGENT_TOKEN="another")
    code = await asyncio.to_thread(process.wait, DEADLINE_S)
    assert code == EXIT_ALREADY_RUNNING, place.log()[-1000:]


def _folder(scene: Scene) -> Path:
    return scene.place.workplace.folder / "sessions" / scene.notebook.client.id


def _chosen(scene: Scene) -> Path:
    """Returns one of the files that the session is kept in, which the next agent reads."""
    found = sorted(
        path
        for path in _folder(scene).rglob("*")
        if path.is_file() and path.stat().st_size and not path.name.endswith("-shm")
    )
    return scene.moments.choice(found)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
