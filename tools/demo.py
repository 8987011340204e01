"""Runs the quickstart through and prints what its cells print as they print it, then opens JupyterLab on a copy of it.

What it makes is below .tools/demo, and the agent that it starts ends with it. LAB=0 in the environment stops it before
JupyterLab. Where no GPU is and NBGPU_SIMULATE is not set, a simulated H100 is offered.
"""

from __future__ import annotations

import asyncio
import base64
import html
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nbformat
import pynvml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from traitlets.config import Config

from nbgpu.client.embedded import find_agent
from nbgpu.client.pool import Pool

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "binder" / "quickstart.ipynb"
WORK_FOLDER = ROOT / ".tools" / "demo"
NOTEBOOKS_FOLDER = WORK_FOLDER / "notebooks"
CELL_TIMEOUT_S = 300
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})
"""ipykernel warns where the notebook's kernel is on plain TCP."""
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Beside SIGINT: what the demo is sent when it is to end, as by the terminal that closes."""


class PrintingClient(NotebookClient):
    """Executes a notebook and prints its outputs the moment they come."""

    progress = ""
    """The words of the latest progress bar, which is a widget and has no text of its own."""
    is_stopped = False
    """Whether a signal has ended it."""

    @asynccontextmanager
    async def async_setup_kernel(self, **kwargs: Any) -> AsyncIterator[None]:
        """Starts the kernel; a signal stops what runs, where nbclient would only end the kernel below its own feet."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self.is_stopped = True
            task.cancel()

        async with super().async_setup_kernel(**kwargs):
            for number in (signal.SIGINT, *ENDING_SIGNALS):
                loop.add_signal_handler(number, stop)
            yield

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        kind, content = msg["msg_type"], msg["content"]
        if kind == "execute_input":
            first, *rest = content["code"].splitlines() or [""]
            print(f"\n[{content['execution_count']}] {first}{' …' if rest else ''}", flush=True)
        elif kind == "stream":
            self.finish_progress()
            print(content["text"], end="", flush=True)
        elif kind in ("display_data", "update_display_data", "execute_result"):
            print(describe(content["data"]), flush=True)
        elif kind == "error":
            self.finish_progress()
            print("\n".join(content["traceback"]), flush=True)
        elif kind == "comm_msg":
            self.show_progress(content["data"])
        elif kind == "status" and content["execution_state"] == "idle":
            self.finish_progress()
        return super().process_message(msg, cell, cell_index)

    def show_progress(self, data: dict[str, Any]) -> None:
        value = data.get("state", {}).get("value")
        if isinstance(value, str) and "/" in (words := strip_markup(value)):
            self.progress = words
            if sys.stdout.isatty():
                print(f"\r{words}", end="", flush=True)

    def finish_progress(self) -> None:
        if self.progress:
            print(f"\r{self.progress}" if sys.stdout.isatty() else self.progress, flush=True)
            self.progress = ""


def strip_markup(text: str) -> str:
    """Returns the words of a piece of HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", text)).strip()


def describe(data: dict[str, Any]) -> str:
    """Returns an output as a terminal can show it: its text, or for an image its size."""
    if "image/png" in data:
        width, height = struct.unpack(">II", base64.b64decode(data["image/png"])[16:24])
        return f"[image {width}x{height}]"
    if "text/plain" in data:
        return str(data["text/plain"])
    return f"[{', '.join(data)}]"


def has_gpu() -> bool:
    """Returns whether NVIDIA's driver knows of a GPU here."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    try:
        return bool(pynvml.nvmlDeviceGetCount() > 0)
    finally:
        pynvml.nvmlShutdown()


def run_quickstart() -> None:
    """Executes the quickstart in memory.

    Raises:
        CellExecutionError: A cell raised.
        DeadKernelError: The notebook's kernel ended.
        KeyboardInterrupt: A signal asked for the end.
    """
    notebook = nbformat.read(QUICKSTART, as_version=4)  # type: ignore[no-untyped-call]
    client = PrintingClient(
        notebook,
        kernel_name="python3",
        config=ENCRYPTED,
        timeout=CELL_TIMEOUT_S,
        resources={"metadata": {"path": str(NOTEBOOKS_FOLDER)}},
    )
    try:
        client.execute()
    except (DeadKernelError, asyncio.CancelledError):  # nbclient makes the one of the other
        if client.is_stopped:
            raise KeyboardInterrupt from None
        raise
    finally:
        handle_ending_signals()  # for which nbclient and its loop leave handlers of their own, or none


def open_lab() -> int:
    """Serves JupyterLab on a copy of the quickstart until it is stopped; returns its exit code."""
    copy = NOTEBOOKS_FOLDER / QUICKSTART.name
    if not copy.exists() or copy.stat().st_mtime < QUICKSTART.stat().st_mtime:
        shutil.copyfile(QUICKSTART, copy)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={NOTEBOOKS_FOLDER}",
        f"--LabApp.default_url=/lab/tree/{copy.name}",  # so that the address that it prints leads there too
        "--ServerApp.answer_yes=True",  # to whether Ctrl-C is meant
        "--ServerApp.log_level=WARN",
        "--LabApp.log_level=WARN",
        "--KernelManager.transport_encryption=auto",  # as ENCRYPTED
    ]
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    print("\nOpening JupyterLab on the quickstart; Ctrl-C ends it", flush=True)
    with subprocess.Popen(command, cwd=NOTEBOOKS_FOLDER) as lab:
        while True:
            try:
                return lab.wait()
            except KeyboardInterrupt:  # the terminal has sent it to JupyterLab too
                continue
            except SystemExit:
                lab.terminate()
                raise


def handle_ending_signals() -> None:
    """Has these signals end this program as usual, so that what it started ends with it."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    for number in ENDING_SIGNALS:
        signal.signal(number, end)


async def end_agent() -> None:
    """Ends the demo's agent with its sessions, if it runs."""
    record = await find_agent()
    if record is not None:
        async with Pool(record.address, record.token) as pool:
            await pool.shut_down(close_sessions=True)


def main() -> int:
    handle_ending_signals()
    if not has_gpu():
        os.environ.setdefault("NBGPU_SIMULATE", "H100x1")
    # An agent of the demo's own: one that runs here already may offer something else.
    os.environ.setdefault("NBGPU_AGENT_DIR", str(WORK_FOLDER / "agent"))
    NOTEBOOKS_FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        run_quickstart()
        print("\nThe quickstart ran through.", flush=True)
        return 0 if os.environ.get("LAB") == "0" else open_lab()
    except (CellExecutionError, DeadKernelError) as error:
        print(f"\nthe quickstart failed: {type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        asyncio.run(end_agent())


if __name__ == "__main__":
    sys.exit(main())
