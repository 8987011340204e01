"""A cell on every rank of a session: against one on one rank, against ipyparallel's `%%px`, and with a large value."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.cell_latency import ipyparallel_kernel
from benchmarks.front_end import FrontEnd, started_kernel
from benchmarks.measurement import Row, measure
from benchmarks.workplace import workplace


def _pass(notebook: FrontEnd, line: str) -> float:
    return notebook.execute(f"{line}\npass").took_s


def _send(notebook: FrontEnd, line: str, size_bytes: int, fills: Iterator[int]) -> float:
    """Has a cell read a new array."""
    notebook.execute(f"import numpy\narray = numpy.full({size_bytes}, {next(fills) % 256}, numpy.uint8)")
    return notebook.execute(f"{line}\nassert array[0] == array[-1]").took_s


def run(*, rounds: int = 5, repeats: int = 10, ranks: int = 8, size_bytes: int = 256 << 20) -> Sequence[Row]:
    every, one = f"%%gpu H100x{ranks} --spmd", "%%gpu A10 --spmd"
    fills = itertools.count(1)
    with workplace():
        os.environ["NBGPU_SIMULATE"] = f"H100x{ranks},A10x1"
        with started_kernel() as (notebook, _), ipyparallel_kernel(engines=ranks) as with_engines:
            notebook.execute("%load_ext nbgpu")
            ways = {
                "every": partial(_pass, notebook, every),
                "one": partial(_pass, notebook, one),
                "px": partial(_pass, with_engines, "%%px"),
            }
            for way in ways.values():
                way()  # makes the ranks
            passes = measure(ways, rounds=rounds, repeats=repeats)
            sends = measure(
                {
                    "every": partial(_send, notebook, every, size_bytes, fills),
                    "one": partial(_send, notebook, one, size_bytes, fills),
                },
                rounds=rounds,
            )
            notebook.execute(f"%gpu attach H100x{ranks}\n%gpu close")
            notebook.execute("%gpu attach A10x1\n%gpu close")
    what, size = f"`%%gpu --spmd` with `pass`, {ranks} ranks", f"{size_bytes >> 20} MiB"
    return [
        Row(what, passes["every"], "the same on 1 rank", passes["one"], 2.0),
        Row(what, passes["every"], f"ipyparallel's `%%px`, {ranks} engines", passes["px"], 1.0),
        Row(f"{size} array read by {ranks} ranks", sends["every"], "by 1 rank", sends["one"], 1.5),
    ]
