"""A network between a client and an agent, in namespaces of Linux, over a cable that is slow, lossy, or dead."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from agent_processes import DEADLINE_S, KEPT, until, workplace
from fakes.cable import Cable, Quality, ask
from fakes.link import Link
from faults.links import waiting
from faults.scenes import STDOUT, Outcome, lost, run_cell, session_of, without_code
from nbgpu.client.discovery import connect
from network_namespaces import ADDRESSES, inside, two_namespaces, why_no_namespaces
from recorded_sessions import Notebook
from secured_agents import Machine

DISTURBANCES = {
    "network 300 ms": Quality(delay_s=0.15),
    "network loses 1 %": Quality(loss=0.01),
}
"""What the cable is like in each direction, by name."""
GONE = "network gone for 1 min"
DARK_S = 60.0
_POOL = "lab"
_OTHER_LINES = (50, 550)


@dataclass(frozen=True)
class Found:
    """What came of the runs on the client's machine."""

    losses: list[str]
    runs: int


@dataclass(frozen=True)
class NetworkScene:
    """A session over the network."""

    notebook: Notebook


def why_no_network() -> str:
    """Returns why there can be no such network; empty: there can."""
    return why_no_namespaces() or ("" if Path("/dev/net/tun").exists() else "there is no /dev/net/tun")


def run_over_network(name: str, times: int, seed: int, dark_s: float = DARK_S) -> tuple[Found, list[str]]:
    """Runs a disturbance so many times; returns what came of it, and what was left behind, in words."""
    with workplace() as place, _cabled(place.root / "cable") as (there, here):
        gpu = Machine(place.root / "gpu", {"NBGPU_SIMULATE": f"H100x{times + 1}"}, inside(there))
        person = Machine(place.root / "person", prefix=inside(here))
        folder = place.root / "agent"
        made = gpu.nbgpu("agent", "init", f"--name={_POOL}", f"--address={ADDRESSES[0]}:7443", "--user=person")
        assert made.returncode == 0, made.stderr
        agent = gpu.start("-m", "nbgpu", "agent", "serve", "--listen=0.0.0.0:7443", f"--folder={folder}")
        try:
            assert agent.stdout is not None
            assert agent.stdout.readline(), "the agent did not start"
            paired = person.paste(made.stdout.strip())
            assert paired.returncode == 0, paired.stderr
            options = [name, str(times), str(seed), str(dark_s), str(place.root / "cable")]
            with _started(person, "-m", "faults.network", *options) as client:
                output, _ = client.communicate(timeout=60 * (times + 10))
            assert client.returncode == 0, f"the client ended with exit code {client.returncode}"
            found = Found(**json.loads(output.splitlines()[-1]))
        finally:
            agent.terminate()
            agent.communicate(timeout=DEADLINE_S)
        homes = {str(gpu.home), str(person.home)}
        with contextlib.suppress(AssertionError):
            until(lambda: not _processes_of(homes))
        left = [f"process {each.pid}" for each in _processes_of(homes)]
        return found, left + sorted({each.name for each in folder.iterdir()} - KEPT)


@contextlib.contextmanager
def _cabled(control: Path) -> Iterator[tuple[str, str]]:
    """Two namespaces with a cable between them whose quality is set through a socket."""
    with contextlib.ExitStack() as stack:

        def lay(names: tuple[str, str]) -> None:
            cable = Cable(names, control)
            cable.open()
            stack.callback(cable.close)

        with two_namespaces(lay) as names:
            yield names


@contextlib.contextmanager
def _started(machine: Machine, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*machine.prefix, sys.executable, *arguments],
        env=machine.environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _processes_of(homes: set[str]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HOME") in homes and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


# -- On the client's machine


@contextlib.asynccontextmanager
async def network_scene() -> AsyncIterator[NetworkScene]:
    """A session of the agent across the network."""
    pool, _ = await connect(start=False, pool_name=_POOL)
    direct, _ = await connect(start=False, pool_name=_POOL)
    async with pool, direct, session_of(pool, direct, Link(0)) as notebook:
        yield NetworkScene(notebook)


async def run_disturbed(name: str, times: int, moments: random.Random, cable: Path) -> list[str]:
    """Disturbs the network from a moment of each of so many cells on; returns what was lost of each, in words."""
    losses = []
    async with network_scene() as scene:
        undisturbed = await run_cell(scene)
    assert not undisturbed.error

    async def begin(scene: NetworkScene) -> None:
        ask(cable, DISTURBANCES[name])

    for _ in range(times):
        async with network_scene() as scene:
            after = moments.randrange(len(STDOUT) * 9 // 10)
            try:
                outcome = await run_cell(scene, begin, after)
            finally:
                ask(cable, Quality())
            if loss := lost(outcome, undisturbed):
                losses.append(f"after {after}: {loss}")
    return losses


async def run_in_the_dark(count: int, moments: random.Random, cable: Path, dark_s: float) -> list[str]:
    """Has the network carry nothing for a time, with so many sessions each at a line of its own cell.

    Every other cell goes on when the network is back; the others are over by then.
    """
    light, dark = Path.home() / "light", Path.home() / "dark"
    async with contextlib.AsyncExitStack() as stack:
        scenes = [await stack.enter_async_context(network_scene()) for _ in range(count)]
        async with network_scene() as another:
            undisturbed = await run_cell(another)
        assert not undisturbed.error
        lines = [moments.randrange(*_OTHER_LINES) for _ in scenes]
        reached = asyncio.Semaphore(0)

        async def run(number: int, scene: NetworkScene) -> Outcome:
            async def arrive(_: NetworkScene) -> None:
                reached.release()

            before = sum(len(line) + 1 for line in STDOUT.splitlines()[: lines[number]])
            code = waiting(dark, lines[number])
            if number % 2:
                code = waiting(light, code=code)
            return await run_cell(scene, arrive, before, code)

        running = [asyncio.create_task(run(number, scene)) for number, scene in enumerate(scenes)]
        for _ in scenes:
            await reached.acquire()
        ask(cable, Quality(loss=1.0))
        dark.touch()
        await asyncio.sleep(dark_s)
        ask(cable, Quality())
        light.touch()
        outcomes = await asyncio.gather(*running)
    losses = [lost(without_code(outcome), without_code(undisturbed)) for outcome in outcomes]
    return [loss for loss in losses if loss]


def main() -> None:
    name, times, seed, dark_s, cable = sys.argv[1:]
    moments = random.Random(int(seed))
    if name == GONE:
        running = run_in_the_dark(int(times), moments, Path(cable), float(dark_s))
    else:
        running = run_disturbed(name, int(times), moments, Path(cable))
    print(json.dumps(asdict(Found(asyncio.run(running), int(times)))))


if __name__ == "__main__":
    main()
