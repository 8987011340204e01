"""How soon a session's output goes on once the link to its agent is there again, in round trips of that link.

The link is a proxy that delays everything, and that refuses who connects while it is down. Two round trips are gRPC's:
one until the connection stands, one until the answer to the request for what was missed comes. What is left of the
three is for noticing that the link is there: the client tries again ever so often. A TCP handshake, which the proxy
answers at once, takes one more on a real link.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from agent_processes import workplace
from benchmarks.measurement import Row, Timing
from recorded_sessions import RunningAgent, notebook_on, until

GOAL_ROUND_TRIPS = 3.0
_TICKING = """
import pathlib, time
until = pathlib.Path({until!r})
print("begins", flush=True)
while not until.exists():
    print("tick", flush=True)
    time.sleep(0.05)
"""


def run(*, rounds: int = 9, delay_s: float = 0.1, down_s: float = 4.0) -> Sequence[Row]:
    """Takes the link down for `down_s` and a little longer each round; everything takes `delay_s` in each direction."""
    with workplace() as place, tempfile.TemporaryDirectory(prefix="nbgpu-bench-") as folder:
        process, address, token = place.start_listening()
        agent = RunningAgent(int(address.rpartition(":")[2]), token)
        taken = asyncio.run(_measure(agent, Path(folder), rounds, delay_s, down_s))
        place.end(process)
    what = f"first missed output after a link of {2000 * delay_s:g} ms is there again"
    round_trip = Timing((2 * delay_s,))
    # The quickest round says little here: what differs is how soon an attempt followed.
    return [
        Row(f"{what}, median", Timing((statistics.median(taken),)), "its round trip", round_trip, GOAL_ROUND_TRIPS),
        Row(f"{what}, slowest of {rounds}", Timing((max(taken),)), "its round trip", round_trip, None),
    ]


async def _measure(agent: RunningAgent, folder: Path, rounds: int, delay_s: float, down_s: float) -> list[float]:
    taken = []
    async with notebook_on(agent) as notebook:
        for number in range(rounds):
            ended = folder / str(number)
            request, recorder = await notebook.send(_TICKING.format(until=str(ended)))
            await until(lambda recorder=recorder: recorder.text)  # type: ignore[misc]
            notebook.link.delay_s = delay_s
            cuts = notebook.client.cuts
            notebook.link.take_down()
            await until(lambda cuts=cuts: notebook.client.cuts > cuts)  # type: ignore[misc]
            # Each time at another moment between two attempts of the client.
            await asyncio.sleep(down_s * (1 + 0.1 * number / rounds))
            shown = len(recorder.text)
            notebook.link.restore()
            restored_s = time.perf_counter()
            await until(lambda recorder=recorder, shown=shown: len(recorder.text) > shown)  # type: ignore[misc]
            taken.append(time.perf_counter() - restored_s)
            notebook.link.delay_s = 0.0
            ended.touch()
            await notebook.answer(request)
    return taken
