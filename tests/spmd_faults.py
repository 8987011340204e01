"""`python -m rank_faults --spmd`: one rank of a cell's three fails in every way, each in turn, while the others wait.

Prints a table: what failed, the seconds from then until the notebook had the error, what it said, what the rank left
behind, and what the next `--spmd` cell needed. Rank 0 is the session's kernel: what ends it ends the session's
variables, and `%gpu restart` is then what the next cell needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import rank_faults
from benchmarks.workplace import workplace
from notebook_kernel import Cell, NotebookKernel, notebook_kernel

KINDS = (*rank_faults.KINDS, "stuck", "raise early", "kill early")
_TIMEOUT_S = 20
"""Of the cells that would go on for ever. Long enough for a report of the hang, on a busy machine too."""
_BEGIN = """
%%gpu --spmd
import ctypes, json, os, signal, socket, subprocess, sys, time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
import torch, torch.distributed as dist
rank = int(os.environ["RANK"])
kept = 100 + rank

def connect():
    if not dist.is_initialized():
        dist.init_process_group()
    total = torch.ones(1)
    dist.all_reduce(total)
    return int(total)

def stacks_of(pid):
    for each in Path(f"/proc/{pid}/fd").iterdir():
        if "stacks" in (path := os.readlink(each)):
            return Path(path)

def wait_until_the_others_wait(failing):
    # Has them write where they are, as the launcher does, until they are in the collective.
    store = dist.distributed_c10d._get_default_store()
    store.set(f"pid {rank}", str(os.getpid()))
    for other in {0, 1, 2} - {failing} if rank == failing else ():
        pid = int(store.get(f"pid {other}"))
        begin = stacks_of(pid).stat().st_size
        while b"in all_reduce" not in stacks_of(pid).read_bytes()[begin:]:
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.02)

def fail(kind):
    if kind == "raise":
        raise ValueError("boom", 7)
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
    while kind == "stuck":
        sum(range(10**18))  # in C, with the lock held: no signal is seen
"""
_FAIL = """
if "{kind}".endswith("early"):  # before there is a process group
    if dist.is_initialized():
        dist.destroy_process_group()
    if rank != {failing}:
        connect()
else:
    connect()
    wait_until_the_others_wait({failing})
if rank == {failing}:
    shared = SharedMemory("{name}", create=True, size=1000)
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path({note!r}).write_text(json.dumps([time.time(), os.getpid(), child.pid]))
    fail("{kind}".split()[0])
dist.all_reduce(torch.ones(1))
"""
_GO_ON = """
%%gpu --spmd
rank = int(os.environ["RANK"])
print("kept", globals().get("kept"), "sum", connect())
"""


class _Faults:
    """One notebook, in whose session's ranks things fail.

    Args:
        notebook: Attached.
        folder: For what the ranks leave word of.
    """

    def __init__(self, notebook: NotebookKernel, folder: Path) -> None:
        self._notebook = notebook
        self._note = folder / "failed.json"
        self._count = 0
        self._left: set[str] = set()

    def fail(self, kind: str, failing: int) -> tuple[list[str], bool]:
        """Has a rank fail; returns the fields of its row, and whether all was as it is to be."""
        self._run(_BEGIN)
        self._count += 1
        self._note.unlink(missing_ok=True)
        name = f"{rank_faults.OWN}-spmd-{self._count}"
        options = f" --timeout {_TIMEOUT_S}s" if kind in ("loop", "stuck") else ""
        body = _FAIL.format(kind=kind, failing=failing, name=name, note=str(self._note))
        cell = self._notebook.run(f"%%gpu --spmd{options}{body}", within_s=180)
        ended_s = time.time()
        failed_s, pid, child = json.loads(self._note.read_text())
        said = rank_faults.said(cell.errors)
        if report := _hang_report(cell):
            said += f" — said meanwhile: {report}"
        next_, is_usable = self._go_on()
        left = self._left_by(pid, child, name)
        fields = [kind, str(failing), f"{ended_s - failed_s:.1f} s", said, left or "nothing", next_]
        return fields, is_usable and not left and len(cell.errors) == 1

    def _go_on(self) -> tuple[str, bool]:
        """Runs the next cell; returns what it said, and whether it ran, after a restart where the kernel was gone."""
        begun_s = time.monotonic()
        cell = self._notebook.run(_GO_ON.strip(), within_s=180)
        took = f"{time.monotonic() - begun_s:.1f} s"
        if not cell.errors:
            others = [
                message["content"]["data"]["text/plain"] for message in cell.messages if "data" in message["content"]
            ]
            told = [cell.text("stderr").strip()] if cell.text("stderr") else []
            return f"ran, {took}: " + "; ".join([cell.text().strip(), *others[-1:], *told]), "sum 3" in cell.text()
        refused = rank_faults.said(cell.errors)
        self._run("%gpu restart")
        self._run(_BEGIN)
        again = self._run(_GO_ON)
        return f"refused: {refused}; after `%gpu restart`: {again.text().strip()}", "sum 3" in again.text()

    def _left_by(self, pid: int, child: int, name: str) -> str:
        """Returns what is there of a rank that has ended; what one that lives has made is its own."""
        if is_alive(pid):
            self._run(f"%%gpu --spmd\nif os.getpid() == {pid}:\n    child.kill(); shared.close(); shared.unlink()")
            return ""
        found = [f"process {child}"] if is_alive(child) else []
        found += [f"/dev/shm/{name}"] if Path("/dev/shm", name).exists() else []
        return ", ".join(found)

    def _run(self, code: str) -> Cell:
        cell = self._notebook.run(code.strip())
        assert not cell.errors, "\n".join(cell.errors[0]["traceback"])
        return cell


def _hang_report(cell: Cell) -> str:
    """Returns the last report of a hang that did not come after the end."""
    reports = [
        message["content"]["data"]["text/plain"]
        for message in cell.messages
        if "nbgpu-Hang" in message["content"].get("data", {}).get("text/html", "")
    ]
    found = [each for each in reports if "No progress" in each]
    return "; ".join(line.strip() for line in found[-1].splitlines()[:3]) if found else ""


def is_alive(pid: int) -> bool:
    """Says whether a process runs; one that has ended and was not waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@contextlib.contextmanager
def faulty_session() -> Iterator[_Faults]:
    """Starts a notebook on an agent of its own, in folders that are removed afterwards."""
    with workplace() as folder:
        os.environ["NBGPU_SIMULATE"] = f"H100x{rank_faults.RANKS}"
        os.environ["NBGPU_HANG_AFTER_S"] = "1"
        with notebook_kernel(folder) as notebook:
            assert not notebook.run("%load_ext nbgpu").errors
            assert not notebook.run(f"%gpu attach H100x{rank_faults.RANKS}").errors
            yield _Faults(notebook, folder)
            notebook.run("%gpu close")


def print_table(kinds: tuple[str, ...]) -> bool:
    """Runs every fault on every rank; returns whether nothing was left behind and every session went on."""
    is_well = True
    print("| fault | rank | until the error | what was raised, and what it said | left behind | the next cell |")
    print("|---|---|---|---|---|---|")
    with faulty_session() as faults:
        for kind in kinds:
            for failing in range(rank_faults.RANKS):
                fields, as_it_is_to_be = faults.fail(kind, failing)
                is_well &= as_it_is_to_be
                print(
                    f"| {' | '.join(field.replace('|', ' ').replace(chr(10), ' ') for field in fields)} |", flush=True
                )
    return is_well
