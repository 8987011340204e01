"""A Jupyter server that is killed while a cell of its notebook's kernel runs, and the next server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import queue
import random
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from tornado.websocket import websocket_connect

from agent_processes import until
from faults.notebooks import code_of, of_run, outcome_of
from faults.scenes import STDOUT, TOKEN, Outcome, Place
from jupyter_servers import JupyterServer, run_jupyter_server
from notebook_kernel import WITHIN_S, NotebookKernel

_NOTEBOOK = {"path": "work.ipynb", "name": "work.ipynb", "type": "notebook"}
_NORMAL = 1000


@dataclass
class ServerScene:
    """A person's folder, in which Jupyter servers come and go."""

    folder: Path
    environ: dict[str, str]
    numbers: Iterator[int] = field(default_factory=itertools.count)


@dataclass(frozen=True)
class Served:
    """The notebook's kernel, that a server has started."""

    server: JupyterServer
    notebook: NotebookKernel
    process: psutil.Process


@contextlib.contextmanager
def served(scene: ServerScene) -> Iterator[Served]:
    """Runs a server with the notebook's kernel, for as long as it is not killed."""
    with run_jupyter_server(scene.folder, scene.environ, arguments=("--allow-root",)) as server:
        asked = urllib.request.Request(
            f"{server.url}api/sessions",
            json.dumps({**_NOTEBOOK, "kernel": {"name": "python3"}}).encode(),
            {"Authorization": f"token {server.token}"},
        )
        try:
            with urllib.request.urlopen(asked, timeout=WITHIN_S) as answer:
                kernel_id = json.loads(answer.read())["kernel"]["id"]
        except urllib.error.HTTPError as error:
            raise AssertionError(server.log.read_text()[-3000:]) from error
        client = BlockingKernelClient(
            connection_file=str(scene.folder / "runtime" / f"kernel-{kernel_id}.json"),
        )
        client.load_connection_file()
        client.start_channels()
        try:
            _wait_for_output(client)
            notebook = NotebookKernel(None, client)  # nobody but the server manages it
            (process,) = (
                each for each in psutil.Process(server.process.pid).children() if kernel_id in str(each.cmdline())
            )
            assert not notebook.run("%load_ext nbgpu").errors
            asyncio.run(_look(server, kernel_id))
            yield Served(server, notebook, process)
        finally:
            client.stop_channels()


async def _look(server: JupyterServer, kernel_id: str) -> None:
    """Asks what was missed, as a page does that shows the notebook; it gets back the sessions that it had before."""
    url = f"{server.url.replace('http', 'ws', 1)}nbgpu/api/notebooks/{kernel_id}/replay?token={server.token}"
    code = None
    while code != _NORMAL:  # else the page tries again
        page = await websocket_connect(url)
        await page.write_message(json.dumps({"kind": "cells", "cells": []}))
        while await page.read_message() is not None:
            pass
        code = page.close_code


def _wait_for_output(client: BlockingKernelClient) -> None:
    """Returns once the kernel answers, and its output is subscribed to."""

    def is_heard() -> bool:
        client.kernel_info()
        try:
            client.get_iopub_msg(timeout=0.3)
        except queue.Empty:
            return False
        return True

    until(is_heard)
    with contextlib.suppress(queue.Empty):
        while True:
            client.get_iopub_msg(timeout=0.5)


@contextlib.asynccontextmanager
async def servers_in(place: Place) -> AsyncIterator[tuple[ServerScene, Outcome]]:
    """A folder whose notebook has a session of the place's agent; yields with it what an undisturbed run gives."""
    folder = place.workplace.root / "person"
    scene = ServerScene(
        folder,
        {
            "NBGPU_AGENT_ADDRESS": f"127.0.0.1:{place.port}",
            "NBGPU_AGENT_TOKEN": TOKEN,
            "NBGPU_SNAPSHOT": "0",
        },
    )

    def first() -> Outcome:
        with served(scene) as each:
            assert not each.notebook.run("%%gpu H100\npass").errors
            return outcome_of(each.notebook.run(code_of(next(scene.numbers))).messages)

    def last() -> None:
        with served(scene) as each:
            assert not each.notebook.run("%gpu close").errors

    undisturbed = await asyncio.to_thread(first)
    assert not undisturbed.error, undisturbed.error
    try:
        yield scene, undisturbed
    finally:
        await asyncio.to_thread(last)


def run_killed_server(scene: ServerScene, moments: random.Random) -> Outcome:
    """Kills the Jupyter server at a moment of the cell, and has the next one's kernel attach; returns what came."""
    number = next(scene.numbers)
    with served(scene) as each:
        each.notebook.run("%gpu attach")  # what an earlier run left untold is told here, and not above the cell
        cell = each.notebook.start(code_of(number))
        after = moments.randrange(len(STDOUT) * 9 // 10)
        is_over = each.notebook.listen(cell, lambda cell: len(cell.text()) >= after)
        each.server.process.kill()
        each.server.process.wait()
        until(lambda: not each.process.is_running())  # it sees that its server is gone
        if is_over or each.notebook.take_rest(cell):
            return outcome_of(cell.messages)
    with served(scene) as each:
        attached = each.notebook.run("%gpu attach")
        return outcome_of(of_run(attached, number))
