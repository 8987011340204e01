"""Ranks that wait for one that does not come: what is said under the cell while they do, and when they go on."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from notebook_kernel import Cell, NotebookKernel, notebook_kernel, without_colours

SETUP = """
import os, time
import torch, torch.distributed as dist
from nbgpu import distributed, runtime as rt

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.02)

@distributed(hang_after_s=0.5)
def train(gate):
    dist.init_process_group("gloo")
    if rt.get_global_rank() == 2:
        wait_for(gate)
    dist.all_reduce(torch.ones(1))
    return rt.get_global_rank()
"""


@pytest.fixture(scope="module")
def notebook(own_folders: Path) -> Iterator[NotebookKernel]:
    work = own_folders / "work"
    work.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x3")
        patch.chdir(work)
        with notebook_kernel(own_folders) as kernel:
            for cell in ("%load_ext nbgpu", SETUP, "%gpu attach H100x3"):
                assert not kernel.run(textwrap.dedent(cell).strip()).errors
            yield kernel


def is_report(message: dict[str, Any]) -> bool:
    return "nbgpu-Hang" in message["content"].get("data", {}).get("text/html", "")


def is_of_rank_2(message: dict[str, Any]) -> bool:
    """Whether the report is the one that a test waits for: a slow machine may have had the ranks wait before."""
    wanted = ("rank 2 of 3 has not come to all_reduce", "ranks 0-1 wait in all_reduce", "rank 2 is in wait_for")
    return is_report(message) and all(each in text_of(message) for each in wanted)


def text_of(message: dict[str, Any]) -> str:
    return str(message["content"]["data"]["text/plain"])


def reports(cell: Cell) -> list[dict[str, Any]]:
    return [message for message in cell.messages if is_report(message)]


def test_who_waits_and_who_has_not_come_until_it_does(notebook: NotebookKernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    cell = notebook.start(f"train.distributed({str(gate)!r})")
    try:
        first = notebook.wait_for(is_of_rank_2)
        again = notebook.wait_for(is_of_rank_2)
    finally:
        gate.touch()
        cell = notebook.finish(cell)
    assert not cell.errors
    assert cell.result == "[0, 1, 2]"
    title, *lines = text_of(first).splitlines()
    assert re.fullmatch(r"nbgpu: No progress for more than \d+ s: rank 2 of 3 has not come to all_reduce", title)
    assert re.fullmatch(r"  ranks 0-1 wait in all_reduce, in train, line \d+ of Cell In\[2\], for \d+ s", lines[0])
    assert re.fullmatch(
        r"  rank 2 is in wait_for, line [67] of Cell In\[2\](, at that line for \d+ s)?"
        r", 1 collective behind",
        lines[1],
    )
    assert "an interrupt ends the call" in lines[2]
    html = first["content"]["data"]["text/html"]
    assert "<summary>rank 2 is in wait_for" in html
    assert "Cell In[2], line 13, in train" in html
    # Said once, and brought up to date in place.
    assert again["msg_type"] == "update_display_data"
    assert again["content"]["transient"] == first["content"]["transient"]
    last = reports(cell)[-1]
    assert last["msg_type"] == "update_display_data"
    assert re.match(r"nbgpu: Went on after \d+ s without progress: ", text_of(last))


def test_an_interrupt_ends_what_hangs(notebook: NotebookKernel, tmp_path: Path) -> None:
    cell = notebook.start(f"train.distributed({str(tmp_path / 'never')!r})")
    notebook.wait_for(is_of_rank_2)
    notebook.interrupt()
    cell = notebook.finish(cell)
    (error,) = cell.errors
    assert error["ename"] == "KeyboardInterrupt"
    assert re.search(r"Ended after \d+ s without progress: rank 2 of 3 had not come", text_of(reports(cell)[-1]))


def test_a_cell_of_the_sessions_own_says_it_too(notebook: NotebookKernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    cell = notebook.start(f"%%gpu\ntrain.distributed({str(gate)!r})")
    try:
        report = notebook.wait_for(is_of_rank_2)
    finally:
        gate.touch()
        cell = notebook.finish(cell)
    assert not cell.errors
    assert "rank 2 of 3 has not come to all_reduce" in text_of(report)
    assert cell.result == "[0, 1, 2]"


def ranks_of_cells(notebook: NotebookKernel) -> None:
    """Has the session's ranks connected, with what the cells need, and hangs told of soon."""
    begin = """
        %%gpu --spmd
        import os, time
        import torch, torch.distributed as dist
        rank = int(os.environ["RANK"])
        def wait_for(path):
            while not os.path.exists(path):
                time.sleep(0.02)
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        """
    for code in ("os.environ['NBGPU_HANG_AFTER_S'] = '0.5'", begin):
        cell = notebook.run(textwrap.dedent(code).strip())
        assert not cell.errors, cell.errors[0]["traceback"]


def test_ranks_that_call_different_collectives(notebook: NotebookKernel) -> None:
    ranks_of_cells(notebook)
    code = """
        %%gpu --spmd
        half = dist.new_group([0, 2])
        if rank == 0:
            dist.all_reduce(torch.ones(1), group=half)
        else:
            dist.barrier()
        """
    cell = notebook.start(textwrap.dedent(code).strip())
    report = notebook.wait_for(lambda each: is_report(each) and "different" in text_of(each))
    notebook.interrupt()
    notebook.finish(cell)
    text = text_of(report)
    assert ": the 3 ranks are in different collectives, all_reduce and barrier\n" in text
    assert "  rank 0 waits in all_reduce, at line " in text
    assert "  ranks 1-2 wait in barrier, at line " in text
    assert "Every rank has to call the same collectives in the same order" in text


def test_what_torch_counts_and_has_pending(notebook: NotebookKernel) -> None:
    """What tells ranks that are busy with collectives, at the same line at every look, from ranks that hang."""
    ranks_of_cells(notebook)
    code = """
        %%gpu --spmd
        from nbgpu_kernel.ranks import facts
        dist.destroy_process_group()
        dist.init_process_group("gloo")
        found = []
        for step in range(3):
            dist.all_reduce(torch.ones(1))
            found.append(facts._counts())
        pending = dist.all_reduce(torch.ones(1), async_op=True) if rank else None
        store = dist.distributed_c10d._get_default_store()
        if rank == 1:
            while not facts._pending():
                time.sleep(0.02)
            found.append(facts._pending())
            store.set("seen", "1")
        store.wait(["seen"])
        pending.wait() if pending else dist.all_reduce(torch.ones(1))
        print(found)
        """
    cell = notebook.run(textwrap.dedent(code).strip())
    assert not cell.errors, cell.errors[0]["traceback"]
    counted = "{'0': 1}, {'0': 2}, {'0': 3}"
    assert cell.text() == f"[{counted}]\n"
    displays = [message for message in cell.messages if "display" in message["msg_type"] and not is_report(message)]
    assert set(text_of(displays[-1]).splitlines()) == {f"[rank 1] [{counted}, 'all_reduce']", f"[rank 2] [{counted}]"}


@pytest.mark.parametrize("late", [1, 0], ids=["other-rank", "the-kernel"])
def test_ranks_of_a_cell_hang_and_go_on(notebook: NotebookKernel, tmp_path: Path, late: int) -> None:
    ranks_of_cells(notebook)
    gate = tmp_path / "gate"
    who = "ranks 1-2" if late == 0 else "ranks 0, 2"

    def is_told(message: dict[str, Any]) -> bool:
        wanted = (f"rank {late} of 3 has not come to all_reduce", f"{who} wait in all_reduce, at line 4 of Cell In[")
        return is_report(message) and all(each in text_of(message) for each in (*wanted, f"rank {late} is in wait_for"))

    code = f"""
        %%gpu --spmd
        if rank == {late}:
            wait_for({str(gate)!r})
        dist.all_reduce(torch.ones(1))
        print("done", rank)
        """
    cell = notebook.start(textwrap.dedent(code).strip())
    try:
        report = notebook.wait_for(is_told)
        again = notebook.wait_for(is_told)
    finally:
        gate.touch()
        cell = notebook.finish(cell)
    assert not cell.errors
    assert "done 0" in cell.text()
    assert f"  rank {late} is in wait_for, line " in text_of(report)
    assert "1 collective behind" in text_of(report)
    assert "an interrupt ends the cell" in text_of(report)
    assert again["content"]["transient"] == report["content"]["transient"]
    last = reports(cell)[-1]
    assert last["msg_type"] == "update_display_data"
    assert re.match(r"nbgpu: Went on after \d+ s without progress: ", text_of(last))


def test_ranks_of_a_cell_wait_for_one_that_does_not_run_it(notebook: NotebookKernel) -> None:
    ranks_of_cells(notebook)
    cell = notebook.start("%%gpu --ranks 1-2\ndist.all_reduce(torch.ones(1))")
    report = notebook.wait_for(lambda each: is_report(each) and "rank 0 does not run this cell" in text_of(each))
    notebook.interrupt()
    cell = notebook.finish(cell)
    assert "rank 0 of 3 has not come to all_reduce" in text_of(report)
    assert cell.errors[0]["ename"] == "KeyboardInterrupt"
    assert re.match(r"nbgpu: Ended after \d+ s without progress: ", text_of(reports(cell)[-1]))


def test_what_is_no_number_of_seconds_is_refused(notebook: NotebookKernel) -> None:
    (error,) = notebook.run("train.with_overrides(hang_after_s='soon')").errors
    text = without_colours("\n".join(error["traceback"]))
    assert "hang_after_s is a number of seconds, not 'soon'" in text
    assert json.dumps("soon") not in text
