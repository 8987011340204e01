"""`PYTHONPATH=tests python -m faults --repeat 20` prints what was lost and what was left behind, for each fault."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time

from agent_processes import workplace
from faults.notebooks import NOTEBOOK_FAULTS, notebook_in, run_killed, undisturbed_in
from faults.scenes import FAULTS, STDOUT, Outcome, Place, is_beginning, lost, run_cell, scene_in


async def repeat(name: str, times: int, seed: int) -> tuple[str, str, str, float]:
    """Runs one fault so many times; returns what was lost, what was left, the moments, and seconds a run."""
    moments = random.Random(seed)
    losses: list[str] = []
    began = time.monotonic()
    with workplace() as each:
        place = Place(each)
        place.start()
        async with scene_in(place) as scene:
            undisturbed = await run_cell(scene)
        for _ in range(times):
            async with scene_in(place) as scene:
                after = moments.randrange(len(STDOUT) * 9 // 10)
                outcome = await run_cell(scene, FAULTS[name], after)
                loss = judge(name, outcome, undisturbed)
                if loss:
                    losses.append(f"after {after}: {loss}")
        left = place.end()
    return (
        f"{len(losses)} of {times}" if losses else "nothing",
        "; ".join(losses),
        "; ".join(left) or "nothing",
        (time.monotonic() - began) / max(times, 1),
    )


async def repeat_notebook(name: str, times: int, seed: int) -> tuple[str, str, str, float]:
    """Runs one fault of a notebook's kernel so many times; returns what `repeat` does."""
    moments = random.Random(seed)
    losses: list[str] = []
    began = time.monotonic()
    with workplace() as each:
        place = Place(each)
        place.start()
        async with notebook_in(place) as scene:
            undisturbed = await undisturbed_in(scene)
            for number in range(times):
                loss = lost(await run_killed(scene, moments, NOTEBOOK_FAULTS[name]), undisturbed)
                if loss:
                    losses.append(f"run {number}: {loss}")
        left = place.end()
    return (
        f"{len(losses)} of {times}" if losses else "nothing",
        "; ".join(losses),
        "; ".join(left) or "nothing",
        (time.monotonic() - began) / max(times, 1),
    )


def judge(name: str, outcome: Outcome, undisturbed: Outcome) -> str:
    """Returns what is wrong with the outcome, in words."""
    if name != "kernel killed":
        return lost(outcome, undisturbed)
    if outcome.error != "KernelDiedError":
        return f"ended with {outcome.error or 'no error'}"
    return "" if is_beginning(outcome, undisturbed) else "what came is not how the output begins"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="runs of each fault")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    names = [*FAULTS, *NOTEBOOK_FAULTS]
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(names)}; by default all")
    options = parser.parse_args()
    print(f"{'fault':<27}{'runs':>5}{'s a run':>9}  {'lost':<12}left behind")
    failed = False
    for name in options.faults or names:
        run = repeat_notebook if name in NOTEBOOK_FAULTS else repeat
        summary, losses, left, seconds = asyncio.run(run(name, options.repeat, options.seed))
        print(f"{name:<27}{options.repeat:>5}{seconds:>9.1f}  {summary:<12}{left}", flush=True)
        if losses:
            print(f"    {losses}", flush=True)
        failed = failed or bool(losses) or left != "nothing"
    return failed


if __name__ == "__main__":
    sys.exit(main())
