"""The processes of a call: how each ended, and that all are found and ended, wherever they went."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time

import pytest

from nbgpu_kernel.ranks.processes import (
    MARKER_VARIABLE,
    end_marked,
    exit_of,
    marked_processes,
    read_starts,
    signal_group,
)

WITHIN_S = 30.0
WAIT = [sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.read()"]


def await_exit(pid: int) -> tuple[int | None, int | None]:
    deadline = time.monotonic() + WITHIN_S
    while (found := exit_of(pid)) is None:
        assert time.monotonic() < deadline, "it did not end"
        time.sleep(0.005)
    return found


@pytest.mark.parametrize("has_waitid", [True, False])
def test_how_a_child_ended(monkeypatch: pytest.MonkeyPatch, has_waitid: bool) -> None:
    if not has_waitid:
        monkeypatch.delattr(os, "waitid")
    for kills, expected in ((False, (0, None)), (True, (None, signal.SIGKILL))):
        child = subprocess.Popen(WAIT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        assert exit_of(child.pid) is None
        if kills:
            child.kill()
        child.stdin.close()
        assert await_exit(child.pid) == expected
        child.stdout.close()
        child.wait(WITHIN_S)


def test_one_that_is_nobodys_child_has_ended() -> None:
    assert exit_of(os.getpid()) == (None, None)


def test_marked_processes_are_ended_also_such_as_do_not_want_to() -> None:
    call_id = secrets.token_hex(4)
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAIT[2].removeprefix("import sys; ")
    programs = [WAIT[2], f"import sys; {stubborn}"]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, MARKER_VARIABLE: call_id},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        for program in programs
    ]
    other = subprocess.Popen(WAIT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        for child in (*children, other):
            assert child.stdout is not None
            child.stdout.readline()
        assert set(marked_processes(call_id, {})) == {child.pid for child in children}
        assert end_marked(call_id, {}) == 2
        assert [child.wait(WITHIN_S) for child in children] == [-signal.SIGTERM, -signal.SIGKILL]
        assert other.poll() is None
        assert end_marked(call_id, {}) == 0
    finally:
        for child in (*children, other):
            child.kill()
            child.communicate()


def test_a_process_without_the_marker_is_found_by_its_session() -> None:
    call_id = secrets.token_hex(4)
    start = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {WAIT[2]!r}], env={{}}); print(child.pid, flush=True); "
        "child.wait()"
    )
    leader = subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert leader.stdout is not None
        child = int(leader.stdout.readline())
        leader.stdout.readline()
        starts = read_starts([leader.pid])
        assert set(marked_processes(call_id, starts)) == {leader.pid, child}
        assert list(marked_processes(call_id, {leader.pid: starts[leader.pid] - 1})) == []  # another had its number
        leader.kill()
        leader.wait(WITHIN_S)
        assert list(marked_processes(call_id, starts)) == [child]
        assert end_marked(call_id, starts) == 1
        assert list(marked_processes(call_id, starts)) == []
        assert read_starts([leader.pid]) == {}
    finally:
        leader.kill()
        leader.communicate()


def test_a_group_that_does_not_exist_yet_is_its_process() -> None:
    with subprocess.Popen(WAIT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        signal_group(child.pid, signal.SIGKILL)
        assert child.wait(WITHIN_S) == -signal.SIGKILL
    signal_group(child.pid, signal.SIGKILL)
