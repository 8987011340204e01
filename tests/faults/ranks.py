"""Ranks of a `--spmd` cell that are killed while all of them compute."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from faults.scenes import TOKEN, Place
from notebook_kernel import NotebookKernel, notebook_kernel, without_colours

RANKS = 3
ENVIRONMENT = {"NBGPU_SIMULATE": f"H100x{RANKS}"}
LINES = 150
_PRINTED = "".join(f"line {i}\n" for i in range(LINES))
_CELL = """%%gpu --spmd
import os, pathlib, time
rank = int(os.environ["RANK"])
kept = 100 + rank
pathlib.Path({folder!r}, f"{number}-{{rank}}").write_text(str(os.getpid()))
for i in range({lines}):
    print("line", i, flush=True)
    time.sleep(0.01)
"""


@dataclass
class RankScene:
    """A notebook with a session of several ranks."""

    kernel: NotebookKernel
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)


@contextlib.asynccontextmanager
async def ranks_in(place: Place) -> AsyncIterator[RankScene]:
    """A notebook's kernel whose session has ranks."""
    root = place.workplace.root
    environ = {
        "NBGPU_AGENT_ADDRESS": f"127.0.0.1:{place.port}",
        "NBGPU_AGENT_TOKEN": TOKEN,
        "NBGPU_SNAPSHOT": "0",
        "IPYTHONDIR": str(root / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(root / "runtime"),
    }
    folder = root / "pids"
    folder.mkdir()
    with patch.dict(os.environ, environ), contextlib.ExitStack() as stack:
        starting = notebook_kernel(root)
        kernel = await asyncio.to_thread(starting.__enter__)
        stack.push(starting)
        scene = RankScene(kernel, folder)
        for code in ("%load_ext nbgpu", f"%gpu attach H100x{RANKS}"):
            assert not (await asyncio.to_thread(kernel.run, code)).errors
        try:
            yield scene
        finally:
            await asyncio.to_thread(kernel.run, "%gpu close")
            await asyncio.to_thread(stack.close)


def run_killed_rank(scene: RankScene, moments: random.Random) -> str:
    """Kills one rank but the notebook's own at a moment of the cell; returns what is wrong then, in words."""
    number, rank = next(scene.numbers), moments.randrange(1, RANKS)
    cell = scene.kernel.start(_CELL.format(folder=str(scene.folder), number=number, lines=LINES))
    after = moments.randrange(len(_PRINTED) * 8 // 10)
    if scene.kernel.listen(cell, lambda cell: len(cell.text()) > after):
        return "the cell was over before"
    os.kill(int((scene.folder / f"{number}-{rank}").read_text()), signal.SIGKILL)
    scene.kernel.finish(cell)
    names = [error["ename"] for error in cell.errors]
    if names != ["RankFailedError"]:
        return f"ended with {names}"
    said = without_colours("\n".join(cell.errors[0]["traceback"]))
    if f"rank {rank} of {RANKS}" not in said or "was killed by SIGKILL" not in said:
        return f"it was not said which rank was killed, and how: {said[:200]!r}"
    if not _PRINTED.startswith(cell.text()):
        return "what rank 0 printed is not how the output begins"
    after_it = scene.kernel.run("%%gpu --spmd\nprint(globals().get('kept'))")
    if after_it.errors or after_it.text() != "100\n":
        return f"the next cell did not run: {after_it.errors}, {after_it.text()!r}"
    return ""
