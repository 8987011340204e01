"""A notebook's kernel is killed while its session works: the next one shows what was missed, and goes on with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nbgpu.client.embedded import find_agent
from nbgpu.client.executions import list_executions
from nbgpu.client.pool import Pool
from nbgpu_protocol.v1 import pool_pb2
from notebook_kernel import WITHIN_S, NotebookKernel, notebook_kernel, without_colours

BEGINS = "import os, sys, time\nfrom IPython.display import display\nprint('begins', flush=True)\n"
WAITS = "while not os.path.exists(%r):\n    time.sleep(0.01)\n"


@pytest.fixture(scope="module")
def notebook(own_folders: Path, close_sessions: Callable[[], list[str]]) -> Iterator[NotebookKernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x2")
        with notebook_kernel(own_folders) as kernel:
            kernel.run("%load_ext nbgpu")
            yield kernel
            close_sessions()


@pytest.fixture(autouse=True)
def one_session(notebook: NotebookKernel, close_sessions: Callable[[], list[str]]) -> Iterator[None]:
    yield
    close_sessions()


def executions() -> list[pool_pb2.Execution]:
    """Returns what the sessions have executed, as their agent knows it."""

    async def ask() -> list[pool_pb2.Execution]:
        record = await find_agent()
        assert record is not None
        async with Pool(record.address, record.token) as pool:
            return [
                execution
                for session in await pool.list_sessions()
                for execution in (await list_executions(pool, session.id)).executions
            ]

    return asyncio.run(ask())


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.05)


def killed_during(notebook: NotebookKernel, code: str, said: str = "begins") -> None:
    """Kills the notebook's kernel while its cell runs in the session, and starts it anew."""
    notebook.start(code)
    notebook.wait_for_text(said)
    start_anew(notebook)


def start_anew(notebook: NotebookKernel) -> None:
    notebook.kill()
    notebook.restart()
    notebook.run("%load_ext nbgpu")


def ended(number: int) -> None:
    """Waits until so many executions have ended."""
    wait_until(lambda: sum(each.HasField("ended_unix_s") for each in executions()) >= number, "the end of the cell")


def test_a_cell_that_still_runs_is_followed_to_its_end(notebook: NotebookKernel, tmp_path: Path) -> None:
    notebook.run("%%gpu H100\nprint('seen')")
    wait_until(lambda: [each.shown for each in executions()] == [True], "the agent's knowing of it")
    gate = tmp_path / "go on"
    killed_during(
        notebook,
        f"%%gpu\n{BEGINS}display({{'text/plain': 'figure'}}, raw=True)\nprint('wrong', file=sys.stderr, flush=True)\n"
        f"{WAITS % str(gate)}print('ends')\nraise ValueError('of the cell')",
    )
    status = notebook.run("%gpu status").text()
    assert status.count("not shown yet: cell [") == 1
    assert "still runs" in status

    without = notebook.run("%gpu attach --no-follow")
    assert "`print('begins', flush=True)` still runs" in without.text()
    assert without.text().endswith("begins\n")
    assert without.reply["content"]["status"] == "ok"

    left = notebook.start("%gpu attach")
    notebook.wait_for_text("begins")
    notebook.interrupt()
    notebook.finish(left)
    assert [error["ename"] for error in left.errors] == ["FollowingStoppedError"]
    (line,) = left.errors[0]["traceback"]
    assert "which goes on; `%gpu attach` follows it again, `%gpu interrupt` stops it" in line
    assert executions()[-1].state == pool_pb2.EXECUTION_RUNNING

    followed = notebook.start("%gpu attach")
    notebook.wait_for_text("begins")
    gate.touch()
    notebook.finish(followed)
    assert "seen" not in followed.text()
    assert "begins\nends\n▸ cell [" in followed.text()
    assert "raised ValueError" in followed.text()
    assert followed.text("stderr").startswith("wrong\n")
    assert "ValueError: of the cell" in without_colours(followed.text("stderr"))
    displays = [each["content"] for each in followed.messages if each["msg_type"] == "display_data"]
    assert [each["data"] for each in displays] == [{"text/plain": "figure"}]
    assert followed.reply["content"]["status"] == "ok"

    assert "▸" not in notebook.run("%gpu attach").text()
    assert "not shown yet" not in notebook.run("%gpu status").text()


def test_the_first_cell_says_what_ran_and_has_its_variables(
    notebook: NotebookKernel, tmp_path: Path, run_python: Callable[..., str]
) -> None:
    gate = tmp_path / "go on"
    notebook.run("%%gpu H100\nkept = 1")
    wait_until(lambda: [each.shown for each in executions()] == [True], "the agent's knowing of it")
    killed_during(
        notebook,
        f"%%gpu\n{BEGINS}{WAITS % str(gate)}loss = kept + 1\nfor i in range(3000): print('line', i)",
    )
    gate.touch()
    ended(2)
    told = notebook.run("%%gpu\nkept + loss")
    assert told.result == "3"
    assert "went on without it" in told.text("stderr")
    assert "`print('begins', flush=True)` ran for" in told.text("stderr")
    assert "`%gpu attach` shows their output" in told.text("stderr")
    assert "without it" not in notebook.run("%%gpu\n1").text("stderr")

    attached = notebook.run("%gpu attach").text()
    assert attached.count("▸") == 1
    assert "1,001 lines before this are left out here" in attached
    assert attached.count("\nline ") == 2000
    assert "brings here what it bound" in attached
    assert " loss" in attached
    assert notebook.run("%gpu pull loss\nprint(loss)").text() == "brought loss\n2\n"

    number = executions()[1].execution_count
    whole = "begins\n" + "".join(f"line {each}\n" for each in range(3000))
    assert whole in notebook.run(f"%gpu output {executions()[1].request_id[:8]}").text()
    listed = notebook.run("%gpu output --list").text().splitlines()
    assert len(listed) == 5
    assert f"[{number}]" in listed[2]
    session_id = notebook.run("%gpu status").text().partition("session ")[2][:16]
    request_id = executions()[1].request_id
    printed = run_python(
        f"from nbgpu.cli import main; raise SystemExit(main(['output', '{session_id}', '{request_id}']))"
    )
    assert printed.endswith(whole)
    unknown = notebook.run("%gpu output 999")
    assert "has run no cell [999]" in "\n".join(unknown.errors[0]["traceback"])


def test_what_a_cell_asks_is_asked_again_and_a_kernel_that_ended_is_said(
    notebook: NotebookKernel, tmp_path: Path
) -> None:
    notebook.run("%%gpu H100\npass")
    asking = notebook.start("%%gpu\nprint('answer:', input('go on? '))", allow_stdin=True)
    assert notebook.client.get_stdin_msg(timeout=WITHIN_S)["parent_header"]["msg_id"] == asking.request_id
    start_anew(notebook)
    answered = notebook.run("%gpu attach", answers=("yes",))
    assert "answer: yes\n" in answered.text()

    gate = tmp_path / "end"
    killed_during(notebook, f"%%gpu\n{BEGINS}{WAITS % str(gate)}os._exit(3)")
    gate.touch()
    ended(3)
    lost = notebook.run("%gpu attach").text()
    assert "begins\n" in lost
    assert "did not come to its end: the session's kernel ended with exit code 3" in lost


@pytest.mark.parametrize("at_once", [True, False])
def test_a_restart_of_the_notebooks_kernel_does_not_interrupt_the_cell(
    notebook: NotebookKernel, tmp_path: Path, at_once: bool
) -> None:
    gate = tmp_path / "go on"
    notebook.run("%%gpu H100\npass")
    notebook.run("import nbgpu.interruption\nnbgpu.interruption.HOLD_S = 60")  # however slow this machine is
    notebook.start(f"%%gpu\n{BEGINS}{WAITS % str(gate)}print('ends')")
    notebook.wait_for_text("begins")
    notebook.restart(now=at_once)  # which interrupts the kernel first
    notebook.run("%load_ext nbgpu")
    gate.touch()
    ended(2)
    assert executions()[1].state == pool_pb2.EXECUTION_SUCCEEDED
    assert "begins\nends\n" in notebook.run("%gpu attach").text()
