"""Where a session's code is, asked while it is busy: of its kernel and of its ranks, from notebook and terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from notebook_kernel import WITHIN_S, NotebookKernel, notebook_kernel, without_colours

BUSY = """
%%gpu
import time, threading
from pathlib import Path
def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.02)
def prefetch(path):
    wait_for(path)
helper = threading.Thread(target=prefetch, args=(GATE,))
helper.start()
print("begun", flush=True)
wait_for(GATE)
helper.join()
"""
RANKS = """
import torch, torch.distributed as dist
@distributed
def train(gate):
    import os, time
    dist.init_process_group("gloo")
    if rt.get_global_rank() == 2:
        while not os.path.exists(gate):
            time.sleep(0.02)
    dist.barrier()
    return rt.get_global_rank()
train.distributed(GATE)
"""


@pytest.fixture(scope="module")
def notebook(own_folders: Path) -> Iterator[NotebookKernel]:
    work = own_folders / "work"
    work.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x3")
        patch.chdir(work)
        with notebook_kernel(own_folders) as kernel:
            for cell in ("%load_ext nbgpu", "from nbgpu import distributed, runtime as rt", "%gpu attach H100x3"):
                assert not kernel.run(cell).errors
            yield kernel


def command(*arguments: str) -> str:
    """Runs `nbgpu` in a terminal; returns its standard output."""
    finished = subprocess.run(
        [sys.executable, "-m", "nbgpu", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def session_id() -> str:
    return command("sessions").splitlines()[1].split()[0]


def stacks_with(*wanted: str) -> str:
    """Looks from a terminal until all of this is seen; returns the report."""
    identity = session_id()
    deadline = time.monotonic() + WITHIN_S
    while True:
        text = command("stacks", identity)
        if all(re.search(pattern, text) for pattern in wanted):
            return text
        assert time.monotonic() < deadline, text


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[], None]:
    return (tmp_path / "gate").touch


def source(code: str, tmp_path: Path) -> str:
    return textwrap.dedent(code).strip().replace("GATE", repr(str(tmp_path / "gate")))


def test_a_kernel_that_computes(notebook: NotebookKernel, tmp_path: Path, gate: Callable[[], None]) -> None:
    cell = notebook.start(source(BUSY, tmp_path))
    try:
        text = stacks_with(r"another thread", r"in wait_for\n\n")
    finally:
        gate()
        cell = notebook.finish(cell)
    assert not cell.errors
    name = rf"Cell In\[{cell.execution_count}\]"
    assert re.search(rf"^H100 ×3 \(simulated\) on .*: running cell \[{cell.execution_count}\] for ", text)
    assert "BUSY" in text
    # The person's frames alone, outermost first, by the lines of the cell.
    main = rf"the kernel runs a cell\n    {name}, line 12, in <module>\n    {name}, line 6, in wait_for\n"
    assert re.search(main, text), text
    assert re.search(rf"another thread, in wait_for\n(    File .*\n)*    {name}, line 8, in prefetch\n", text), text
    assert "ipykernel" not in text
    assert re.search(r"left out: \d+ threads that wait for work or for messages; `--all` shows them", text)


HOLDS_THE_LOCK = """
%%gpu
import ctypes, os
def hold():
    # Waits in C for a writer, and gives Python's lock to no other thread meanwhile.
    os.close(ctypes.PyDLL(None).open(GATE.encode(), os.O_RDONLY))
hold()
"""


def test_a_kernel_whose_other_threads_cannot_answer(notebook: NotebookKernel, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    cell = notebook.start(source(HOLDS_THE_LOCK, tmp_path))
    try:
        text = stacks_with(r"in hold\n")
    finally:
        os.close(os.open(tmp_path / "gate", os.O_WRONLY))
        cell = notebook.finish(cell)
    assert not cell.errors
    assert "another thread" not in text
    assert "left out" not in text


def test_all_threads_of_a_kernel_that_does_nothing(notebook: NotebookKernel) -> None:
    text = notebook.run("%gpu stacks").text()
    assert "the kernel runs no code of yours now" in text
    assert "zmq" not in text
    everything = notebook.run(f"%gpu stacks {session_id()[:6]} --all").text()
    assert "zmq" in everything
    assert "left out" not in everything


def test_every_rank_and_which_of_them_waits(notebook: NotebookKernel, tmp_path: Path, gate: Callable[[], None]) -> None:
    cell = notebook.start(source(RANKS, tmp_path))
    try:
        text = stacks_with("wait in barrier", "rank 2 of 3 is in train")
    finally:
        gate()
        cell = notebook.finish(cell)
    assert not cell.errors
    assert cell.result == "[0, 1, 2]"
    assert "the kernel waits for the ranks of its call" in text
    waiting, _, other = text.partition("rank 2 of 3")
    assert re.search(r"ranks 0-1 of 3 wait in barrier\n", waiting)
    assert re.search(r"File torch/distributed/.*, in barrier", waiting)
    assert re.search(rf"Cell In\[{cell.execution_count}\], line 9, in train", waiting)
    assert re.search(rf"Cell In\[{cell.execution_count}\], line 8, in train", other)
    # Over, they are not told of any more.
    assert "rank" not in stacks_with("runs no code of yours now")
    assert os.listdir(tmp_path) == ["gate"]


def test_what_cannot_be_asked(notebook: NotebookKernel) -> None:
    (error,) = notebook.run("%gpu stacks nosuchsession").errors
    assert error["ename"] == "NoSuchSessionError"
    (error,) = notebook.run("%gpu stacks --everything").errors
    assert "there is no option --everything here" in error["evalue"]


def test_a_cell_that_takes_longer_than_it_may(notebook: NotebookKernel) -> None:
    assert not notebook.run("%%gpu --no-sync\nkept = 5\nimport time").errors
    cell = notebook.run("%%gpu --timeout=2s --no-sync\nwhile True:\n    time.sleep(0.01)")
    (error,) = cell.errors
    assert error["ename"] == "CellTimeoutError"
    assert error["evalue"].startswith("the cell was interrupted after its timeout of 2 s")
    shown = without_colours("\n".join(error["traceback"]))
    assert "KeyboardInterrupt" not in shown.splitlines()[-1]
    assert shown.count("hint:") == 1
    # The session has what it had, and a cell that is quick enough is left alone.
    assert notebook.run("%%gpu --timeout 1h --no-sync\nprint(kept)").text() == "5\n"
    (error,) = notebook.run("%%gpu --timeout soon\npass").errors
    assert error["evalue"].startswith("--timeout is a time above 0, not 'soon'")


SPMD = """
%%gpu --spmd
import os, time
import torch, torch.distributed as dist
def reach(gate):
    while not os.path.exists(gate):
        time.sleep(0.02)
dist.init_process_group()
if os.environ["RANK"] == "2":
    reach(GATE)
dist.barrier()
"""


def test_ranks_that_stay(notebook: NotebookKernel, tmp_path: Path, gate: Callable[[], None]) -> None:
    cell = notebook.start(source(SPMD, tmp_path))
    try:
        text = stacks_with("rank 1 of 3 waits in barrier", "rank 2 of 3 is in reach")
    finally:
        gate()
        cell = notebook.finish(cell)
    assert not cell.errors
    name = rf"Cell In\[{cell.execution_count}\]"
    assert re.search(rf"{name}, line 9, in <module>\n +{name}, line 6, in reach", text), text
    assert "interactiveshell" not in text
    # Between two cells they are asked as well.
    assert "ranks 1-2 of 3 run no code of yours now" in command("stacks", session_id())
