"""Folders of a test's own, notebooks executed in them, and the proof that nothing of them is left behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import psutil
import pytest
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets import Type
from traitlets.config import Config

from agent_processes import KEPT
from nbgpu.client.embedded import find_agent
from nbgpu.client.pool import Pool
from notebook_kernel import NotebookKernel, notebook_kernel

GONE_WITHIN_S = 90
LOOK_AGAIN_S = 0.2


class ShellChannel(AsyncZMQSocketChannel):
    """Looks again and again for a reply, rather than wait for an event that may have been taken.

    jupyter_client 8.10 sends past zmq.asyncio, and a send takes the event by which the loop would learn of a reply that
    came at that moment (ZMQ_FD in zmq_getsockopt(3)). nbclient sends the states of Output widgets while it waits, and
    then waits for ever.
    """

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = LOOK_AGAIN_S if deadline is None else deadline - time.monotonic()
            try:
                return await super().get_msg(timeout=max(min(left, LOOK_AGAIN_S), 0))
            except Empty:
                if left <= 0:
                    raise


class NotebookKernelClient(AsyncKernelClient):
    shell_channel_class = Type(ShellChannel)  # type: ignore[assignment]


KERNELS = Config({"KernelManager": {"client_factory": NotebookKernelClient, "transport_encryption": "auto"}})
"""ipykernel warns where the notebook's kernel is on plain TCP."""


@pytest.fixture(scope="module")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything that Jupyter, IPython and nbgpu write goes below the returned folder, for this module's tests.

    At the end the agent is told to end, and no process that knows the folder may be left, nor any file of the agent.
    """
    folder = tmp_path_factory.mktemp("i")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "TMPDIR"):
            path = folder / name.lower().removesuffix("dir").strip("_")
            path.mkdir(mode=0o700)
            patch.setenv(name, str(path))
        patch.setenv("NBGPU_AGENT_DIR", str(folder / "agent"))
        patch.setenv("COLUMNS", "80")
        for name in ("NBGPU_SIMULATE", "NBGPU_AGENT_ADDRESS", "NBGPU_AGENT_TOKEN", "MPLBACKEND"):
            patch.delenv(name, raising=False)
        # Scratch bytecode costs nothing and halves the start of every kernel.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        try:
            yield folder
        finally:
            asyncio.run(end_agent())
        assert_nothing_left(folder)


async def end_agent() -> None:
    record = await find_agent()
    if record is not None:
        async with Pool(record.address, record.token) as pool:
            await pool.shut_down(close_sessions=True)


def processes_that_know(folder: Path) -> list[str]:
    """Returns the processes, other than this one's ancestry, whose command line or variables name the folder."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in mine and process.status() != psutil.STATUS_ZOMBIE:
                known = [*process.cmdline(), *process.environ().values()]
                if any(str(folder) in text for text in known):
                    found.append(f"{process.pid}: {' '.join(process.cmdline())}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def assert_nothing_left(folder: Path) -> None:
    """Waits for the end of every process of the folder, then looks at what the agent left in it."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while left := processes_that_know(folder):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)
    sockets = [path for path in folder.rglob("*") if path.is_socket()]
    assert not sockets, "sockets left behind"
    agent = folder / "agent"
    left_files = sorted(str(path.relative_to(agent)) for path in agent.rglob("*")) if agent.exists() else []
    assert set(left_files) <= KEPT, "the agent left files behind"


@pytest.fixture(scope="module")
def notebook(own_folders: Path) -> Iterator[NotebookKernel]:
    """A notebook in a folder of its own, attached to one of two accelerators."""
    work = own_folders / "work"
    work.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x2")
        patch.chdir(work)
        with notebook_kernel(own_folders) as kernel:
            assert not kernel.run("%load_ext nbgpu").errors
            attached = kernel.run("%gpu attach H100")
            assert "attached to H100" in attached.text(), attached.messages
            yield kernel


@pytest.fixture(scope="module")
def close_sessions(own_folders: Path) -> Callable[[], list[str]]:
    """A function that closes every open session, and returns the ids of those that it closed."""

    async def close_all() -> list[str]:
        record = await find_agent()
        if record is None:
            return []
        async with Pool(record.address, record.token) as pool:
            ids = [session.id for session in await pool.list_sessions()]
            for session_id in ids:
                await pool.close_session(session_id)
        return ids

    return lambda: asyncio.run(close_all())


@pytest.fixture(scope="module")
def execute(own_folders: Path) -> Callable[..., NotebookNode]:
    """A function that executes a notebook in place in a kernel of its own, and returns it."""

    def run(notebook: NotebookNode, folder: Path, **options: Any) -> NotebookNode:
        resources = {"metadata": {"path": str(folder)}}
        options = {"timeout": 120, **options}
        return NotebookClient(notebook, kernel_name="python3", config=KERNELS, resources=resources, **options).execute()

    return run


@pytest.fixture(scope="module")
def run_python(own_folders: Path) -> Callable[..., str]:
    """A function that runs a program in a Python of its own and returns what it printed, on both streams."""

    def run(program: str, **environ: str) -> str:
        finished = subprocess.run(
            [sys.executable, "-W", "error::ResourceWarning", "-c", program],
            env={**os.environ, **environ},
            cwd=own_folders,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout
        return finished.stdout

    return run
