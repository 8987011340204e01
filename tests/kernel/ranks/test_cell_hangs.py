"""How the ranks of a cell are looked at: by what they answer, and where they cannot, by what faulthandler writes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbgpu_kernel.ranks.cell_hangs import AttendedSource

BUSY = """
import faulthandler, signal, sys
file = open(sys.argv[1], "w")
faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
def compute():
    print("ready", flush=True)
    sys.stdin.read()
compute()
"""
ANSWER = {"stack": [{"file": "a.py", "line": 3, "function": "train"}], "counts": {"0": 2}, "pending": ""}


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process that answers nothing but SIGUSR1, and the file of its stacks."""
    stacks = tmp_path / "stacks"
    command = [sys.executable, "-c", BUSY, str(stacks)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid, stacks
        process.kill()


def test_one_that_does_not_answer_writes_its_stack_at_the_next_look(busy: tuple[int, Path]) -> None:
    pid, stacks = busy
    questions: list[int] = []
    source = AttendedSource(1, pid, stacks, questions.append, lambda: False)
    source.ask()
    assert source.answer(final=False) is None
    look = source.answer(final=True)
    assert look is not None
    assert look.stack == ()
    source.ask()
    deadline = time.monotonic() + 60
    while not stacks.read_bytes().endswith(b"in <module>\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    look = source.answer(final=True)
    assert look is not None
    assert [frame.function for frame in look.stack] == ["compute", "<module>"]
    assert questions == [1], "it was asked again though it had not answered"
    source.take({"number": 1, **ANSWER})
    look = source.answer(final=False)
    assert look is not None
    assert look.counts == (("0", 2),)
    source.ask()
    assert questions == [1, 2]
    source.take({"number": 1, **ANSWER})
    assert source.answer(final=False) is None, "an answer to another question was taken"


def test_one_that_is_done_is_not_asked() -> None:
    source = AttendedSource(0, 1, None, lambda _: pytest.fail("it was asked"), lambda: True)
    source.ask()
    look = source.answer(final=False)
    assert look is not None
    assert look.has_returned
