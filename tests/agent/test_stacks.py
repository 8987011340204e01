"""Asking processes where they are: those that answer, those that do not, and those that are nobody's to be asked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_processes import until
from nbgpu_agent.processes import MARKER_VARIABLE
from nbgpu_agent.stacks import StackSource, read_cells, read_groups, take_stacks

ANSWERS = """
import faulthandler, signal, sys
faulthandler.register(signal.SIGUSR1, file=open(sys.argv[1], "a"), all_threads=False)
def wait_here():
    print("ready", flush=True)
    sys.stdin.read()
wait_here()
"""
SILENT = """
import signal, sys
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
print("ready", flush=True)
sys.stdin.read()
"""
PY_SPY = """#!{python}
import json, sys
assert sys.argv[1:4] == ["dump", "--json", "--nonblocking"], sys.argv
pid = int(sys.argv[5])
frame = {{"name": "looked_at", "filename": "/a/b.py", "line": 7}}
print(json.dumps([
    {{"thread_id": 2, "os_thread_id": pid, "frames": [frame]}},
    {{"thread_id": 1, "os_thread_id": pid + 1, "frames": []}},
]))
"""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """One that answers into `tmp_path / "0"`, and one that does not; both bear the marker "mine"."""
    started = []
    for number, program in enumerate((ANSWERS, SILENT)):
        (tmp_path / str(number)).touch()
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / str(number))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, MARKER_VARIABLE: "mine"},
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    yield started
    for process in started:
        process.kill()
        process.communicate()


def sources(folder: Path, processes: list[subprocess.Popen[str]]) -> list[StackSource]:
    return [StackSource(process.pid, folder / str(at), rank=at) for at, process in enumerate(processes)]


def test_who_answers_and_who_does_not(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    asked = sources(tmp_path, processes)
    for _ in range(2):  # the second time its file has the first answer before
        first, second = asyncio.run(take_stacks(asked, within_s=1.0, py_spy=None))
        assert first.dump.count("in wait_here") == 1
        assert (first.rank, second.rank, second.dump) == (0, 1, "")
    processes[0].kill()
    until(lambda: processes[0].poll() is not None)
    (gone,) = asyncio.run(take_stacks(asked[:1], within_s=0.1, py_spy=None))
    assert gone.dump == ""


WHOLE = """nbgpu: all threads
Thread 0x2 (most recent call first):
  File "/a.py", line 1 in helper
Thread 0x1 (most recent call first):
  File "/a.py", line 2 in main
"""
MAIN = """Stack (most recent call first):
  File "/a.py", line 3 in main
"""


@pytest.mark.parametrize("answer", [WHOLE, MAIN + WHOLE, WHOLE + MAIN, WHOLE.replace("helper", "old") + WHOLE])
def test_what_is_asked_by_message_answers_for_all_its_threads(tmp_path: Path, answer: str) -> None:
    path = tmp_path / "stacks"
    path.write_text("from before\n")

    def send_request() -> None:
        with path.open("a") as file:
            file.write(answer)

    (found,) = asyncio.run(take_stacks([StackSource(os.getpid(), path, send_request=send_request)], py_spy=None))
    assert found.dump == WHOLE.partition("\n")[2]


def test_a_message_that_is_not_answered_is_followed_by_the_signal(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    asked = StackSource(processes[0].pid, tmp_path / "0", send_request=lambda: None)
    (found,) = asyncio.run(take_stacks([asked], py_spy=None))
    assert found.dump.startswith("Stack (most recent call first):")
    assert "in wait_here" in found.dump


def test_py_spy_looks_at_those_that_do_not(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    program = tmp_path / "py-spy"
    program.write_text(PY_SPY.format(python=sys.executable))
    program.chmod(0o700)
    found = asyncio.run(take_stacks(sources(tmp_path, processes), within_s=1.0, py_spy=str(program)))
    assert "looked_at" not in found[0].dump
    assert found[1].dump.endswith('0000002 (most recent call first):\n  File "/a/b.py", line 7 in looked_at\n')


def test_only_the_kernels_own_processes_are_asked(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    group = {
        "id": "c1",
        "world_size": 3,
        "ranks": [
            {"rank": 1, "pid": processes[0].pid, "stacks": str(tmp_path / "0")},
            {"rank": 0, "pid": processes[1].pid, "stacks": str(tmp_path / "1")},
            {"rank": 2, "pid": os.getpid(), "stacks": str(tmp_path / "2")},
            {"rank": 3, "pid": -1, "stacks": ""},
        ],
        "cells": {"/n/1.py": 3},
    }
    (tmp_path / "c1.group").write_text(json.dumps(group))
    (tmp_path / "c2.group").write_text("not written by us")
    found, cells = read_groups(tmp_path, "mine")
    assert [(each.rank, each.pid) for each in found] == [(0, processes[1].pid), (1, processes[0].pid)]
    assert {(each.world_size, each.group_id) for each in found} == {(3, "c1")}
    assert cells == {"/n/1.py": 3}
    assert read_groups(tmp_path, "another's")[0] == []


def test_only_a_file_is_read(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "0")
    (found,) = asyncio.run(take_stacks([StackSource(processes[0].pid, tmp_path / "link")], within_s=1.0, py_spy=None))
    assert found.dump == ""
    assert "wait_here" in (tmp_path / "0").read_text()


def test_the_cells_that_stacks_name(tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("1\t/k/1.py\n2\t/k/2.py\n5\t/k/1.py\nbroken\n")
    dump = 'File "/k/1.py", line 1 in f\nFile "/n/9.py", line 2 in g'
    assert read_cells(tmp_path, {"/n/9.py": 9, "/n/8.py": 8}, [dump]) == {"/k/1.py": 5, "/n/9.py": 9}
    assert read_cells(tmp_path / "none", {}, [dump]) == {}


def test_the_signal_is_the_one_that_kernels_and_ranks_answer() -> None:
    from nbgpu_kernel.whereabouts import STACKS_SIGNAL

    assert signal.SIGUSR1 == STACKS_SIGNAL
