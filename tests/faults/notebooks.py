"""A notebook's kernel that is killed while its cell runs, the next one that attaches, and faults of its link then."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fakes.link import Link, link_to
from faults.scenes import CELL, STDOUT, TOKEN, Outcome, Place, normalised
from nbgpu.client.pool import Pool
from nbgpu_protocol.v1 import pool_pb2, session_pb2
from notebook_kernel import Cell, NotebookKernel, notebook_kernel
from recorded_sessions import DEADLINE_S, until

GATE_LINE = 300
"""Before which a cell waits that is to be followed."""
_BEFORE_GATE = sum(len(line) + 1 for line in STDOUT.splitlines()[:GATE_LINE])


@dataclass
class NotebookScene:
    """A notebook's kernel, over a link to the place's agent."""

    place: Place
    kernel: NotebookKernel
    link: Link
    direct: Pool
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)


LinkFault = Callable[[NotebookScene], Awaitable[None]]


async def cut_link(scene: NotebookScene) -> None:
    """Ends the connections, and refuses others until several were tried."""
    refused = scene.link.refused
    scene.link.take_down()
    await until(lambda: scene.link.refused >= refused + 3)
    scene.link.restore()


async def half_open(scene: NotebookScene) -> None:
    """Has the connections carry nothing, until the cell is over; then ends them."""
    scene.link.stall()

    async def watch() -> None:
        async with contextlib.aclosing(scene.direct.watch()) as states:
            async for pool in states:
                if all(each.kernel_state == pool_pb2.KERNEL_IDLE for each in pool.sessions):
                    return

    await asyncio.wait_for(watch(), DEADLINE_S)
    scene.link.cut()


NOTEBOOK_FAULTS: dict[str, LinkFault | None] = {
    "notebook killed": None,
    "notebook killed, link cut": cut_link,
    "notebook killed, link stuck": half_open,
}
"""By what happens while the next kernel follows the cell."""


@contextlib.asynccontextmanager
async def notebook_in(place: Place) -> AsyncIterator[NotebookScene]:
    """A notebook's kernel whose pool is the place's agent."""
    root = place.workplace.root
    with contextlib.ExitStack() as stack:
        async with link_to(place.port) as link, Pool(f"127.0.0.1:{place.port}", TOKEN) as direct:
            environ = {
                "NBGPU_AGENT_ADDRESS": link.target,
                "NBGPU_AGENT_TOKEN": TOKEN,
                "NBGPU_AGENT_DIR": str(root / "no-agent"),
                "NBGPU_SNAPSHOT": "0",
                "IPYTHONDIR": str(root / "ipython"),
                "JUPYTER_RUNTIME_DIR": str(root / "runtime"),
            }
            with patch.dict(os.environ, environ):
                starting = notebook_kernel(root)
                kernel = await asyncio.to_thread(starting.__enter__)
                stack.push(starting)
                scene = NotebookScene(place, kernel, link, direct, root)
                await asyncio.to_thread(kernel.run, "%load_ext nbgpu")
                await asyncio.to_thread(kernel.run, "%%gpu H100\npass")
                try:
                    yield scene
                finally:
                    await asyncio.to_thread(kernel.run, "%gpu close")
                    await asyncio.to_thread(stack.close)


async def undisturbed_in(scene: NotebookScene) -> Outcome:
    """Runs the cell to its end."""
    outcome = outcome_of((await asyncio.to_thread(scene.kernel.run, code_of(next(scene.numbers)))).messages)
    assert not outcome.error, outcome.error
    return outcome


async def run_killed(scene: NotebookScene, moments: random.Random, fault: LinkFault | None = None) -> Outcome:
    """Kills the notebook's kernel at a moment of the cell, and has the next one attach; returns what a person saw.

    Args:
        scene: Where.
        moments: Chooses them.
        fault: What happens at a moment while the cell is followed; None: nothing, and the cell does not wait for that.
    """
    number = next(scene.numbers)
    gate = scene.folder / f"gate {number}"
    kernel = scene.kernel
    kill_after = moments.randrange(_BEFORE_GATE if fault is not None else len(STDOUT) * 9 // 10)
    cell = kernel.start(code_of(number, gate if fault is not None else None))
    await asyncio.to_thread(kernel.listen, cell, lambda cell: len(cell.text()) >= kill_after)
    await asyncio.to_thread(kernel.kill)
    if await asyncio.to_thread(kernel.take_rest, cell):
        return outcome_of(cell.messages)
    await asyncio.to_thread(kernel.restart)
    await asyncio.to_thread(kernel.run, "%load_ext nbgpu")
    attached = kernel.start("%gpu attach")
    if fault is not None:
        last = f"line {GATE_LINE - 1}\n"
        assert not await asyncio.to_thread(kernel.listen, attached, lambda cell: last in cell.text())
        gate.touch()
        more = len(attached.text()) + moments.randrange((len(STDOUT) - _BEFORE_GATE) // 2)
        if not await asyncio.to_thread(kernel.listen, attached, lambda cell: len(cell.text()) >= more):
            await fault(scene)
            await asyncio.to_thread(kernel.finish, attached)
    else:
        await asyncio.to_thread(kernel.finish, attached)
    return outcome_of(of_run(attached, number))


async def run_given_up(scene: NotebookScene) -> tuple[str, Outcome]:
    """Has the link away for longer than the notebook waits, then attaches; returns the cell's error, and what came."""
    number = next(scene.numbers)
    gate = scene.folder / f"gate {number}"
    kernel = scene.kernel
    await asyncio.to_thread(kernel.run, "from nbgpu.client import connection\nconnection.GIVE_UP_AFTER_S = 0.5")
    cell = kernel.start(code_of(number, gate))
    await asyncio.to_thread(kernel.listen, cell, lambda cell: "line" in cell.text())
    scene.link.take_down()
    await asyncio.to_thread(kernel.finish, cell)
    scene.link.restore()
    await asyncio.to_thread(kernel.run, "connection.GIVE_UP_AFTER_S = 600.0")
    while (await asyncio.to_thread(kernel.run, "%gpu sessions")).errors:
        pass  # gRPC waits for up to 2 s before it tries again to connect
    attached = kernel.start("%gpu attach")
    last = f"line {GATE_LINE - 1}\n"
    assert not await asyncio.to_thread(kernel.listen, attached, lambda cell: last in cell.text())
    gate.touch()
    await asyncio.to_thread(kernel.finish, attached)
    return cell.errors[0]["ename"], outcome_of(of_run(attached, number))


def code_of(number: int, gate: Path | None = None) -> str:
    """Returns the cell, known by its first line; it waits for the gate, if there is one."""
    waits = f"    while i == {GATE_LINE} and not __import__('os').path.exists({str(gate)!r}): time.sleep(0.01)\n"
    loop = "for i in range(600):\n"
    assert loop in CELL
    return f"%%gpu\nrun = {number}" + (CELL if gate is None else CELL.replace(loop, loop + waits))


def of_run(attached: Cell, number: int) -> list[dict[str, Any]]:
    """Returns what was shown between the lines that tell of the run."""
    said = [each["content"].get("text", "") for each in attached.messages]
    headings = [index for index, text in enumerate(said) if text.startswith("▸ ")]
    mine = [index for index in headings if f"`run = {number}`" in said[index]]
    assert mine, f"nothing is told of run {number}: {attached.text()[:500]!r}, {attached.text('stderr')[-500:]!r}"
    end = next((index for index in headings if index > mine[0]), len(said))
    return [
        each
        for each, text in zip(attached.messages[mine[0] + 1 : end], said[mine[0] + 1 : end], strict=True)
        if not text.startswith(("  `%gpu pull", "nbgpu: "))
    ]


def outcome_of(messages: list[dict[str, Any]]) -> Outcome:
    """Returns what a front end was sent, to be compared."""
    found: list[tuple[Any, ...]] = []
    for each in messages:
        kind, content = each["msg_type"], each["content"]
        if kind == "error":
            return Outcome(tuple(normalised(found)), "\n".join(content["traceback"]))
        kept = content if kind == "stream" else {"data": content["data"]}
        shown = "display_data" if kind == "execute_result" else kind
        found.append((session_pb2.IOPUB, {"msg_type": shown}, {}, b"{}", json.dumps(kept).encode()))
    return Outcome(tuple(normalised(found)))
