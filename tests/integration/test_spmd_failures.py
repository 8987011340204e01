"""One rank of a `--spmd` cell fails while the others wait for it: what the person reads, and that all goes on."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from notebook_kernel import Cell, NotebookKernel, notebook_kernel, wait_for_answers, without_colours
from spmd_faults import is_alive

BEGIN = """
%load_ext nbgpu
class Mine(ValueError):
    def __init__(self, text, number):
        super().__init__(text, number)
        self.number = number

%gpu attach H100x3

%%gpu --spmd
import ctypes, os, signal, sys, time
import torch, torch.distributed as dist
rank = int(os.environ["RANK"])
kept = 100 + rank

def connect():
    if not dist.is_initialized():
        dist.init_process_group()
    total = torch.ones(1)
    dist.all_reduce(total)
    return int(total)

def wait_until_others_wait():
    # They tell the store that they are about to.
    store = dist.distributed_c10d._get_default_store()
    if rank == 1:
        store.wait(["about 0", "about 2"])
    else:
        store.set(f"about {rank}", "")
"""
FAIL = """
%%gpu --spmd
connect()
wait_until_others_wait()
if rank == 1:
    {how}
dist.all_reduce(torch.ones(1))
"""
FRESH = "%%gpu --spmd\nrank = int(os.environ['RANK'])\nkept = 100 + rank"
KINDS = {
    "raise": ("raise Mine('boom', 7)", "Mine", [r"raise Mine\('boom', 7\)", r"Mine: \('boom', 7\)"]),
    "memory": (
        "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')",
        "OutOfMemoryError",
        ["CUDA out of memory. Tried to allocate 2.00 GiB"],
    ),
    "exit": ("sys.exit(3)", "RankFailedError", ["ended with exit code 3 before it was done"]),
    "leave": ("os._exit(4)", "RankFailedError", ["ended with exit code 4 before it was done"]),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", "RankFailedError", ["was killed by SIGKILL"]),
    "crash": ("ctypes.string_at(0)", "RankFailedError", ["crashed with SIGSEGV", "line 5 of Cell In"]),
}
GONE = ("leave", "kill", "crash")


@pytest.fixture(scope="module")
def notebook(own_folders: Path) -> Iterator[NotebookKernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x3")
        patch.chdir(own_folders)
        with notebook_kernel(own_folders) as kernel:
            first, second, third = BEGIN.strip().split("\n\n", 2)
            for cell in (first, second, third):
                run(kernel, cell)
            yield kernel
            kernel.run("%gpu close")


def run(notebook: NotebookKernel, code: str) -> Cell:
    cell = notebook.run(textwrap.dedent(code).strip())
    assert not cell.errors, "\n".join(cell.errors[0]["traceback"])
    return cell


def fail(notebook: NotebookKernel, code: str) -> tuple[str, str]:
    """Executes a cell that is to fail; returns the name of what it raised and what the person reads."""
    cell = notebook.run(textwrap.dedent(code).strip())
    assert len(cell.errors) == 1, cell.messages
    return cell.errors[0]["ename"], without_colours("\n".join(cell.errors[0]["traceback"]))


def others(cell: Cell) -> str:
    """Returns what the other ranks wrote, as last displayed."""
    displays = [message["content"]["data"] for message in cell.messages if "display" in message["msg_type"]]
    return str(displays[-1]["text/plain"]) if displays else ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_fails_and_the_session_goes_on(notebook: NotebookKernel, kind: str) -> None:
    how, ename, expected = KINDS[kind]
    run(notebook, FRESH)
    raised, text = fail(notebook, FAIL.format(how=how))
    assert raised == ename, text
    for each in ["rank 1 of 3 on", *expected, "hint: `%gpu logs --rank 1`", "`init_process_group` makes a new one"]:
        assert re.search(each, text), text
    # They may notice that a rank is gone before anybody asks where they are, and may be slow to begin to wait.
    assert re.search("waited in all_reduce when|lost the connection to it|running when", text), text
    assert "nbgpu_kernel" not in text, "a frame of ours is shown"
    cell = run(notebook, "%%gpu --spmd\nprint(globals().get('kept') if os.environ['RANK'] != '1' else 'fresh?')")
    assert cell.text() == "100\n"
    assert "[rank 2] 102" in others(cell)
    gone = "rank 1 had ended; it is made anew, without its variables"
    assert (gone in cell.text("stderr")) == (kind in GONE)
    cell = run(notebook, "%%gpu --spmd\nrank = int(os.environ['RANK'])\nprint('sum', connect())")
    assert cell.text() == "sum 3\n"
    assert others(cell) == "[ranks 1-2] sum 3"


def test_the_notebooks_own_exception_is_caught_by_its_class(notebook: NotebookKernel) -> None:
    code = """
        try:
            get_ipython().run_cell_magic("gpu", "--spmd", "if rank == 1:\\n    raise Mine('boom', 7)")
        except Mine as error:
            print(type(error) is Mine, error.number)
        """
    run(notebook, FRESH)
    assert run(notebook, code).text() == "True 7\n"


def test_the_options_are_completed(notebook: NotebookKernel) -> None:
    wait_for_answers(notebook)
    for typed, expected in (("%%gpu --sp", "--spmd"), ("%%gpu --ran", "--ranks"), ("%%gpu --all", "--all-ranks")):
        reply = notebook.ask("complete_request", {"code": typed, "cursor_pos": len(typed)})
        assert reply["matches"] == [expected]


def test_all_ranks_that_fail_alike_keep_their_group(notebook: NotebookKernel) -> None:
    run(notebook, "%%gpu --spmd\nconnect()")
    raised, text = fail(notebook, "%%gpu --spmd\nmistyped")
    assert raised == "NameError"
    assert text.count("NameError: name 'mistyped' is not defined") == 1
    assert re.search(r"ranks \d(, |-)\d raised NameError after it: name 'mistyped' is not defined", text), text
    assert "init_process_group" not in text
    assert "sum 3" in run(notebook, "%%gpu --spmd\nassert dist.is_initialized()\nprint('sum', connect())").text()


def test_the_kernels_own_rank_fails(notebook: NotebookKernel) -> None:
    run(notebook, FRESH)
    raised, text = fail(notebook, "%%gpu --spmd\nconnect()\nif rank == 0:\n    1 / 0\ndist.barrier()")
    assert raised == "ZeroDivisionError"
    assert "rank 0 of 3 on" in text
    assert re.search("waited in barrier when|lost the connection to it|running when", text), text
    assert "sum 3" in run(notebook, "%%gpu --spmd\nprint('sum', connect())").text()


@pytest.mark.parametrize("failing", [0, 2])
def test_what_still_refers_to_the_group_keeps_nobody_waiting(notebook: NotebookKernel, failing: int) -> None:
    """A model in DDP has its process group, and torch closes a group's connections only when nothing has it."""
    run(notebook, FRESH)
    run(
        notebook,
        """
        %%gpu --spmd
        connect()
        held = dist.group.WORLD  # as a model in DDP has it
        """,
    )
    raised, text = fail(notebook, f"%%gpu --spmd\nif rank == {failing}:\n    1 / 0\ndist.all_reduce(torch.ones(1))")
    assert raised == "ZeroDivisionError"
    assert f"rank {failing} of 3 on" in text
    cell = run(notebook, "%%gpu --spmd\nassert held is not None\nprint('sum', connect(), kept)")
    assert cell.text() == "sum 3 100\n"


@pytest.mark.parametrize("how", ["1 / 0", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_rank_fails_before_there_is_a_group(notebook: NotebookKernel, how: str) -> None:
    """The others wait for it at the store, where torch sees no interrupt, and would for half an hour."""
    run(notebook, FRESH)
    run(notebook, "%%gpu --spmd\nif dist.is_initialized():\n    dist.destroy_process_group()")
    cell = notebook.run(f"%%gpu --spmd\nif rank == 1:\n    {how}\nconnect()")
    assert len(cell.errors) == 1
    assert "rank 1 of 3 on" in without_colours("\n".join(cell.errors[0]["traceback"]))
    assert "frame #" not in cell.text("stderr"), "torch's C++ stacks are in rank 0's log"
    assert "sum 3" in run(notebook, "%%gpu --spmd\nrank = int(os.environ['RANK'])\nprint('sum', connect())").text()


def test_ranks_that_wait_for_each_other_are_interrupted_and_keep_their_variables(notebook: NotebookKernel) -> None:
    run(notebook, FRESH)
    run(notebook, "%%gpu --spmd\nconnect()\nhalf = dist.new_group([0, 2])")
    cell = notebook.run(
        "%%gpu --spmd\nprint('begun', flush=True)\n"
        "dist.all_reduce(torch.ones(1), group=half) if rank == 0 else dist.barrier()",
        during=notebook.interrupt,
    )
    assert [error["ename"] for error in cell.errors] == ["KeyboardInterrupt"], cell.messages
    assert "the cell was interrupted on ranks 0-2 of 3" in without_colours("\n".join(cell.errors[0]["traceback"]))
    assert run(notebook, "%%gpu --spmd\nprint('sum', connect(), kept)").text() == "sum 3 100\n"


LEAVINGS = """
from multiprocessing.shared_memory import SharedMemory
import json, subprocess
shared = SharedMemory(create=True, size=1000)
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
with open({note!r}, "w") as file:
    json.dump([child.pid, shared.name], file)
"""


@pytest.mark.parametrize("failing", [1, 0])
def test_a_rank_that_is_killed_leaves_nothing(notebook: NotebookKernel, tmp_path: Path, failing: int) -> None:
    run(notebook, FRESH)
    note = tmp_path / "leavings.json"
    body = textwrap.indent(LEAVINGS.format(note=str(note)) + "os.kill(os.getpid(), signal.SIGKILL)", "    ")
    raised, text = fail(notebook, f"%%gpu --spmd\nif rank == {failing}:\n{body}\ntime.sleep(600)")
    if failing:
        assert raised == "RankFailedError"
    else:
        assert raised == "KernelDiedError"
        assert "rank 0 of 3 ended, with which ranks 1-2 ended: the session's kernel was killed by SIGKILL" in text
        for cell in BEGIN.strip().split("\n\n", 2)[2:]:
            run(notebook, cell)
    child, shared = json.loads(note.read_text())
    assert not is_alive(child)
    assert not Path("/dev/shm", shared).exists()
    assert "sum 3" in run(notebook, "%%gpu --spmd\nrank = int(os.environ['RANK'])\nprint('sum', connect())").text()


def test_a_timeout_says_where_every_rank_was(notebook: NotebookKernel) -> None:
    run(notebook, FRESH)
    run(notebook, "%%gpu --spmd\nconnect()")
    raised, text = fail(
        notebook, "%%gpu --spmd --timeout 2s\nif rank == 1:\n    while True: pass\ndist.all_reduce(torch.ones(1))"
    )
    assert raised == "CellTimeoutError"
    assert re.search(r"rank 1 of 3 is in <module>\n    Cell In\[\d+\], line 3", text), text


def test_a_rank_that_loops_is_stopped_when_another_has_failed(notebook: NotebookKernel) -> None:
    run(notebook, FRESH)
    raised, text = fail(notebook, "%%gpu --spmd\nif rank == 2:\n    while True: pass\nraise Mine('all but one', rank)")
    assert raised == "Mine"
    assert "rank 2 was running when it was stopped" in text
    run(notebook, "%%gpu --spmd\nassert kept == 100 + int(os.environ['RANK'])")


def test_an_interrupt_reaches_every_rank_once(notebook: NotebookKernel) -> None:
    run(notebook, FRESH)

    def press() -> None:
        assert notebook.manager.interrupt_kernel() is None

    for body in ("time.sleep(600)", "dist.barrier() if rank else time.sleep(600)"):
        run(notebook, "%%gpu --spmd\nconnect()\ncaught = 0")
        cell = notebook.run(
            f"%%gpu --spmd\ntry:\n    connect()\n    print('begun', flush=True)\n    {body}\n"
            "except KeyboardInterrupt:\n    caught += 1\n    raise",
            during=press,
        )
        assert [error["ename"] for error in cell.errors] == ["KeyboardInterrupt"], cell.messages
        text = without_colours("\n".join(cell.errors[0]["traceback"]))
        assert "the cell was interrupted on ranks 0-2 of 3" in text
        cell = run(notebook, "%%gpu --spmd\nprint('caught', caught, kept)")
        assert cell.text() == "caught 1 100\n"
        assert "[rank 2] caught" in others(cell)
        run(notebook, "%%gpu --spmd\nassert connect() == 3")


def test_the_launcher_is_killed_while_a_cell_runs(notebook: NotebookKernel) -> None:
    run(notebook, "%%gpu --spmd\nlauncher = os.getppid()\nmine = 1")
    raised, text = fail(
        notebook,
        "%%gpu --spmd\nif rank == 1:\n    os.kill(os.getppid(), signal.SIGKILL)\n    time.sleep(600)",
    )
    assert raised == "LaunchError"
    assert "killed by signal 9" in text
    cell = run(notebook, "%%gpu --spmd\nprint('kept' in globals())")
    assert cell.text() == "True\n"
    assert others(cell) == "[ranks 1-2] False"
