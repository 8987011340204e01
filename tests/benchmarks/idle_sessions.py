"""What sessions cost an agent in which nothing happens: CPU time and memory of its process, with many of them.

Their kernels are blank: a process that sleeps, and one program that answers for all of them. What is measured is the
agent's own: registry, leases, journals, sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import zmq

from benchmarks.measurement import Row, Timing
from benchmarks.workplace import agent_process, workplace
from nbgpu.client.embedded import ensure_agent
from nbgpu.client.pool import Pool
from nbgpu_protocol.v1 import pool_pb2

MEBIBYTE = 1 << 20
_AT_ONCE = 10
_SETTLE_S = 8.0


def run(*, rounds: int = 3, sessions: int = 200, window_s: float = 10.0) -> Sequence[Row]:
    """Measures for `window_s` seconds a round; memory stands as seconds, one a MiB, so that it fits in the table."""
    with workplace(spare_kernels=0) as folder, blank_kernels(folder) as python:
        return asyncio.run(_run(rounds, sessions, window_s, python))


async def _run(rounds: int, sessions: int, window_s: float, python: Path) -> Sequence[Row]:
    record = await ensure_agent()
    async with Pool(record.address, record.token) as pool:
        await _open(pool, python, "first")  # what is loaded for the first session is not counted
        await asyncio.sleep(_SETTLE_S)
        process = await asyncio.to_thread(agent_process)
        alone_cpu = await _cpu(process, rounds, window_s)
        alone_bytes = process.memory_full_info().uss
        for start in range(0, sessions, _AT_ONCE):
            await asyncio.gather(
                *(_open(pool, python, f"n{number}") for number in range(start, min(start + _AT_ONCE, sessions)))
            )
        await asyncio.sleep(_SETTLE_S)
        cpu = await _cpu(process, rounds, window_s)
        each_bytes = max(process.memory_full_info().uss - alone_bytes, 1) / sessions
    return [
        Row(f"CPU of the agent, {sessions} idle sessions", cpu, "time", Timing((window_s,) * rounds), 0.01),
        Row("CPU of the agent, one idle session", alone_cpu, "time", Timing((window_s,) * rounds), None),
        Row(
            "memory of the agent for each, s for MiB",
            Timing((each_bytes / MEBIBYTE,)),
            "1 MiB",
            Timing((1.0,)),
            1.0,
        ),
    ]


async def _cpu(process: psutil.Process, rounds: int, window_s: float) -> Timing:
    taken = []
    for _ in range(rounds):
        before = sum(process.cpu_times()[:2])
        await asyncio.sleep(window_s)
        taken.append(max(sum(process.cpu_times()[:2]) - before, 1e-4))
    return Timing(tuple(taken))


async def _open(pool: Pool, python: Path, notebook_id: str) -> None:
    spec = pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="CPU", count=1)], text="CPU")
    request = pool_pb2.OpenSessionRequest(spec=spec, notebook_id=notebook_id, python=str(python))
    async with contextlib.aclosing(pool.open_session(request)) as updates:
        *_, last = [update async for update in updates]
    assert last.phase == pool_pb2.READY, last


@contextlib.contextmanager
def blank_kernels(folder: Path) -> Iterator[Path]:
    """Gives an interpreter of which every kernel is blank."""
    fifo, python = folder / "started", folder / "blank"
    os.mkfifo(fifo)
    python.write_text(f'#!/bin/sh\necho "$3" > {fifo}\nexec sleep 100000\n')
    python.chmod(stat.S_IRWXU)
    answering = threading.Thread(target=_answer_for_all, args=(fifo,), daemon=True)
    answering.start()
    try:
        yield python
    finally:
        with open(fifo, "w") as file:
            file.write("end\n")
        answering.join()


def _answer_for_all(fifo: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 10_000)
    outputs: dict[object, zmq.Socket[bytes]] = {}
    silent: list[zmq.Socket[bytes]] = []
    poller = zmq.Poller()
    started = os.open(fifo, os.O_RDWR)
    poller.register(started, zmq.POLLIN)
    try:
        while True:
            for ready, _ in poller.poll():
                if ready == started:
                    for path in os.read(started, 4096).decode().splitlines():
                        if path == "end":
                            return
                        shell, output, *others = _bind(context, json.loads(Path(path).read_text()))
                        outputs[shell] = output
                        silent += others  # which a socket that nobody refers to would close
                        poller.register(shell, zmq.POLLIN)
                elif isinstance(ready, zmq.Socket):
                    _answer(ready, outputs[ready])
    finally:
        os.close(started)
        context.destroy(linger=0)


def _bind(context: zmq.Context[zmq.Socket[bytes]], connection: dict[str, str]) -> list[zmq.Socket[bytes]]:
    """Returns the shell's socket, that of the output, and the others."""
    sockets = []
    for name, kind in (("shell", zmq.ROUTER), ("iopub", zmq.PUB), ("stdin", zmq.ROUTER), ("control", zmq.ROUTER)):
        socket = context.socket(kind)
        socket.bind(f"ipc://{connection['ip']}-{connection[f'{name}_port']}")
        sockets.append(socket)
    return sockets


def _answer(shell: zmq.Socket[bytes], output: zmq.Socket[bytes]) -> None:
    """Answers any request as done."""
    identity, _, _, header, *_ = shell.recv_multipart()
    content = {"status": "ok", "language_info": {"version": "3.11.0"}}
    kind = json.dumps({"msg_type": "reply", "msg_id": "m"}).encode()
    parts = [b"<IDS|MSG>", b"", kind, header, b"{}"]
    shell.send_multipart([identity, *parts, json.dumps(content).encode()])
    status = json.dumps({"msg_type": "status", "msg_id": "m"}).encode()
    output.send_multipart(
        [b"status", b"<IDS|MSG>", b"", status, header, b"{}", json.dumps({"execution_state": "idle"}).encode()]
    )
