"""A `%%gpu` cell with `pass` against a plain one, and against ipyparallel's `%%px` with one engine.

The limit: a cell magic that asks the session's kernel itself, over its sockets and from the main thread, takes 1.6
times a plain cell, and 0.7 times `%%px`. That is two ipykernels one after the other. What is above it, 0.4 times a
plain cell, is the wire, on which a message and its answer take 0.5 ms where both sides have to be woken, the agent
between wire and kernel, and the two changes of thread in the notebook. Of a plain cell a fifth is ipykernel's waits for
flushes with nothing to flush; they are the notebook kernel's own, so they are left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from benchmarks.front_end import FrontEnd, notebook_kernel
from benchmarks.measurement import Row, measure
from benchmarks.workplace import workplace

START_ENGINE = """
import logging, warnings
import ipyparallel
warnings.simplefilter("ignore")
cluster = ipyparallel.Cluster(n=ENGINES, log_level=logging.ERROR)
client = cluster.start_and_connect_sync(activate=True)
"""


@contextlib.contextmanager
def ipyparallel_kernel(engines: int = 1) -> Iterator[FrontEnd]:
    """Yields a kernel with so many engines behind `%%px`."""
    with notebook_kernel(nbgpu=False) as front_end:
        front_end.execute(START_ENGINE.replace("ENGINES", str(engines)))
        try:
            yield front_end
        finally:
            front_end.execute("client.close(); cluster.stop_cluster_sync()")


def run(*, rounds: int = 7, repeats: int = 60) -> Sequence[Row]:
    with (
        workplace(),
        notebook_kernel(nbgpu=False) as plain,
        notebook_kernel(nbgpu=True) as with_nbgpu,
        ipyparallel_kernel() as with_engine,
    ):
        timings = measure(
            {
                "plain": lambda: plain.execute("pass").took_s,
                "gpu": lambda: with_nbgpu.execute("%%gpu\npass").took_s,
                "px": lambda: with_engine.execute("%%px\npass").took_s,
            },
            rounds=rounds,
            repeats=repeats,
        )
    return [
        Row("`%%gpu` cell with `pass`", timings["gpu"], "local cell", timings["plain"], 2.2),
        Row("`%%gpu` cell with `pass`", timings["gpu"], "`%%px`, one engine", timings["px"], 0.7),
    ]
