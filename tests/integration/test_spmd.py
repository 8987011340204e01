"""`%%gpu --spmd` runs a cell on every accelerator: what its ranks have, what comes back, and what is shown of them."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from notebook_kernel import Cell, NotebookKernel, notebook_kernel, without_colours


@pytest.fixture(scope="module")
def notebook(own_folders: Path) -> Iterator[NotebookKernel]:
    work = own_folders / "work"
    work.mkdir()
    (work / "beside.py").write_text("def double(v):\n    return 2 * v\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x3,A10x1")
        patch.chdir(work)
        with notebook_kernel(own_folders) as kernel:
            run(kernel, "%load_ext nbgpu")
            run(kernel, "%gpu attach H100x3")
            yield kernel


def run(notebook: NotebookKernel, code: str) -> Cell:
    """Executes a cell that is to succeed."""
    cell = notebook.run(textwrap.dedent(code).strip())
    assert not cell.errors, "\n".join(cell.errors[0]["traceback"])
    return cell


def value(notebook: NotebookKernel, expression: str) -> str | None:
    return run(notebook, expression).result


def failure(notebook: NotebookKernel, code: str) -> str:
    """Executes a cell that is to fail; returns what the person reads."""
    cell = notebook.run(textwrap.dedent(code).strip())
    assert len(cell.errors) == 1, cell.messages
    return without_colours("\n".join(cell.errors[0]["traceback"]))


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def folded(cell: Cell) -> list[str]:
    """Returns the lines of the other ranks, as last displayed, sorted."""
    displays = [message["content"]["data"] for message in cell.messages if "display" in message["msg_type"]]
    assert "<details>" in displays[-1]["text/html"]
    return sorted(displays[-1]["text/plain"].splitlines())


def test_ranks_have_torchruns_variables_what_the_notebook_has_and_their_own(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        import os, beside
        import numpy as np
        from dataclasses import dataclass

        @dataclass
        class Point:
            x: int

        offset = 100
        point = Point(3)
        big = np.arange(300_000)
        def shifted(point):
            return Point(point.x + offset)
        """,
    )
    run(notebook, "os.environ['GREETING'] = 'hi'\n%gpu env -e GREETING")
    cell = run(
        notebook,
        """
        %%gpu --spmd
        import torch, torch.distributed as dist
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group()
        total = torch.tensor([rank + 1.0])
        dist.all_reduce(total)
        big[0] = rank
        names = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "GREETING")
        print(rank, world, total.item(), shifted(point), beside.double(21), big[0] + big[-1], isinstance(point, Point))
        print([os.environ[name] for name in names])
        """,
    )
    lines = [f"{rank} 3 6.0 Point(x=103) 42 {299_999 + rank} True" for rank in range(3)]
    assert lines[0] in cell.text()
    assert "['0', '3', '0', '0', 'hi']" in cell.text()
    rest = [f"[rank {rank}] ['{rank}', '3', '0', '0', 'hi']" for rank in (1, 2)]
    assert folded(cell) == sorted([*(f"[rank {rank}] {lines[rank]}" for rank in (1, 2)), *rest])
    # What rank 0 bound is the notebook's as well; each rank has its own.
    assert value(notebook, "rank, world, float(total), int(big[0])") == "(0, 3, 6.0, 0)"
    cell = run(notebook, "%%gpu --spmd\nprint('rank', rank, big[0])")
    assert "rank 0 0" in cell.text()
    assert folded(cell) == ["[rank 1] rank 1 1", "[rank 2] rank 2 2"]
    # The variables are for the ranks' cells alone: a library in another would take it for one of several.
    assert "None" in run(notebook, "%%gpu\nprint(os.environ.get('WORLD_SIZE'))").text()


def test_what_a_plain_cell_or_the_notebook_binds_anew_reaches_the_ranks(notebook: NotebookKernel) -> None:
    run(notebook, "%%gpu --spmd\nimport os\nown = shared = int(os.environ['RANK'])\nitems = [own]")
    run(notebook, "%%gpu --no-sync\nshared = 'of a plain cell'\nhidden = {'a': 1}")
    run(notebook, "factor = 7\ndef scaled(v):\n    return v * factor")
    cell = run(notebook, "%%gpu --spmd\nitems.append(scaled(own))\nprint(own, shared, hidden, items)")
    assert folded(cell) == [
        "[rank 1] 1 of a plain cell {'a': 1} [1, 7]",
        "[rank 2] 2 of a plain cell {'a': 1} [2, 14]",
    ]
    run(notebook, "factor = 10")
    cell = run(notebook, "%%gpu --spmd\nprint(scaled(own), items)")
    assert folded(cell) == ["[rank 1] 10 [1, 7]", "[rank 2] 20 [2, 14]"]
    assert value(notebook, "items") == "[0, 0]"
    run(notebook, "items = 'the notebook wins'")
    assert folded(run(notebook, "%%gpu --spmd\nprint(items)")) == ["[ranks 1-2] the notebook wins"]


def test_some_ranks_run_a_cell_alone_and_the_first_of_them_is_shown_in_full(notebook: NotebookKernel) -> None:
    run(notebook, "%%gpu --spmd\nimport os\nwho = 'rank ' + os.environ['RANK']")
    cell = run(notebook, "%%gpu --ranks 1-2\nprint(who)\nwho += ' alone'\nfresh = 1")
    assert cell.text() == "rank 1\n"
    assert folded(cell) == ["[rank 2] rank 2"]
    assert value(notebook, "who, 'fresh' in globals()") == "('rank 0', False)"
    cell = run(notebook, "%%gpu --ranks=0,2 --all-ranks\nprint(who)")
    assert sorted(cell.text().splitlines()) == ["[rank 2] rank 2 alone", "rank 0"]


def test_magics_shell_commands_and_await_work_on_every_rank(notebook: NotebookKernel) -> None:
    cell = run(
        notebook,
        """
        %%gpu --spmd
        import asyncio, sys
        await asyncio.sleep(0)
        !echo shell
        print("wrong", file=sys.stderr)
        (1, 2)
        """,
    )
    assert "shell" in cell.text()
    assert "wrong" in cell.text("stderr")
    assert cell.result == "(1, 2)"
    lines = folded(cell)
    assert [re.sub(r"Out\[\d+\]", "Out[n]", line) for line in lines] == [
        "[ranks 1-2] Out[n]: (1, 2)",
        "[ranks 1-2] shell",
        "[ranks 1-2] wrong",
    ]


def test_the_log_of_a_rank_is_whole(notebook: NotebookKernel) -> None:
    run(notebook, "%%gpu --spmd\nimport os\nfor n in range(2000): print('line', n, 'of', os.environ['RANK'])")
    log = run(notebook, "%gpu logs --rank 2").text()
    assert "line 0 of 2\n" in log
    assert log.endswith("line 1999 of 2\n")
    assert "line 1999 of 0\n" in run(notebook, "%gpu logs --rank 0").text()
    assert "there is no rank 3" in failure(notebook, "%gpu logs --rank 3")


def test_a_value_is_in_memory_once_until_a_rank_writes_to_it(notebook: NotebookKernel) -> None:
    size_mb = 64
    run(notebook, f"import numpy as np\nlarge = np.full({size_mb} << 20, 7, np.uint8)")
    shown = run(
        notebook,
        """
        %%gpu --spmd --all-ranks
        import torch.distributed as dist
        def resident_mb():
            # The part of this process in the memory of the mapping that the array is in.
            address, found, inside = large.ctypes.data, 0, False
            for line in open("/proc/self/smaps"):
                first = line.split()[0]
                if "-" in first and not first.endswith(":"):
                    start, end = (int(part, 16) for part in first.split("-"))
                    inside = start <= address < end
                elif inside and first == "Pss:":
                    found += int(line.split()[1]) / 1024
            return found
        if not dist.is_initialized():
            dist.init_process_group()
        total = int(large.sum())
        dist.barrier()  # all have it now
        print("MB", round(resident_mb()))
        dist.barrier()
        large[:] = 8
        dist.barrier()
        print("written", round(resident_mb()), large[0])
        dist.barrier()
        """,
    ).text()
    found = [int(size) for size in re.findall(r"MB (\d+)", shown)]
    assert len(found) == 3, shown
    assert size_mb * 0.9 < sum(found) < size_mb * 1.2, shown
    written = [int(size) for size in re.findall(r"written (\d+) 8", shown)]
    assert [size >= size_mb for size in written] == [True] * 3, shown


def test_what_cannot_be_sent_is_named_before_the_cell_runs(notebook: NotebookKernel) -> None:
    run(notebook, "%%gpu --no-sync\nnumbers = (n for n in range(3))")
    text = failure(notebook, "%%gpu --spmd\nran = True\nnext(numbers)")
    assert "`numbers`, which the cell reads, cannot be sent to the ranks: TypeError: cannot pickle 'generator'" in text
    assert "hint: make it in a `--spmd` cell" in text
    # One that the cell makes anew is no hindrance.
    cell = run(notebook, "%%gpu --spmd\nnumbers = iter([1])\nprint(next(numbers))")
    assert folded(cell) == ["[ranks 1-2] 1"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--ranks 0,9", "there is no rank 9 in a session on H100 ×3 (simulated), which has ranks 0-2"),
        ("--ranks 2-1", "--ranks needs numbers of ranks, not '2-1'"),
        ("--ranks", "--ranks needs ranks"),
        ("--all-ranks", "--all-ranks is for a cell that runs on several ranks"),
        ("CPU --spmd", "--spmd runs a cell on a rank for each accelerator, and the session on"),
    ],
)
def test_what_cannot_be_run_is_refused(notebook: NotebookKernel, line: str, expected: str) -> None:
    text = failure(notebook, f"%%gpu {line}\npass")
    assert expected in text
    assert "hint: " in text


def test_a_session_on_one_accelerator_has_one_rank(notebook: NotebookKernel) -> None:
    cell = run(notebook, "%%gpu A10 --spmd\nimport os\nprint(os.environ['RANK'], os.environ['WORLD_SIZE'])")
    assert "0 1\n" in cell.text()
    assert "which has rank 0 alone" in failure(notebook, "%%gpu A10 --ranks 1\npass")


def test_a_missing_torch_is_one_error(notebook: NotebookKernel) -> None:
    text = failure(
        notebook,
        """
        %%gpu --spmd
        import sys
        sys.modules["torch_that_is_missing"] = None
        import torch_that_is_missing
        """,
    )
    assert text.count("ModuleNotFoundError: import of torch_that_is_missing halted") == 1
    assert re.search(r"ranks \d(, |-)\d raised ModuleNotFoundError after it", text)


def test_ranks_end_with_their_session(notebook: NotebookKernel) -> None:
    run(notebook, "%%gpu --spmd\nimport os, subprocess\nchild = subprocess.Popen(['sleep', '600']).pid")
    cell = run(notebook, "%%gpu --spmd --all-ranks\nprint(os.getpid(), child)")
    pids = [int(pid) for line in cell.text().splitlines() for pid in line.removeprefix("[").split()[-2:]]
    assert len(pids) == 6
    assert all(map(is_running, pids))
    run(notebook, "%gpu restart")
    deadline = time.monotonic() + 60
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    # A fresh session has fresh ranks.
    assert folded(run(notebook, "%%gpu --spmd\nprint('child' in globals())")) == ["[ranks 1-2] False"]
    run(notebook, "%gpu close")
