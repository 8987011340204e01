"""Two machines on one: a notebook in an environment of its own, and an agent on loopback TCP with its own folder."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from notebook_kernel import Cell, NotebookKernel
from wheels import pack_installed

SOURCES = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("python", "kernel")]
AGENT = (sys.executable, "-m", "nbgpu_agent", "--listen=127.0.0.1:0")
_NUMBERS = itertools.count()
NEEDED = ("cloudpickle", "grpcio", "ipykernel", "protobuf", "psutil", "xxhash")
"""What nbgpu needs on the side of the notebook."""


class _Manager(KernelManager):  # type: ignore[misc]
    python = sys.executable

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [self.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python", language="python")


@dataclass
class Workplace:
    """Two machines on one: a notebook's environment and folder, and an agent's."""

    root: Path
    variables: dict[str, str]

    @property
    def python(self) -> Path:
        return self.root / "notebook-environment/bin/python"

    @property
    def notebook(self) -> Path:
        return self.root / "notebook"

    @property
    def environments(self) -> set[str]:
        return {path.name for path in (self.root / "agent/environments").iterdir() if not path.name.startswith(".")}

    def uv(self, *arguments: str) -> None:
        command = [str(Path(sys.executable).parent / "uv"), "--quiet", *arguments]
        done = subprocess.run(
            command, env=self.variables, cwd=self.root, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr

    def install(self, *requirements: str) -> None:
        self.uv("pip", "install", "--python", str(self.python), *requirements)

    @contextmanager
    def agent(self, folder: str = "agent", *options: str) -> Iterator[dict[str, str]]:
        """Runs an agent with a folder of that name, and options; yields the variables by which notebooks find it."""
        with open(self.root / "agent.log", "ab") as log:
            process = subprocess.Popen(
                [*AGENT, f"--folder={self.root / folder}", *options],
                env=self.variables,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        try:
            assert process.stdout is not None
            line = process.stdout.readline().split()
            assert line, (self.root / "agent.log").read_text()
            yield dict(word.split("=", 1) for word in line[1:])
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            process.stdout.close()

    @contextmanager
    def kernel(self, found: dict[str, str]) -> Iterator[NotebookKernel]:
        name = f"k{next(_NUMBERS)}"
        manager = _Manager(
            transport="ipc", ip=str(self.root / name), connection_file=str(self.root / f"kernel-{name}.json")
        )
        manager.python = str(self.python)
        manager.start_kernel(env={**self.variables, **found}, cwd=str(self.notebook))
        client = manager.client()
        try:
            client.start_channels()
            client.wait_for_ready(timeout=60)
            notebook = NotebookKernel(manager, client)
            assert ok(notebook.run("%load_ext nbgpu")) == ""
            yield notebook
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
            manager.cleanup_resources()


def ok(cell: Cell) -> str:
    """Returns what the cell printed, on standard output."""
    assert not cell.errors, "\n".join(cell.errors[0]["traceback"])
    return cell.text()


def make_workplace(root: Path, packages: Sequence[str]) -> Workplace:
    """Makes the notebook's environment with these packages, from wheels that are packed from this environment's own."""
    pack_installed(root / "links", packages)
    for folder in ("tmp", "notebook"):
        (root / folder).mkdir()
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "TMPDIR": str(root / "tmp"),
        "PYTHONPATH": os.pathsep.join(SOURCES),
        "JUPYTER_CONFIG_DIR": str(root / "config"),
        "JUPYTER_DATA_DIR": str(root / "data"),
        "JUPYTER_RUNTIME_DIR": str(root / "runtime"),
        "JUPYTER_NO_CONFIG_ENV": "1",
        "IPYTHONDIR": str(root / "ipython"),
        "NBGPU_SIMULATE": "H100x2",
        "UV_CACHE_DIR": str(root / "cache"),
        "UV_FIND_LINKS": str(root / "links"),
        "UV_OFFLINE": "1",
        "COLUMNS": "120",
    }
    made = Workplace(root, variables)
    made.uv("venv", "--python", sys.executable, str(root / "notebook-environment"))
    made.install(*packages)
    return made
