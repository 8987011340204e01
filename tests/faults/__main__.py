"""`PYTHONPATH=tests python -m faults --repeat 20` prints what was lost and what was left behind, for each fault."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agent_processes import workplace
from faults.kinds import FAULTS, judge, place_for, why_not
from faults.links import MINUTE_S, run_in_one_cut
from faults.network import DISTURBANCES, GONE, run_over_network
from faults.notebooks import NOTEBOOK_FAULTS, notebook_in, run_killed, undisturbed_in
from faults.ranks import ENVIRONMENT, ranks_in, run_killed_rank
from faults.scenes import STDOUT, Place, lost, run_cell, scene_in, without_code
from faults.servers import run_killed_server, servers_in


@dataclass
class Row:
    """What is printed of one fault."""

    times: int
    losses: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    told: int = 0
    """Runs of which something is missing, and that was said."""
    began_s: float = field(default_factory=time.monotonic)
    took_s: float = 0.0

    def end(self, left: list[str]) -> None:
        self.left = left
        self.took_s = (time.monotonic() - self.began_s) / max(self.times, 1)

    @property
    def summary(self) -> str:
        lost = f"{len(self.losses)} of {self.times}" if self.losses else "nothing"
        return f"{lost}, {self.told} said" if self.told else lost


async def repeat(name: str, times: int, seed: int) -> Row:
    """Runs one fault of a session so many times."""
    moments = random.Random(seed)
    row = Row(times)
    with workplace() as each:
        place = Place(each)
        with place_for(name, place):
            place.start()
            async with scene_in(place) as scene:
                undisturbed = await run_cell(scene)
            for _ in range(times):
                async with scene_in(place, moments) as scene:
                    after = moments.randrange(len(STDOUT) * 9 // 10)
                    outcome = await run_cell(scene, FAULTS[name], after)
                loss = judge(name, outcome, undisturbed)
                if loss:
                    row.losses.append(f"after {after}: {loss}")
                row.told += bool(outcome.dropped)
            row.end(place.end())
    return row


async def repeat_in_one_cut(name: str, times: int, seed: int) -> Row:
    """Cuts so many sessions off at once for a minute."""
    row = Row(times)
    with workplace() as each:
        place = Place(each, environment={"NBGPU_SIMULATE": f"H100x{max(times, 1)}"})
        place.start()
        async with scene_in(place) as scene:
            undisturbed = await run_cell(scene)
        for outcome, untold in await run_in_one_cut(place, times, random.Random(seed), MINUTE_S):
            loss = lost(without_code(outcome), without_code(undisturbed)) or (
                f"it was not told {untold}" if untold else ""
            )
            row.losses += [loss] if loss else []
        row.end(place.end())
    return row


async def repeat_notebook(name: str, times: int, seed: int) -> Row:
    """Runs one fault of a notebook's kernel so many times."""
    moments = random.Random(seed)
    row = Row(times)
    with workplace() as each:
        place = Place(each)
        place.start()
        async with notebook_in(place) as scene:
            undisturbed = await undisturbed_in(scene)
            for number in range(times):
                loss = lost(await run_killed(scene, moments, NOTEBOOK_FAULTS[name]), undisturbed)
                if loss:
                    row.losses.append(f"run {number}: {loss}")
        row.end(place.end())
    return row


async def repeat_over_network(name: str, times: int, seed: int) -> Row:
    """Disturbs a real network so many times, or once with so many sessions."""
    row = Row(times)
    found, left = await asyncio.to_thread(run_over_network, name, times, seed)
    row.losses += found.losses
    row.end(left)
    return row


async def repeat_server(name: str, times: int, seed: int) -> Row:
    """Kills a Jupyter server so many times."""
    moments = random.Random(seed)
    row = Row(times)
    with workplace() as each:
        place = Place(each)
        place.start()
        async with servers_in(place) as (scene, undisturbed):
            for number in range(times):
                outcome = await asyncio.to_thread(run_killed_server, scene, moments)
                if loss := lost(outcome, undisturbed):
                    row.losses.append(f"run {number}: {loss}")
        row.end(place.end())
    return row


async def repeat_ranks(name: str, times: int, seed: int) -> Row:
    """Kills a rank so many times."""
    moments = random.Random(seed)
    row = Row(times)
    with workplace() as each:
        place = Place(each, environment=ENVIRONMENT)
        place.start()
        async with ranks_in(place) as scene:
            for number in range(times):
                if loss := await asyncio.to_thread(run_killed_rank, scene, moments):
                    row.losses.append(f"run {number}: {loss}")
        row.end(place.end())
    return row


RUNS: dict[str, Callable[[str, int, int], Awaitable[Row]]] = {
    **dict.fromkeys(FAULTS, repeat),
    "link cut for 1 min": repeat_in_one_cut,
    **dict.fromkeys((*DISTURBANCES, GONE), repeat_over_network),
    **dict.fromkeys(NOTEBOOK_FAULTS, repeat_notebook),
    "Jupyter server killed": repeat_server,
    "rank killed": repeat_ranks,
}
"""How each fault is repeated, by its name."""


async def run(name: str, times: int, seed: int) -> Row:
    return await RUNS[name](name, times, seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="runs of each fault")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(RUNS)}; by default all")
    options = parser.parse_args()
    print(f"{'fault':<28}{'runs':>5}{'s a run':>9}  {'lost':<18}left behind")
    failed = False
    for name in options.faults or RUNS:
        if why := why_not(name):
            print(f"{name:<28}{'none':>5}: {why}", flush=True)
            continue
        row = asyncio.run(run(name, options.repeat, options.seed))
        left = "; ".join(row.left) or "nothing"
        print(f"{name:<28}{row.times:>5}{row.took_s:>9.1f}  {row.summary:<18}{left}", flush=True)
        if row.losses:
            print(f"    {'; '.join(row.losses)}", flush=True)
        failed = failed or bool(row.losses or row.left)
    return failed


if __name__ == "__main__":
    sys.exit(main())
