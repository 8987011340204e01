"""An array that a `%%gpu` cell reads, on this machine and over TCP, against what can be had at best.

The limit over loopback TCP is a stream of raw bytes over gRPC from one Python to another, with the same chunks: each
side has one core busy with it, at 0.7 to 1.2 GB/s. What we add is a hash on either side (xxh3, 16 GB/s), which says
whether the agent has the content already and whether it came whole, and on the agent's side the writing of a file, in a
thread beside the receiving: where no third core is free for it, as on the machine that this was written on, that is
what the gap consists of. On one machine the limit is a copy in memory: the array is written to a file that is mapped.
An array that has not changed is hashed, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash

from benchmarks.cell_latency import ipyparallel_kernel
from benchmarks.front_end import FrontEnd, notebook_kernel
from benchmarks.measurement import Row, measure
from benchmarks.workplace import workplace
from nbgpu_protocol.blobs import CHUNK_BYTES

MAKE = "import numpy as np\narray = np.random.default_rng(0).random({length})"
CHANGE = "array[0] += 1"
NOTE = "array.shape"
BARE_SERVER = """
import asyncio, grpc
async def put(chunks, context):
    async for chunk in chunks:
        pass
    return b""
async def main():
    server = grpc.aio.server()
    handlers = {"Put": grpc.stream_unary_rpc_method_handler(put)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bare", handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()
asyncio.run(main())
"""
BARE_CLIENT = """
import asyncio, time, grpc
async def stream(port, content, chunk_bytes):
    async def chunks():
        for start in range(0, len(content), chunk_bytes):
            yield bytes(content[start : start + chunk_bytes])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        start = time.perf_counter()
        await channel.stream_unary("/Bare/Put")(chunks())
        return time.perf_counter() - start
"""
DASK = """
from distributed import Client, LocalCluster
dask_cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0)
dask = Client(dask_cluster)
"""


def send_changed(front_end: FrontEnd, cell: str) -> float:
    """Changes the array, and sends it; returns the seconds that the sending took."""
    front_end.execute(CHANGE)
    return front_end.execute(cell).took_s


def hash_array(array: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    start = time.perf_counter()
    xxhash.xxh3_128(array.data).digest()
    return time.perf_counter() - start


def copy_array(array: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    start = time.perf_counter()
    array.copy()
    return time.perf_counter() - start


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[str]:
    """Yields the first line that a Python process prints, and ends it in the end."""
    command = [sys.executable, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline()
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


@contextlib.contextmanager
def _distant_notebook(folder: Path) -> Iterator[FrontEnd]:
    """Yields a notebook kernel whose sessions are an agent's that it reaches by TCP."""
    with _process("-m", "nbgpu_agent", "--listen=127.0.0.1:0", f"--folder={folder}") as line:
        variables = dict(word.split("=", 1) for word in line.removeprefix("export ").split())
        before = dict(os.environ)
        os.environ.update(variables, NBGPU_SNAPSHOT="0")  # no environment is built, which is another benchmark's
        try:
            with notebook_kernel(nbgpu=True) as front_end:
                yield front_end
        finally:
            for name in (*variables, "NBGPU_SNAPSHOT"):
                os.environ.pop(name)
            os.environ.update(before)


def stream_bare(front_end: FrontEnd, port: str) -> float:
    """Streams the array of a plain notebook kernel over gRPC; returns the seconds that it took."""
    front_end.execute(CHANGE)
    code = f"took_s = await stream({port}, memoryview(array).cast('B'), {CHUNK_BYTES})"
    return front_end.execute(code).took_s


def run(*, rounds: int = 5, size_bytes: int = 1 << 30) -> Sequence[Row]:
    array = np.random.default_rng(0).random(size_bytes // 8)
    with (
        workplace() as folder,
        notebook_kernel(nbgpu=True) as notebook,
        _distant_notebook(folder / "distant") as distant,
        ipyparallel_kernel() as with_engine,
        _process("-c", BARE_SERVER) as port,
    ):
        for front_end in (notebook, distant, with_engine):
            front_end.execute(MAKE.format(length=size_bytes // 8))
        with_engine.execute(BARE_CLIENT)
        with_engine.execute(DASK)
        for front_end in (notebook, distant):
            front_end.execute(f"%%gpu -i array\n{NOTE}")
        timings = measure(
            {
                "gpu": lambda: send_changed(notebook, f"%%gpu\n{NOTE}"),
                "tcp": lambda: send_changed(distant, f"%%gpu\n{NOTE}"),
                "bare": lambda: stream_bare(with_engine, port.strip()),
                "push": lambda: send_changed(with_engine, "client[0].push({'array': array}, block=True)"),
                "scatter": lambda: send_changed(with_engine, "kept = dask.scatter(array)"),
                "unchanged": lambda: notebook.execute(f"%%gpu\n{NOTE}").took_s,
                "hash": lambda: hash_array(array),
                "copy": lambda: copy_array(array),
            },
            rounds=rounds,
        )
        with_engine.execute("del kept; dask.close(); dask_cluster.close()")
    size = f"{size_bytes / 1e6:.0f} MB"
    return [
        Row(f"{size} array read by a `%%gpu` cell over TCP", timings["tcp"], "bare gRPC stream", timings["bare"], 1.25),
        Row("the same", timings["tcp"], "ipyparallel's push", timings["push"], 0.5),
        Row("the same", timings["tcp"], "Dask's scatter", timings["scatter"], 0.5),
        Row(f"{size} array read by a `%%gpu` cell here", timings["gpu"], "ipyparallel's push", timings["push"], 0.5),
        Row("the same", timings["gpu"], "a copy in memory", timings["copy"], 2),
        Row("the same, unchanged since", timings["unchanged"], "its xxh3, one thread", timings["hash"], 1.1),
    ]
