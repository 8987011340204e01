"""JupyterLab in a browser with an agent of its own, which ends with it; and that agent as a test talks to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from playwright.sync_api import Page

from jupyter_servers import run_jupyter_server
from lab_page import LAB_ARGUMENTS, LabPage
from nbgpu.client.embedded import find_agent
from nbgpu.client.pool import Pool
from nbgpu_protocol.discovery import read_record

DEADLINE_S = 60.0

T = TypeVar("T")


@contextlib.contextmanager
def run_lab_with_agent(page: Page, folder: Path, environ: Mapping[str, str]) -> Iterator[LabPage]:
    """Serves JupyterLab from `folder` and opens it; ends it, its kernels and the agent that it started."""
    with run_jupyter_server(folder, environ, module="jupyterlab", arguments=LAB_ARGUMENTS) as server:
        lab = LabPage(page, server)
        try:
            lab.open()
            yield lab
            lab.close_all()
        finally:
            record = read_record(server.agent_folder)
            run_async(end_agent(server.agent_folder))
            if record is not None:
                wait_until_gone(record.pid)


@contextlib.contextmanager
def run_lab_without_agent(page: Page, folder: Path) -> Iterator[LabPage]:
    """Serves JupyterLab from `folder` and opens it with the panel, for a page whose questions a test answers itself."""
    with run_jupyter_server(folder, {}, module="jupyterlab", arguments=LAB_ARGUMENTS) as server:
        lab = LabPage(page, server)
        lab.open()
        lab.open_panel()
        yield lab
        lab.close_all()
        assert read_record(server.agent_folder) is None, "the page asked the real server, which started an agent"


def run_async(coroutine: Coroutine[None, None, T]) -> T:
    """Runs a coroutine to its end in a thread: Playwright's loop has this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result(DEADLINE_S)


@contextlib.asynccontextmanager
async def agent_pool(folder: Path) -> AsyncIterator[Pool]:
    """Connects to the agent that runs in the folder."""
    record = await find_agent(folder)
    assert record is not None, "no agent runs"
    async with Pool(record.address, record.token) as pool:
        yield pool


async def end_agent(folder: Path) -> None:
    """Ends the folder's agent with its sessions, if one runs."""
    if await find_agent(folder) is not None:
        async with agent_pool(folder) as pool:
            await pool.shut_down(close_sessions=True)


def wait_until_gone(pid: int) -> None:
    """Waits until a process that is no child of this one has ended."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} did not end")
