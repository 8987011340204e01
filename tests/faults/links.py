"""Links that are cut for a while: for a second, and for a minute, with many sessions at once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

from faults.scenes import CELL, STDOUT, Outcome, Place, Scene, run_cell, scene_in

MINUTE_S = 60.0
_GATE_LINE = 580
_LOOP = "for i in range(600):\n"


async def cut_for_a_second(scene: Scene) -> None:
    """Ends the connections, and refuses others for a second."""
    scene.link.take_down()
    await asyncio.sleep(1.0)
    scene.link.restore()


async def run_in_one_cut(place: Place, count: int, moments: random.Random, cut_s: float) -> list[tuple[Outcome, str]]:
    """Cuts the links of so many sessions at once, each at a moment of its own cell, all for the same time.

    Every other cell goes on once the links are back; the others are over by then.

    Returns:
        Of each session what came of it, and what its person was not told: empty, if they were told all.
    """
    gate = place.workplace.root / "gate"
    gate.unlink(missing_ok=True)
    down = asyncio.Semaphore(0)
    restored = asyncio.Event()

    async def cut(scene: Scene) -> None:
        scene.link.take_down()
        down.release()
        await restored.wait()

    async def run(scene: Scene, code: str, after: int) -> tuple[Outcome, str]:
        outcome = await run_cell(scene, cut, after, code)
        client = scene.notebook.client
        untold = [] if client.cuts else ["of the cut"]
        untold += [] if client.mended else ["that it is connected again"]
        return outcome, " and ".join(untold)

    async with contextlib.AsyncExitStack() as stack:
        scenes: Sequence[Scene] = [await stack.enter_async_context(scene_in(place, moments)) for _ in range(count)]
        running = [
            asyncio.create_task(
                run(each, waiting(gate) if number % 2 else CELL, moments.randrange(len(STDOUT) * 8 // 10))
            )
            for number, each in enumerate(scenes)
        ]
        for _ in scenes:
            await down.acquire()
        await asyncio.sleep(cut_s)
        for each in scenes:
            each.link.restore()
        restored.set()
        gate.touch()
        return list(await asyncio.gather(*running))


def waiting(gate: Path, line: int = _GATE_LINE, code: str = CELL) -> str:
    """Returns the cell, or code that was made of it, which waits for the gate before the line as well."""
    waits = f"    while i == {line} and not __import__('os').path.exists({str(gate)!r}): time.sleep(0.01)\n"
    return code.replace(_LOOP, _LOOP + waits)
