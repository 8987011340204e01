"""One rank fails while the others wait for it: what the person reads, and what is left behind, which is nothing."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import rank_faults
from notebook_kernel import Cell, NotebookKernel, notebook_kernel, without_colours


@pytest.fixture(scope="module")
def notebook(own_folders: Path) -> Iterator[NotebookKernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x3")
        patch.chdir(own_folders)
        with notebook_kernel(own_folders) as kernel:
            rank_faults.prepare(kernel)
            yield kernel


def run(notebook: NotebookKernel, code: str) -> Cell:
    cell = notebook.run(textwrap.dedent(code).strip())
    assert not cell.errors, "\n".join(cell.errors[0]["traceback"])
    return cell


def fail(notebook: NotebookKernel, code: str) -> tuple[str, str]:
    """Executes a cell that is to fail; returns the name of what it raised and what the person reads."""
    cell = notebook.run(code)
    assert len(cell.errors) == 1, cell.messages
    return cell.errors[0]["ename"], without_colours("\n".join(cell.errors[0]["traceback"]))


WAITED = "ranks 0, 2 waited in all_reduce when they were stopped, in work, line "
OTHERS = "(ranks 0, 2|rank 0) (lost the connection to it|waited in all_reduce)"
"""Gloo may notice that a process is gone before they are stopped."""


@pytest.mark.parametrize(
    ("kind", "ename", "expected"),
    [
        ("raise", "Mine", [r"raise Mine\(", r"Mine: \('boom', 7\)", "of 3 on", "raised Mine", WAITED]),
        ("exit", "RankFailedError", ["rank 1 of 3 on", "ended with exit code 3 before it was done", WAITED]),
        ("memory", "OutOfMemoryError", ["raise torch.Out", "CUDA out of memory. Tried to allocate 2.00 GiB", WAITED]),
        ("port", "DistNetworkError", ["EADDRINUSE", r"dist.TCPStore\(", WAITED]),
        ("kill", "RankFailedError", ["rank 1 of 3 on", "was killed by SIGKILL", OTHERS]),
        ("crash", "RankFailedError", ["rank 1 of 3 on", "crashed with SIGSEGV", "work, line ", OTHERS]),
        ("leave", "RankFailedError", ["rank 1 of 3 on", "ended with exit code 0 before it was done", OTHERS]),
    ],
)
def test_a_rank_fails(notebook: NotebookKernel, kind: str, ename: str, expected: list[str]) -> None:
    raised, text = fail(notebook, f"work.distributed({kind!r})")
    assert raised == ename, text
    for each in [*expected, "hint: `%gpu logs --rank 1`"]:
        assert re.search(each, text), text
    assert "nbgpu_kernel" not in text, "a frame of ours is shown"
    assert_nothing_left(notebook)
    assert "before 1\n" in run(notebook, "%gpu logs --rank 1").text()


def test_a_rank_loops_before_a_collective_until_the_timeout(notebook: NotebookKernel) -> None:
    raised, text = fail(notebook, "work.with_overrides(timeout=10).distributed('loop')")
    assert raised == "CallTimeoutError"
    assert "the call on 3 ranks was ended after its timeout of 10 s" in text
    assert "ranks 0, 2 waited in all_reduce when the time was over" in text
    assert "rank 1 was running when the time was over, in work, line " in text
    # The stacks of all, as the person knows their cells.
    assert "rank 1 of 3 on" in text
    assert text.count("    work, line ") == 2, text
    assert "of Cell In[" in text
    assert_nothing_left(notebook)


def test_an_exception_has_its_own_type_and_its_cause(notebook: NotebookKernel) -> None:
    cell = run(
        notebook,
        """
        @distributed(gpus=2)
        def chained():
            try:
                1 / 0
            except ZeroDivisionError as error:
                raise Mine("boom", rt.get_global_rank()) from error
        try:
            chained.distributed()
        except Mine as error:
            print(type(error) is Mine, error.number in (0, 1))
        """,
    )
    assert cell.text().endswith("True True\n")
    _, text = fail(notebook, "chained.distributed()")
    assert text.index("ZeroDivisionError: division by zero") < text.index("direct cause") < text.index("Mine: ('boom'")
    assert "1 / 0" in text
    # The other rank has raised as well by then, or was stopped on its way there.
    assert re.search(r"raised Mine after it: \('boom', |rank \d was running when it was stopped", text), text


def test_the_launcher_itself_is_killed(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        from pathlib import Path
        started = Path("started").absolute()
        @distributed(gpus=2)
        def endless(started):
            import os, time
            if rt.get_global_rank() == 0:
                (started.parent / "new").write_text(str(os.getppid()))
                (started.parent / "new").rename(started)
            while True:
                time.sleep(0.01)
        call = endless.submit(started)
        import os, signal
        while not started.exists():
            assert call.status == "running"
        os.kill(int(started.read_text()), signal.SIGKILL)
        """,
    )
    raised, text = fail(notebook, "call.result()")
    assert raised == "LaunchError"
    assert "their launcher was killed by signal 9" in text
    assert_nothing_left(notebook)


def test_the_sessions_kernel_is_killed(notebook: NotebookKernel) -> None:
    run(notebook, "call = work.submit('loop')")
    raised, _ = fail(notebook, "%%gpu --no-sync\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert raised == "KernelDiedError"
    run(notebook, "%gpu restart")
    assert "NoSuchCallError" in fail(notebook, "call.status")[0]
    rank_faults.define_left(notebook)
    run(
        notebook,
        """
        %%gpu --no-sync
        import time
        deadline = time.monotonic() + 30  # the ranks are ended by the operating system, what they started by the agent
        while left()[0] and time.monotonic() < deadline:
            time.sleep(0.05)
        """,
    )
    assert_nothing_left(notebook)


def assert_nothing_left(notebook: NotebookKernel) -> None:
    """Looks for processes, temporary files and shared memory of any call, and that the session goes on."""
    assert rank_faults.left_behind(notebook) == ""
