"""A cell on every rank of a session: against one on one rank, against ipyparallel's `%%px`, and with a large value.

That is sent once, and in memory once for all ranks until one writes to its own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.cell_latency import ipyparallel_kernel
from benchmarks.front_end import FrontEnd, started_kernel
from benchmarks.measurement import Row, Timing, measure
from benchmarks.workplace import agent_process, workplace

MEBIBYTE = 1 << 20


def _pass(notebook: FrontEnd, line: str) -> float:
    return notebook.execute(f"{line}\npass").took_s


def _send(notebook: FrontEnd, line: str, size_bytes: int, fills: Iterator[int]) -> float:
    """Has a cell read a new array."""
    notebook.execute(f"import numpy\narray = numpy.full({size_bytes}, {next(fills) % 256}, numpy.uint8)")
    return notebook.execute(f"{line}\nassert array[0] == array[-1]").took_s


def _memory(notebook: FrontEnd, line: str, size_bytes: int) -> tuple[Timing, Timing]:
    """Returns by how many MiB the ranks grow that read an array, all together, and when one has written to it.

    They stand as seconds. What several have in common is counted once, as each has its part of it (Pss).
    """
    notebook.execute(f"{line}\nimport os, numpy")
    before = _pss_bytes()
    notebook.execute(f"import numpy\nnew = numpy.full({size_bytes}, 3, numpy.uint8)")
    notebook.execute(f"{line}\nassert new.sum() == {3 * size_bytes}")
    read = _pss_bytes() - before
    notebook.execute(f"{line}\nif os.environ['RANK'] == '1':\n    new[:] = 4")
    written = _pss_bytes() - before
    return Timing((read / MEBIBYTE,)), Timing((written / MEBIBYTE,))


def _pss_bytes() -> int:
    """Returns what all processes of the sessions that have ranks take of the memory."""
    found = agent_process().children(recursive=True)
    launchers = {each.ppid() for each in found if "--resident-ranks" in each.cmdline()}
    total = 0
    for kernel in [each for each in found if each.pid in launchers and "--resident-ranks" not in each.cmdline()]:
        for process in [kernel, *kernel.children(recursive=True)]:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


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
            read, written = _memory(notebook, every, size_bytes)
            notebook.execute(f"%gpu attach H100x{ranks}\n%gpu close")
            notebook.execute("%gpu attach A10x1\n%gpu close")
    array = Timing((size_bytes / MEBIBYTE,))
    what, size = f"`%%gpu --spmd` with `pass`, {ranks} ranks", f"{size_bytes // MEBIBYTE} MiB"
    return [
        Row(what, passes["every"], "the same on 1 rank", passes["one"], 2.0),
        Row(what, passes["every"], f"ipyparallel's `%%px`, {ranks} engines", passes["px"], 1.0),
        Row(f"{size} array read by {ranks} ranks", sends["every"], "by 1 rank", sends["one"], 1.5),
        Row(f"memory of {ranks} ranks that read it, s for MiB", read, "the array's", array, 1.1),
        Row(f"memory of {ranks} ranks, of which one wrote it", written, "the array's", array, 2.2),
    ]
