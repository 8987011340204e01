"""A notebook kernel and what a front end sees of it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

REPLY_WITHIN_S = 180


class CellFailedError(RuntimeError):
    """Raised when a cell of a benchmark raised."""


@dataclass
class Cell:
    """What came of one execution."""

    took_s: float = 0.0
    """From sending the request to the idle status that follows its outputs."""
    stdout: list[str] = field(default_factory=list)
    displays: list[dict[str, Any]] = field(default_factory=list)
    """The MIME bundles of display_data, in order."""


class FrontEnd:
    """Executes cells in one kernel."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client

    def execute(self, code: str) -> Cell:
        """Executes a cell and collects its outputs.

        Raises:
            CellFailedError: The cell raised.
        """
        cell = Cell()
        error: dict[str, Any] | None = None
        start = time.perf_counter()
        request = self._client.execute(code, allow_stdin=False)
        while True:
            message = self._client.get_iopub_msg(timeout=REPLY_WITHIN_S)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream" and content["name"] == "stdout":
                cell.stdout.append(content["text"])
            elif kind == "display_data":
                cell.displays.append(content["data"])
            elif kind == "error":
                error = content
            elif kind == "status" and content["execution_state"] == "idle":
                break
        cell.took_s = time.perf_counter() - start
        self._client.get_shell_msg(timeout=REPLY_WITHIN_S)
        if error is not None:
            raise CellFailedError(f"{error['ename']}: {error['evalue']}\n" + "\n".join(error["traceback"]))
        return cell


class _ThisPython(KernelManager):
    """Starts ipykernel of the interpreter that measures, whatever kernelspecs are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python", language="python")


@contextlib.contextmanager
def started_kernel() -> Iterator[tuple[FrontEnd, float]]:
    """Yields a fresh kernel with the seconds from its start to the reply of its first cell, `pass`."""
    manager = _ThisPython()
    start = time.perf_counter()
    # It warns of plain TCP, which is what JupyterLab uses too.
    manager.start_kernel(stderr=subprocess.DEVNULL)
    client = manager.client()
    try:
        client.start_channels()
        client.execute("pass")
        client.get_shell_msg(timeout=REPLY_WITHIN_S)
        took_s = time.perf_counter() - start
        client.wait_for_ready(timeout=REPLY_WITHIN_S)
        yield FrontEnd(client), took_s
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)
        manager.cleanup_resources()


@contextlib.contextmanager
def notebook_kernel(*, nbgpu: bool) -> Iterator[FrontEnd]:
    """Yields a kernel, where asked with nbgpu loaded and a session open."""
    with started_kernel() as (front_end, _):
        if nbgpu:
            front_end.execute("%load_ext nbgpu")
            front_end.execute("%%gpu CPU\npass")
        try:
            yield front_end
        finally:
            if nbgpu:
                front_end.execute("%gpu close")
