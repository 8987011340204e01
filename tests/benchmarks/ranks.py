"""A function on every rank of a session, from the call to its results, against torchrun with a script of the same."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.front_end import FrontEnd, started_kernel
from benchmarks.measurement import Row, measure
from benchmarks.workplace import workplace

BODIES = {
    "empty": "pass",
    "connected": 'import torch.distributed as dist\ndist.init_process_group("gloo")\ndist.barrier()',
}


def run_torchrun(script: Path, ranks: int) -> float:
    """Runs a script on so many ranks; returns the seconds that it took."""
    begun_s = time.perf_counter()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(script)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun_s


def run(*, rounds: int = 5, ranks: int = 4) -> Sequence[Row]:
    rows = []
    with workplace() as folder:
        os.environ["NBGPU_SIMULATE"] = f"H100x{ranks}"
        with started_kernel() as (notebook, _):
            notebook.execute(f"%load_ext nbgpu\nfrom nbgpu import distributed\n%gpu attach H100x{ranks}")
            for name, body in BODIES.items():
                script = folder / f"{name}.py"
                script.write_text(body)
                notebook.execute(f"@distributed\ndef {name}():\n{textwrap.indent(body, '    ')}")
                timings = measure(
                    {
                        "call": partial(_call, notebook, name, ranks),
                        "torchrun": partial(run_torchrun, script, ranks),
                    },
                    rounds=rounds,
                )
                what = f"`@distributed`, {name}, {ranks} ranks"
                rows.append(Row(what, timings["call"], "torchrun of the same", timings["torchrun"], 1.2))
            notebook.execute("%gpu close")
    return rows


def _call(notebook: FrontEnd, name: str, ranks: int) -> float:
    cell = notebook.execute(f"assert {name}.distributed() == {ranks} * [None]")
    return cell.took_s
