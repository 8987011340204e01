"""The first `%%gpu` of a notebook, the agent running, against the start of an ipykernel."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.front_end import started_kernel
from benchmarks.measurement import Row, Timing, measure
from benchmarks.workplace import wait_until_settled, workplace


def start_ipykernel() -> float:
    """Starts a kernel; returns the seconds to the reply of its first cell."""
    with started_kernel() as (_, took_s):
        return took_s


def first_cell(spare_kernels: int) -> float:
    """Executes a new notebook's first `%%gpu` cell; returns the seconds that it took."""
    with started_kernel() as (notebook, _):
        notebook.execute("%load_ext nbgpu")
        notebook.execute("%gpu offers")  # starts the agent, if it does not run yet
        wait_until_settled(kernels=spare_kernels)
        took_s = notebook.execute("%%gpu CPU\npass").took_s
        notebook.execute("%gpu close")
        return took_s


def run_with(spare_kernels: int, rounds: int) -> dict[str, Timing]:
    with workplace(spare_kernels=spare_kernels):
        first_cell(spare_kernels)  # whatever is compiled or cached once
        return measure({"start": start_ipykernel, "first": lambda: first_cell(spare_kernels)}, rounds=rounds)


def run(*, rounds: int = 5) -> Sequence[Row]:
    without, with_spare = run_with(0, rounds), run_with(1, rounds)
    return [
        Row("first `%%gpu`, no spare kernel", without["first"], "start of an ipykernel", without["start"], 1.2),
        Row("first `%%gpu`, a spare kernel", with_spare["first"], "start of an ipykernel", with_spare["start"], 0.2),
    ]
