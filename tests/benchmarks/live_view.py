"""What watching costs: CPU time of the Jupyter server and of the agent, 8 GPUs at 1 Hz, with many pages open."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psutil
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from benchmarks.measurement import Row, Timing
from jupyter_servers import JupyterServer, run_jupyter_server
from nbgpu.client.embedded import find_agent
from nbgpu.client.pool import Pool
from nbgpu_protocol.v1 import pool_pb2

GPUS = 8
SETTLE_S = 3.0
_EXTENSION = '--ServerApp.jpserver_extensions={"nbgpu.server": True}'


def run(*, rounds: int = 3, pages: int = 10, window_s: float = 20.0) -> Sequence[Row]:
    """Measures for `window_s` seconds a round; the reference is the time that went by, so that a ratio is a share."""
    return asyncio.run(_run(rounds, pages, window_s))


async def _run(rounds: int, pages: int, window_s: float) -> Sequence[Row]:
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        environ = {"NBGPU_SIMULATE": f"H100x{GPUS}"}
        with run_jupyter_server(Path(name), environ, arguments=[_EXTENSION]) as server:
            await asyncio.to_thread(_start_agent, server)
            record = await find_agent(server.agent_folder)
            assert record is not None
            async with Pool(record.address, record.token) as pool:
                try:
                    await _hold_everything(pool)
                    processes = {"server": psutil.Process(server.process.pid), "agent": psutil.Process(record.pid)}
                    alone = await _measure(processes, rounds, window_s)
                    async with _open_pages(server, pages):
                        watched = await _measure(processes, rounds, window_s)
                finally:
                    await pool.shut_down(close_sessions=True)
            await asyncio.to_thread(psutil.Process(record.pid).wait, 60)
    wall = Timing((window_s,) * rounds)
    return [
        Row(f"CPU of the Jupyter server, {pages} pages", watched["server"], "time", wall, 0.02),
        Row("CPU of the Jupyter server, no page", alone["server"], "time", wall, None),
        Row(f"CPU of the agent, {GPUS} GPUs at 1 Hz, unwatched", alone["agent"], "time", wall, 0.005),
        Row(f"CPU of the agent, {pages} pages", watched["agent"], "time", wall, None),
    ]


def _start_agent(server: JupyterServer) -> None:
    request = urllib.request.Request(f"{server.url}nbgpu/api/state", headers=_authorization(server))
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["pools"][0]["link"] == "connected"


async def _hold_everything(pool: Pool) -> None:
    """Opens a session on all GPUs: those that are held cost the most, for the processes behind them are read."""
    wanted = pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="H100", count=GPUS)], text=f"H100x{GPUS}")
    request = pool_pb2.OpenSessionRequest(spec=wanted, notebook_id="benchmark")
    async with contextlib.aclosing(pool.open_session(request)) as updates:
        async for _ in updates:
            pass


@contextlib.asynccontextmanager
async def _open_pages(server: JupyterServer, count: int) -> AsyncIterator[None]:
    url = f"{server.url.replace('http', 'ws', 1)}nbgpu/api/events?samples_s=60"
    pages = [await websocket_connect(HTTPRequest(url, headers=_authorization(server))) for _ in range(count)]
    readings = [0] * count

    async def read(number: int) -> None:
        while (message := await pages[number].read_message()) is not None:
            readings[number] += '"samples"' in str(message)[:20]

    readers = [asyncio.create_task(read(number)) for number in range(count)]
    try:
        yield
        assert min(readings) > 0, "a page got no samples"
    finally:
        for page in pages:
            page.close()
        await asyncio.gather(*readers)


async def _measure(processes: dict[str, psutil.Process], rounds: int, window_s: float) -> dict[str, Timing]:
    await asyncio.sleep(SETTLE_S)
    spent: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        before = {name: _cpu_s(process) for name, process in processes.items()}
        await asyncio.sleep(window_s)
        for name, process in processes.items():
            spent[name].append(max(_cpu_s(process) - before[name], 1e-3))  # the clock ticks in hundredths
    return {name: Timing(tuple(values)) for name, values in spent.items()}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _authorization(server: JupyterServer) -> dict[str, str]:
    return {"Authorization": f"token {server.token}"}
