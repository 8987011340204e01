"""What goes wrong between a notebook and its session: each time a clear error, nothing hung, nothing left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from nbgpu_protocol.discovery import agent_folder, read_record
from notebook_kernel import WITHIN_S, NotebookKernel, notebook_kernel, without_colours


@pytest.fixture(autouse=True)
def simulated(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGPU_SIMULATE", "H100x2,A10x1")


@pytest.fixture
def notebook(own_folders: Path, tmp_path: Path, close_sessions: Callable[[], list[str]]) -> Iterator[NotebookKernel]:
    with notebook_kernel(own_folders, name=f"n-{tmp_path.name[-30:]}") as kernel:
        kernel.run("%load_ext nbgpu")
        yield kernel
    close_sessions()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.02)


def test_interrupt_reaches_the_computation_and_the_session_survives(notebook: NotebookKernel) -> None:
    notebook.run("%%gpu H100\nkept = 1")
    cell = notebook.run(
        "%%gpu\nimport time\nprint('started')\ntry:\n    time.sleep(60)\nfinally:\n    print('cleaned up')",
        during=notebook.interrupt,
    )
    assert [error["ename"] for error in cell.errors] == ["KeyboardInterrupt"]
    assert "cleaned up" in cell.text()
    shown = without_colours("\n".join(cell.errors[0]["traceback"]))
    assert "time.sleep(60)" in shown
    assert "nbgpu" not in shown, "a frame of ours"
    assert cell.reply["content"]["status"] == "error"
    assert notebook.run("%%gpu\nkept").result == "1"


def test_interrupt_of_input(notebook: NotebookKernel) -> None:
    cell = notebook.start("%%gpu H100\ninput('never answered')", allow_stdin=True)
    notebook.client.get_stdin_msg(timeout=WITHIN_S)
    notebook.interrupt()
    assert [error["ename"] for error in notebook.finish(cell).errors] == ["KeyboardInterrupt"]
    assert notebook.run("%%gpu\n1").result == "1"


def test_a_second_interrupt_ends_the_kernel_and_keeps_the_session(notebook: NotebookKernel) -> None:
    notebook.run("%%gpu H100\nlost = 1")
    cell = notebook.start(
        "%%gpu\nimport time\nprint('started')\nwhile True:\n    try:\n        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n        print('ignored')"
    )
    heard = notebook.wait_for_text("started")
    notebook.interrupt()
    notebook.wait_for_text("ignored")
    # The second press counts only when it is not the first one's echo; the hint says when it does.
    notebook.wait_for_text("interrupt again to end its kernel")
    notebook.interrupt()
    finished = notebook.finish(cell)
    assert heard["parent_header"]["msg_id"] == cell.request_id
    assert [error["ename"] for error in finished.errors] == ["KernelDiedError"]
    after = notebook.run("%%gpu\n'lost' in globals()")
    assert after.result == "False"
    assert "fresh one" in after.text("stderr")
    assert "H100" in notebook.run("%gpu status").text()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "Fatal Python error: Segmentation fault"),
        ("import os; os.abort()", "SIGABRT"),
        ("exit()", "exit code 0"),
    ],
)
def test_a_kernel_that_dies_says_how_and_the_next_cell_gets_a_fresh_one(
    notebook: NotebookKernel, body: str, said: str
) -> None:
    notebook.run("%%gpu H100\ngone = 1")
    cell = notebook.run(f"%%gpu\nprint('first', flush=True)\nimport time; time.sleep(0.3)\n{body}")
    if body == "exit()":  # the kernel ends when the cell is over
        assert not cell.errors
        wait_until(lambda: said in notebook.run("%gpu status").text(), "the end of the kernel")
    else:
        assert [error["ename"] for error in cell.errors] == ["KernelDiedError"]
        assert said in cell.errors[0]["traceback"][0]
    assert cell.text() == "first\n"
    after = notebook.run("%%gpu\n'gone' in globals()")
    assert after.result == "False", after.messages
    assert "this is a fresh one" in after.text("stderr")


def test_children_that_a_cell_leaves_are_gone_after_close(notebook: NotebookKernel) -> None:
    cell = notebook.run(
        "%%gpu H100\nimport os, subprocess\n"
        "a = subprocess.Popen(['sleep', '600'])\n"
        "b = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    import time; os.setsid(); time.sleep(600); os._exit(0)\n"
        "print(os.getpid(), a.pid, b.pid, pid)"
    )
    processes = [psutil.Process(int(pid)) for pid in cell.text().split()]
    assert len(processes) == 4
    notebook.run("%gpu close")
    for process in processes:
        process.wait(timeout=WITHIN_S)


def test_two_notebooks_share_one_agent_and_wait_for_each_other(notebook: NotebookKernel, own_folders: Path) -> None:
    notebook.run("%gpu attach H100x2")
    with notebook_kernel(own_folders, name="second") as second:
        second.run("%load_ext nbgpu")
        assert "H100 ×2" in second.run("%gpu sessions").text()
        refused = second.run("%%gpu H100 --no-wait\n1")
        assert [error["ename"] for error in refused.errors] == ["BusyError"]
        waiting = second.start("%%gpu H100\nprint('ran')")
        shown = second.wait_for(lambda message: message["msg_type"] in ("display_data", "update_display_data"))
        assert "Queued, 1st of 1" in shown["content"]["data"]["text/plain"]
        assert "1 waiting" in notebook.run("%gpu offers").text()
        notebook.run("%gpu close")
        finished = second.finish(waiting)
        assert finished.text() == "ran\n"
        assert "clear_output" in finished.kinds, "what was said of the queue is taken away"


def test_a_notebook_that_waits_for_itself_is_told(notebook: NotebookKernel) -> None:
    notebook.run("%gpu attach H100")
    cell = notebook.start("%%gpu H100x2\nprint('ran')")
    shown = notebook.wait_for(lambda message: "Queued" in str(message["content"]))
    assert "this notebook itself holds H100 (simulated)" in shown["content"]["data"]["text/plain"]
    notebook.interrupt()
    assert [error["ename"] for error in notebook.finish(cell).errors] == ["KeyboardInterrupt"]


def test_a_queue_can_be_left_by_an_interrupt(notebook: NotebookKernel, own_folders: Path) -> None:
    notebook.run("%gpu attach A10")
    with notebook_kernel(own_folders, name="impatient") as second:
        second.run("%load_ext nbgpu")
        cell = second.start("%%gpu A10\nprint('ran')")
        second.wait_for(lambda message: "Queued" in str(message["content"]))
        second.interrupt()
        assert [error["ename"] for error in second.finish(cell).errors] == ["KeyboardInterrupt"]
        wait_until(lambda: "waiting" not in notebook.run("%gpu offers").text(), "the end of the queue")


def test_two_notebooks_that_start_the_agent_at_once_get_one(
    notebook: NotebookKernel, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBGPU_AGENT_DIR", str(own_folders / "at-once"))
    with notebook_kernel(own_folders, name="left") as left, notebook_kernel(own_folders, name="right") as right:
        for kernel in (left, right):
            kernel.run("%load_ext nbgpu")
        cells = [(kernel, kernel.start("%%gpu H100\nimport os; os.getppid()")) for kernel in (left, right)]
        parents = {kernel.finish(cell).result for kernel, cell in cells}
        record = read_record(agent_folder())
        assert record is not None
        assert parents == {str(record.pid)}
        assert left.run("%gpu sessions").text().count("H100") == 2
    os.kill(record.pid, signal.SIGTERM)
    psutil.Process(record.pid).wait(timeout=WITHIN_S)
    assert read_record(agent_folder()) is None


def test_the_session_is_found_again_after_a_restart_of_the_notebooks_kernel(notebook: NotebookKernel) -> None:
    before = notebook.run("%%gpu H100\nkept = 'still here'\nimport os; os.getpid()").result
    notebook.restart()
    notebook.run("%load_ext nbgpu")
    assert "H100" in notebook.run("%gpu status").text()
    assert notebook.run("%%gpu\nprint(kept)\nos.getpid()").result == before


def test_a_notebook_that_is_killed_leaves_its_session(notebook: NotebookKernel) -> None:
    notebook.run("%%gpu H100\nkept = 5")
    notebook.client.execute("%%gpu\nimport time; print('running', flush=True); time.sleep(2); kept += 1")
    notebook.wait_for_text("running")
    os.kill(notebook.manager.provisioner.pid, signal.SIGKILL)
    notebook.restart()
    notebook.run("%load_ext nbgpu")
    assert notebook.run("%%gpu\nkept").result == "6", "the cell went on, and the next one waited for it"


def test_an_agent_that_is_killed_is_replaced_and_the_cell_goes_on(
    notebook: NotebookKernel, own_folders: Path, tmp_path: Path
) -> None:
    pid = notebook.run("%%gpu H100\nimport os; os.getpid()").result
    child = notebook.run(
        "%%gpu\nimport subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True).pid"
    ).result
    record = read_record(agent_folder())
    assert record is not None
    session_kernel, escaped = psutil.Process(int(pid or 0)), psutil.Process(int(child or 0))
    go_on = tmp_path / "go-on"
    cell = notebook.start(
        "%%gpu\nimport os, time\nprint('running', flush=True)\n"
        f"while not os.path.exists({str(go_on)!r}):\n    time.sleep(0.01)\nprint('done')"
    )
    notebook.wait_for_text("running")
    os.kill(record.pid, signal.SIGKILL)
    notebook.wait_for_text("reconnecting")
    notebook.wait_for_text("connected to the agent again")
    go_on.touch()
    finished = notebook.finish(cell)
    assert not finished.errors
    assert finished.text().endswith("done\n")
    fresh = read_record(agent_folder())
    assert fresh is not None
    assert fresh.pid != record.pid
    after = notebook.run("%%gpu\nos.getpid()")
    assert after.result == pid
    assert "new session" not in after.text("stderr")
    notebook.run("%gpu close")
    session_kernel.wait(timeout=WITHIN_S)
    escaped.wait(timeout=WITHIN_S)


def test_a_session_closed_elsewhere_ends_the_cell_and_the_next_one_opens_another(
    notebook: NotebookKernel, run_python: Callable[..., str]
) -> None:
    session = notebook.run("%%gpu H100\nimport os; os.environ['NBGPU_SESSION_ID']").result
    cell = notebook.start("%%gpu\nimport time\nprint('running', flush=True)\ntime.sleep(600)")
    notebook.wait_for_text("running")
    closing = f"import sys; from nbgpu.cli import main; sys.exit(main(['close', {session}]))"
    assert "closed session" in run_python(closing)
    assert [error["ename"] for error in notebook.finish(cell).errors] == ["SessionClosedError"]
    after = notebook.run("%%gpu H100\n1")
    assert after.result == "1"
    assert "opening a new session" in after.text("stderr")


def test_a_flood_can_be_interrupted(notebook: NotebookKernel) -> None:
    cell = notebook.run("%%gpu H100\nwhile True:\n    print('flood ' * 100)", during=notebook.interrupt)
    assert [error["ename"] for error in cell.errors] == ["KeyboardInterrupt"]
    assert notebook.run("%%gpu\n1").result == "1"


def test_a_session_of_a_script_is_closed_with_it(
    own_folders: Path, run_python: Callable[..., str], notebook: NotebookKernel
) -> None:
    text = run_python("import nbgpu; s = nbgpu.attach('A10'); s.execute('print(6 * 7)'); print(s.accelerators)")
    assert text == "42\n('A10',)\n"
    assert "no sessions" in notebook.run("%gpu sessions").text()


def test_the_async_twin(run_python: Callable[..., str], notebook: NotebookKernel) -> None:
    text = run_python(
        "import asyncio, nbgpu\n"
        "async def main():\n"
        "    async with await nbgpu.attach_async('A10') as session:\n"
        "        await session.execute('x = 20')\n"
        "        print(await session.execute('x + 1'))\n"
        "        task = asyncio.ensure_future(session.execute('import time; time.sleep(600)'))\n"
        "        while not (await session.info()).HasField('executing'):\n"
        "            await asyncio.sleep(0.01)\n"
        "        task.cancel()\n"
        "        try:\n"
        "            await task\n"
        "        except asyncio.CancelledError:\n"
        "            print('cancelled')\n"
        "        print(await session.execute('x + 2'))\n"
        "asyncio.run(main())"
    )
    assert "21\n" in text
    assert "cancelled\n" in text
    assert text.endswith("22\n22\n"), "once shown, once returned"


@pytest.mark.parametrize("count", [20])
def test_interrupts_at_any_moment_end_the_cell_once(notebook: NotebookKernel, count: int) -> None:
    notebook.run("%%gpu H100\nimport time")
    for index in range(count):
        # A kernel ignores what comes before it has begun with the cell; this one has when the session's kernel prints.
        cell = notebook.start(f"%%gpu\nprint('begun', flush=True)\ntime.sleep({index * 0.001})\ntime.sleep(60)")
        notebook.wait_for_text("begun")
        notebook.interrupt()
        finished = notebook.finish(cell)
        assert [error["ename"] for error in finished.errors] == ["KeyboardInterrupt"], (index, finished.messages)
    assert notebook.run("%%gpu\n1 + 1").result == "2"
