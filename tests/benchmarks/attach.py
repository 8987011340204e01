"""From a click on *Attach* to a session that is ready, as the page is told, against `%gpu attach` for the same."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
import uuid
from collections.abc import Sequence
from typing import Any

from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from benchmarks.front_end import started_kernel
from benchmarks.measurement import Row, measure
from benchmarks.workplace import wait_until_settled, workplace
from jupyter_servers import JupyterServer, run_jupyter_server

ALLOWED_OVER_S = 0.15
"""What a click may take longer than the magic."""
_EXTENSION = '--ServerApp.jpserver_extensions={"nbgpu.server": True}'


def run(*, rounds: int = 7) -> Sequence[Row]:
    with workplace(spare_kernels=1) as folder:
        environ = {"NBGPU_AGENT_DIR": os.environ["NBGPU_AGENT_DIR"], "NBGPU_SIMULATE": "H100x1"}
        environ["JUPYTER_CONFIG_DIR"] = os.environ["JUPYTER_CONFIG_DIR"]
        running = run_jupyter_server(folder / "server", environ, arguments=[_EXTENSION])
        with running as server, started_kernel() as (notebook, _):
            notebook.execute("%load_ext nbgpu")
            notebook.execute("%gpu offers")

            def magic() -> float:
                wait_until_settled(kernels=1)
                took_s = notebook.execute("%gpu attach H100 --new").took_s
                notebook.execute("%gpu close")
                return took_s

            def click() -> float:
                wait_until_settled(kernels=1)
                return asyncio.run(_click(server))

            magic(), click()  # whatever is compiled or cached once
            timings = measure({"click": click, "magic": magic}, rounds=rounds)
    goal = 1 + ALLOWED_OVER_S / timings["magic"].best_s
    return [Row("attach by a click", timings["click"], "`%gpu attach`", timings["magic"], round(goal, 2))]


async def _click(server: JupyterServer) -> float:
    """Opens a session and closes it again; returns the seconds until the page was told that it is ready."""
    url = f"{server.url.replace('http', 'ws', 1)}nbgpu/api/events"
    page = await websocket_connect(HTTPRequest(url, headers={"Authorization": f"token {server.token}"}))
    await _until(page, lambda pool: pool["link"] == "connected")
    notebook_id = uuid.uuid4().hex
    began_s = time.perf_counter()
    await asyncio.to_thread(_call, server, "POST", "sessions", {"spec": "H100", "notebook_id": notebook_id})

    def ready(pool: Any) -> Any:
        mine = [each for each in pool["sessions"] if each["notebook_id"] == notebook_id and each["phase"] == "ready"]
        return mine[0]["id"] if mine else None

    session_id = await _until(page, ready)
    took_s = time.perf_counter() - began_s
    await asyncio.to_thread(_call, server, "DELETE", f"sessions/{session_id}")
    page.close()
    while await page.read_message() is not None:  # until the socket is closed
        pass
    return took_s


async def _until(page: WebSocketClientConnection, condition: Any) -> Any:
    while (text := await page.read_message()) is not None:
        message = json.loads(text)
        if message["kind"] == "state" and (found := condition(message["pools"][0])):
            return found
    raise RuntimeError("the server closed the connection")


def _call(server: JupyterServer, method: str, path: str, body: Any = None) -> None:
    request = urllib.request.Request(
        f"{server.url}nbgpu/api/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"token {server.token}"},
    )
    with urllib.request.urlopen(request, timeout=60):
        pass
