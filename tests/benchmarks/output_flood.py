"""Many lines and large displays through `%%gpu` against a local kernel, every byte compared.

The limit of the displays, on two cores: the session's kernel encodes as a plain one does, in which it takes three
quarters of the time. The notebook's kernel, which has to sign again, and the agent work beside it, on what the cores
have left beside the front end: 0.4 s and 0.25 s for 200 MB.

The journal is held against an agent that writes nothing to disk, and whose sessions end with it. What both do is to
number the messages and to hold them in memory, from which every client is served. On cores that others use as well the
CPU time of all processes says it best, the kernels' and the front end's among them: where all cores are busy, it is the
throughput.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import psutil

from benchmarks.front_end import Cell, FrontEnd, notebook_kernel
from benchmarks.measurement import Row, measure
from benchmarks.workplace import agent_process, workplace

JOURNAL_GOAL = 1.05
CELL_OUTPUT = "off"
"""By default a cell shows 64 MB."""
PRINT_LINES = """
for number in range({lines}):
    print("line", number)
"""
DISPLAY = """
from IPython.display import display
for number in range({count}):
    display({{"text/plain": f"{{number:07d}} " * ({size_bytes} // 8)}}, raw=True)
"""


class LostOutputError(AssertionError):
    """Raised when output is not what the cell wrote."""


def check_lines(cell: Cell, lines: int) -> None:
    expected = "".join(f"line {number}\n" for number in range(lines))
    got = "".join(cell.stdout)
    if got != expected:
        raise LostOutputError(f"{len(expected)} characters were printed, {len(got)} other ones came")


def check_displays(cell: Cell, count: int, size_bytes: int) -> None:
    if len(cell.displays) != count:
        raise LostOutputError(f"{count} displays were sent, {len(cell.displays)} came")
    for number, data in enumerate(cell.displays):
        if data != {"text/plain": f"{number:07d} " * (size_bytes // 8)}:
            raise LostOutputError(f"display {number} is not what was sent")


def print_lines(front_end: FrontEnd, prefix: str, lines: int) -> float:
    """Prints the lines in the kernel; returns the seconds that it took."""
    cell = front_end.execute(prefix + PRINT_LINES.format(lines=lines))
    check_lines(cell, lines)
    return cell.took_s


def send_displays(front_end: FrontEnd, prefix: str, count: int, size_bytes: int) -> float:
    """Displays text in the kernel; returns the seconds that it took."""
    cell = front_end.execute(prefix + DISPLAY.format(count=count, size_bytes=size_bytes))
    check_displays(cell, count, size_bytes)
    return cell.took_s


def cpu_of_displays(front_end: FrontEnd, processes: Sequence[psutil.Process], count: int, size_bytes: int) -> float:
    """Sends the displays through a session; returns the seconds of CPU that these processes and their children took."""
    before_s = _cpu_s(processes)
    send_displays(front_end, "%%gpu\n", count, size_bytes)
    return max(_cpu_s(processes) - before_s, 1e-3)


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    taken_s = 0.0
    for each in processes:
        for process in (each, *each.children(recursive=True)):
            taken = process.cpu_times()
            taken_s += taken.user + taken.system
    return taken_s


def run(*, rounds: int = 5, lines: int = 20_000, count: int = 200, size_bytes: int = 1_000_000) -> Sequence[Row]:
    with (
        workplace(cell_output=CELL_OUTPUT),
        notebook_kernel(nbgpu=False) as plain,
        notebook_kernel(nbgpu=True) as with_nbgpu,
        contextlib.nullcontext(agent_process()) as agent,
        workplace(cell_output=CELL_OUTPUT, adoption_grace_s=0),
        notebook_kernel(nbgpu=True) as without_journal,
    ):
        this, agent_without_journal = psutil.Process(), agent_process()
        printed = measure(
            {
                "plain": lambda: print_lines(plain, "", lines),
                "gpu": lambda: print_lines(with_nbgpu, "%%gpu\n", lines),
                "off": lambda: print_lines(without_journal, "%%gpu\n", lines),
            },
            rounds=rounds,
        )
        displayed = measure(
            {
                "plain": lambda: send_displays(plain, "", count, size_bytes),
                "gpu": lambda: send_displays(with_nbgpu, "%%gpu\n", count, size_bytes),
                "off": lambda: send_displays(without_journal, "%%gpu\n", count, size_bytes),
            },
            rounds=rounds,
        )
        computing = measure(
            {
                "gpu": lambda: cpu_of_displays(with_nbgpu, [this, agent], count, size_bytes),
                "off": lambda: cpu_of_displays(without_journal, [this, agent_without_journal], count, size_bytes),
            },
            rounds=rounds,
        )
    size = f"{count * size_bytes / 1e6:g} MB"
    return [
        Row(f"{lines:,} printed lines in `%%gpu`", printed["gpu"], "local cell", printed["plain"], 1.3),
        Row("the same, with the journal on disk", printed["gpu"], "without", printed["off"], JOURNAL_GOAL),
        Row(f"{size} of displays in `%%gpu`", displayed["gpu"], "local cell", displayed["plain"], 1.3),
        Row("the same, with the journal on disk", displayed["gpu"], "without", displayed["off"], JOURNAL_GOAL),
        Row("… CPU of all processes", computing["gpu"], "without", computing["off"], JOURNAL_GOAL),
    ]
