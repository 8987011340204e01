"""`python -m rank_faults`: one rank of three fails in every way, each in turn, while the others wait for it.

Prints a table: what failed, the seconds from then until the notebook had the error, what it said, and what was left
behind. What the ranks run, and how what they leave is found, is here for the tests as well. With `--spmd` it is the
ranks of a `%%gpu --spmd` cell that fail, and the table says how the session goes on; see `spmd_faults`.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.workplace import workplace
from notebook_kernel import Cell, NotebookKernel, notebook_kernel, without_colours

RANKS = 3
KINDS = ("raise", "kill", "crash", "exit", "leave", "memory", "port", "loop")
OWN = f"nbgpu-test-{secrets.token_hex(4)}"
"""Begins the names in shared memory of what the ranks make there."""
_WORK = """
%load_ext nbgpu
from nbgpu import distributed, runtime as rt
%gpu attach H100x3

class Mine(ValueError):
    def __init__(self, text, number):
        super().__init__(text, number)
        self.number = number

def wait_until_the_others_wait(store, failing):
    # Has them write where they are, as the launcher does, until they are in the collective.
    import os, signal, time
    from pathlib import Path
    own = next(path for each in Path("/proc/self/fd").iterdir() if (path := os.readlink(each)).endswith(".stacks"))
    for rank in {0, 1, 2} - {failing}:
        pid = int(store.get(f"pid {rank}"))
        stacks = Path(own).parent / f"rank-{rank}.stacks"
        while "in all_reduce" not in stacks.read_text():
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.02)

@distributed(gpus=3, timeout=120)
def work(kind, failing=1):
    import ctypes, os, signal, socket, subprocess, sys, time
    from multiprocessing.shared_memory import SharedMemory
    import torch, torch.distributed as dist
    dist.init_process_group("gloo")
    shared = SharedMemory(f"OWN-{rt.get_global_rank()}", create=True, size=1000)
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    print("before", rt.get_global_rank())
    store = dist.distributed_c10d._get_default_store()
    store.set(f"pid {rt.get_global_rank()}", str(os.getpid()))
    if rt.get_global_rank() == failing:
        wait_until_the_others_wait(store, failing)
        print("fails at", time.time(), flush=True)
        if kind == "raise":
            raise Mine("boom", 7)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "crash":
            ctypes.string_at(0)
        if kind == "exit":
            sys.exit(3)
        if kind == "leave":
            os._exit(0)
        if kind == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if kind == "port":
            taken = socket.create_server(("127.0.0.1", 0))
            dist.TCPStore("127.0.0.1", taken.getsockname()[1], 1, True)
        while kind == "loop":
            pass
    dist.all_reduce(torch.ones(1))
    return "done"
""".replace("OWN", OWN)
_LEFT = """
%%gpu --no-sync
import os, tempfile
from pathlib import Path
def left():
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            variables = (each / "environ").read_bytes()
            if b"NBGPU_CALL_ID=" in variables and os.environ["IPYTHONDIR"].encode() in variables:
                found.append((each / "cmdline").read_bytes())
        except OSError:
            pass
    folder = Path(tempfile.gettempdir())
    short = [each.name for each in folder.iterdir() if Path("/tmp", f"nbgpu-{each.name}").exists()]
    return found, list(folder.glob("*/t")) + short, list(folder.glob("*/payload"))
"""


def prepare(notebook: NotebookKernel) -> None:
    """Attaches the notebook, and defines there `work(kind, failing)`, and in the session what looks for leavings."""
    extension, definitions = _WORK.strip().split("\n\n", 1)
    _run(notebook, extension)
    _run(notebook, definitions)
    define_left(notebook)


def define_left(notebook: NotebookKernel) -> None:
    """Defines in the session what `left_behind` asks."""
    _run(notebook, _LEFT.strip())


def left_behind(notebook: NotebookKernel) -> str:
    """Returns what the ranks of ended calls left: processes, temporary files, shared memory; empty if nothing."""
    cell = _run(notebook, "%%gpu --no-sync\nfound = left()\nprint('' if found == ([], [], []) else found)")
    shared = sorted(name for name in os.listdir("/dev/shm") if name.startswith(OWN))
    return "; ".join(each for each in (cell.text().strip(), ", ".join(shared)) if each)


def _run(notebook: NotebookKernel, code: str) -> Cell:
    cell = notebook.run(code)
    assert not cell.errors, "\n".join(cell.errors[0]["traceback"])
    return cell


@contextmanager
def faulty_ranks() -> Iterator[NotebookKernel]:
    """Starts a notebook on an agent of its own, in folders that are removed afterwards."""
    with workplace() as folder:
        os.environ["NBGPU_SIMULATE"] = f"H100x{RANKS}"
        with notebook_kernel(folder) as notebook:
            prepare(notebook)
            yield notebook
            notebook.run("%gpu close")


def main(arguments: list[str]) -> int:
    """Runs every fault on every rank; returns 1 if anything was left behind."""
    if arguments:
        import spmd_faults  # which takes names from here

        option, *kinds = arguments
        if option != "--spmd" or not set(kinds) <= set(spmd_faults.KINDS):
            print(f"usage: python -m rank_faults [--spmd [KIND…]], of {', '.join(spmd_faults.KINDS)}", file=sys.stderr)
            return 2
        return 0 if spmd_faults.print_table(tuple(kinds) or spmd_faults.KINDS) else 1
    is_clean = True
    print(f"| {'fault':8} | rank | until the error | what was raised, and what it said | left behind |")
    print("|---|---|---|---|---|")
    with faulty_ranks() as notebook:
        for kind in KINDS:
            for failing in range(RANKS):
                options = ".with_overrides(timeout=5)" if kind == "loop" else ""
                cell = notebook.run(f"work{options}.distributed({kind!r}, {failing})")
                ended_s = time.time()
                took = f"{ended_s - _failed_at_s(notebook, failing):.1f} s"
                found = left_behind(notebook)
                is_clean &= not found and len(cell.errors) == 1
                print(f"| {kind} | {failing} | {took} | {said(cell.errors)} | {found or 'nothing'} |", flush=True)
    return 0 if is_clean else 1


def _failed_at_s(notebook: NotebookKernel, failing: int) -> float:
    """Returns the Unix time at which the rank failed, from its log."""
    found = re.findall(r"fails at ([0-9.]+)", _run(notebook, f"%gpu logs --rank {failing}").text())
    return float(found[-1])


def said(errors: list[dict[str, Any]]) -> str:
    """Returns the name of what was raised, and the lines that summarise it: those after the frames."""
    if len(errors) != 1:
        return f"{len(errors)} errors"
    name = str(errors[0]["ename"])
    lines = without_colours("\n".join(errors[0]["traceback"])).splitlines()
    summary = [line.strip() for line in lines if line.startswith(("rank", name))]
    return f"{name}: {'; '.join(summary)}".replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
