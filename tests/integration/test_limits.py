"""What bounds a session, as a notebook meets it: a pool with prices, on a port of loopback."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from agent_processes import Client, Workplace, until, workplace
from nbgpu_protocol.v1 import pool_pb2
from notebook_kernel import Cell, NotebookKernel, notebook_kernel, without_colours


@pytest.fixture(scope="module")
def place() -> Iterator[Workplace]:
    with workplace() as place:
        yield place
        assert place.end_agents() <= {0}
        assert place.stragglers() == []


@pytest.fixture(scope="module")
def agent(place: Workplace) -> Iterator[Client]:
    process, address, token = place.start_listening(
        "--AgentApp.prices=H100=360",
        "--max-session=3d",
        "--AgentApp.budget_grace=1s",
        "--AgentApp.user_accelerators=3",
        "--session-memory=500MB",
        "--session-disk=40MB",
        "--AgentApp.cell_output=1MB",
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in place.environ(
            NBGPU_AGENT_ADDRESS=address, NBGPU_AGENT_TOKEN=token, NBGPU_SNAPSHOT="0"
        ).items():
            patch.setenv(name, value)
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        with Client(address, token) as client:
            yield client
    assert place.end(process) == 0


@pytest.fixture(scope="module")
def notebook(place: Workplace, agent: Client) -> Iterator[NotebookKernel]:
    with notebook_kernel(place.root) as notebook:
        run(notebook, "%load_ext nbgpu")
        yield notebook


@pytest.fixture(autouse=True)
def no_session_stays(agent: Client) -> Iterator[None]:
    yield
    for session in agent.sessions():
        agent.CloseSession(pool_pb2.CloseSessionRequest(session_id=session.id))


def run(notebook: NotebookKernel, code: str) -> Cell:
    cell = notebook.run(code)
    assert cell.errors == [], without_colours("\n".join(cell.errors[0]["traceback"]))
    return cell


def test_an_idle_session_is_closed_and_the_next_cell_says_so(notebook: NotebookKernel, agent: Client) -> None:
    run(notebook, "%gpu attach H100")
    status = run(notebook, "%gpu status").text()
    assert re.search(r"idle, closes in \d+ min, unless it is used", status)
    kept = run(notebook, "%gpu keep --idle 2h").text()
    assert re.search(r"closes in 1[12]\d min, unless it is used", kept)

    run(notebook, "%gpu keep --idle 1s")
    until(lambda: not agent.sessions())
    cell = run(notebook, "%%gpu H100\nprint('here')")
    assert cell.text() == "here\n"
    assert "the session was closed: it was idle for 1 s; opening a new session" in cell.text("stderr")
    assert "this is a new one" not in cell.text("stderr")


def test_a_notebook_that_was_away_is_told_when_it_comes_back(notebook: NotebookKernel, agent: Client) -> None:
    run(notebook, "%gpu attach H100")
    notebook.restart()
    session = agent.sessions()[0]
    agent.RenewLease(pool_pb2.RenewLeaseRequest(session_id=session.id, idle_close_s=1.0))
    until(lambda: not agent.sessions())
    run(notebook, "%load_ext nbgpu")
    said = run(notebook, "%%gpu H100\nprint('here')").text("stderr")
    assert re.search(r"the session on H100 was closed at \d\d:\d\d: it was idle for 1 s; this is a new one", said)


def test_a_session_in_which_a_thread_computes_is_not_idle(notebook: NotebookKernel, agent: Client) -> None:
    run(notebook, "%gpu attach H100")
    run(
        notebook,
        "%%gpu\nimport hashlib, os, threading\nstop, data = threading.Event(), bytes(1 << 20)\n"
        "def compute():\n    while not stop.is_set():\n        hashlib.sha256(data)  # without the GIL\n"
        "threads = [threading.Thread(target=compute) for _ in range(os.cpu_count())]\n"
        "for thread in threads:\n    thread.start()",
    )
    until(lambda: not agent.sessions()[0].closing.HasField("idle_since_unix_s"))
    run(notebook, "%%gpu\nstop.set()\nfor thread in threads:\n    thread.join()")
    until(lambda: agent.sessions()[0].closing.HasField("idle_since_unix_s"))


def test_a_span_that_is_none_is_refused_with_a_hint(notebook: NotebookKernel) -> None:
    (error,) = notebook.run("%gpu attach H100 --idle soon").errors
    assert "--idle needs a span of time, and 'soon' is none" in error["evalue"]


def test_what_was_spent_is_shown_by_session_day_month_and_cell(notebook: NotebookKernel, agent: Client) -> None:
    run(notebook, "%gpu attach H100x2")
    run(notebook, "%%gpu\nimport time\ntime.sleep(0.5)")
    text = run(notebook, "%gpu cost").text()
    assert re.search(r"this session +\d+ s +\d+% +\$\d+\.\d\d", text), text
    assert re.search(r"this notebook .*\ntoday .*\nthis month .*", text), text
    assert re.search(r"\[\d+\] +\S+ +H100 ×2 +\d\d \w+ \d\d:\d\d +\d+\.\d s +(\d+%)? +\$\d+\.\d\d", text), text
    assert run(notebook, "%gpu budget").text().startswith("no budget is set")
    assert re.match(
        r"your budget of this month: \$\d+\.\d\d of \$5000\.00 spent, \$720\.00 an hour now\n",
        run(notebook, "%gpu budget 5000 --month").text(),
    )
    run(notebook, "%gpu budget off --month")


def test_a_spent_budget_interrupts_the_cell_closes_the_session_and_refuses_the_next(
    notebook: NotebookKernel, agent: Client
) -> None:
    run(notebook, "%gpu attach H100")

    def spend() -> None:
        (allowance,) = agent.set_budget("one", 0.01)
        assert allowance.of == "the budget of this notebook"

    cell = notebook.run("%%gpu\nprint('begun', flush=True)\nwhile True:\n    pass", during=spend)
    assert [error["ename"] for error in cell.errors] == ["KeyboardInterrupt"]
    assert "the budget of this notebook, 0.01 USD, is spent: the session is closed in 1 s" in cell.text("stderr")
    until(lambda: not agent.sessions())
    (error,) = notebook.run("%%gpu H100\nprint('here')").errors
    assert error["ename"] == "LimitReachedError"
    assert re.search(r"the budget of this notebook, 0.01 USD, is spent \(\d+\.\d\d USD\)", error["evalue"])
    assert "`%gpu budget off` any amount" in error["evalue"]

    assert run(notebook, "%gpu budget off").text().startswith("no budget is set")
    assert run(notebook, "%%gpu H100\nprint('here')").text() == "here\n"


def test_more_accelerators_than_a_user_may_hold_are_refused(notebook: NotebookKernel, agent: Client) -> None:
    run(notebook, "%gpu attach H100x2")
    (error,) = notebook.run("%gpu attach H100x2 --new").errors
    assert "2 accelerators asked, 2 held or waited for by other sessions of yours" in error["evalue"]
    assert "this pool allows 3 at once" in error["evalue"]


@pytest.mark.parametrize("line", ["%gpu budget lots", "%gpu budget -5", "%gpu budget 1 2"])
def test_what_is_no_budget_is_refused(notebook: NotebookKernel, line: str) -> None:
    (error,) = notebook.run(line).errors
    assert "hint: " in without_colours("\n".join(error["traceback"]))


def test_a_kernel_that_takes_too_much_memory_is_ended_in_words(notebook: NotebookKernel, agent: Client) -> None:
    run(notebook, "%gpu attach H100")
    cell = notebook.run("%%gpu\nimport time\nlarge = b'x' * (700 << 20)\ntime.sleep(600)")
    (error,) = cell.errors
    assert error["ename"] == "KernelDiedError"
    assert re.search(
        r"the session's kernel was ended at its memory limit of 500 MB, as it used \d+ MB", error["evalue"]
    )
    status = run(notebook, "%gpu status").text()
    assert "kernel was ended at its memory limit of 500 MB" in status
    again = run(notebook, "%%gpu\nprint('fresh')")
    assert again.text() == "fresh\n"
    assert "ended at its memory limit" in again.text("stderr")


def test_a_cell_that_fills_its_folder_is_interrupted_in_words(notebook: NotebookKernel, agent: Client) -> None:
    run(notebook, "%gpu attach H100")
    cell = notebook.run("%%gpu\nimport time\nopen('big', 'wb').write(b'x' * 42_000_000)\ntime.sleep(600)")
    assert [error["ename"] for error in cell.errors] == ["KeyboardInterrupt"]
    assert "this session's files take 42 MB of the 40 MB that they may: the cell is interrupted" in cell.text("stderr")
    assert run(notebook, "%%gpu\nimport os\nos.remove('big')\nprint('kept')").text() == "kept\n"


def test_what_a_cell_prints_beyond_its_allowance_is_in_the_log(notebook: NotebookKernel, agent: Client) -> None:
    run(notebook, "%gpu attach H100")
    cell = run(notebook, "%%gpu\nfor n in range(30_000):\n    print(n, 'x' * 90)\n6 * 7")
    assert 500_000 < len(cell.text()) <= 1_000_000
    assert cell.text("stderr").count("this cell has printed as much as a cell may") == 1
    assert cell.result == "42"
    log = run(notebook, "%gpu logs").text()
    assert "\n29999 xxx" in log
    assert run(notebook, "%%gpu\nprint('short')").text() == "short\n"
