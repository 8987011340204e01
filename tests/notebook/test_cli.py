"""`nbgpu` in the terminal: what it prints where, and the exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import nbgpu
from agent_processes import DEADLINE_S, Client, Workplace, client_of, until
from nbgpu.cli import main
from nbgpu_protocol.discovery import AgentRecord, read_record
from nbgpu_protocol.v1 import pool_pb2

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def agent(place: Workplace) -> AgentRecord:
    _, record = place.start_embedded()
    return record


@pytest.fixture
def client(agent: AgentRecord) -> Iterator[Client]:
    with client_of(agent) as client:
        yield client


@pytest.fixture
def nbgpu_says(capsys: Capture) -> Callable[..., str]:
    """Runs a command that succeeds and says nothing beside its data, and returns that."""

    def run(*arguments: str) -> str:
        code = main(arguments)
        told = capsys.readouterr()
        assert (code, told.err) == (0, "")
        return told.out

    return run


Says = Callable[..., str]


def fails(capsys: Capture, *arguments: str) -> str:
    """Runs a command that fails, and returns what it says of that; there are no data."""
    code = main(arguments)
    told = capsys.readouterr()
    assert (code, told.out) == (1, "")
    assert "Traceback" not in told.err
    return told.err


def test_offers(agent: AgentRecord, nbgpu_says: Says) -> None:
    lines = nbgpu_says("offers").splitlines()
    assert lines[0].split() == ["ACCELERATOR", "MEMORY", "STATE", "NODE"]
    assert [line.split()[0] for line in lines[1:]] == ["H100", "CPU"]
    assert "4 of 4 free  simulated" in lines[1]


def test_the_first_command_starts_the_agent_and_says_so_beside_the_data(place: Workplace, capsys: Capture) -> None:
    assert main(["sessions"]) == 0
    told = capsys.readouterr()
    assert told.out == "no sessions\n"
    assert told.err == "Starting this machine's agent …\n"
    assert read_record(place.folder) is not None


def test_sessions_are_listed_and_closed(client: Client, nbgpu_says: Says) -> None:
    session = client.open(2)
    assert f"{session.id}  -         H100 ×2 (simulated)  idle" in nbgpu_says("sessions")
    assert nbgpu_says("close", session.id[:6]) == f"closed session {session.id}; H100 ×2 (simulated) is free again\n"
    assert nbgpu_says("sessions") == "no sessions\n"


@pytest.mark.parametrize("command", ["close", "interrupt", "restart", "logs", "stacks"])
def test_a_session_is_named_by_the_beginning_of_its_id_and_by_that_alone(
    client: Client, command: str, capsys: Capture
) -> None:
    assert fails(capsys, command, "nothing") == (
        "nbgpu: no session has an id that begins with nothing\n\nhint: list them by `nbgpu sessions`\n"
    )
    open_before = [client.open(1).id, client.open(1).id]
    assert "more than one session has an id that begins with" in fails(capsys, command, "")
    assert [session.id for session in client.sessions()] == open_before


@pytest.mark.parametrize("command", ["close", "interrupt", "restart", "logs", "stacks"])
def test_where_no_agent_runs_none_is_started_for_nothing(place: Workplace, command: str, capsys: Capture) -> None:
    assert "no agent runs on this machine" in fails(capsys, command, "4f2a")
    assert not place.folder.exists()


def test_interrupt(client: Client, nbgpu_says: Says) -> None:
    session = client.open(1)
    assert nbgpu_says("interrupt", session.id) == "nothing was running\n"
    stream = client.connect(session.id, "print('begins', flush=True)\nimport time\ntime.sleep(3600)")
    until(lambda: b"begins" in b"".join(entry.message.payload for entry in next(stream).entries.entries))
    assert nbgpu_says("interrupt", session.id) == "interrupted\n"
    until(lambda: client.sessions()[0].kernel_state == pool_pb2.KERNEL_IDLE)


def test_restart(client: Client, nbgpu_says: Says) -> None:
    session = client.open(1)
    said = nbgpu_says("restart", session.id[:8])
    assert said == f"session {session.id} has a fresh kernel; its variables are gone\n"
    assert client.sessions()[0].kernel_generation == 2


def test_stacks(client: Client, nbgpu_says: Says) -> None:
    session = client.open(1)
    said = nbgpu_says("stacks", session.id)
    assert f"session {session.id}: idle" in said
    assert "the kernel runs no code of yours now" in said
    assert "zmq" in nbgpu_says("stacks", session.id[:6], "--all")


def test_logs(client: Client, nbgpu_says: Says) -> None:
    session = client.open(1)
    assert nbgpu_says("logs", session.id) == ""
    stream = client.connect(session.id, "import os\nos.write(2, b'from the process itself\\n')\nprint('written')")
    until(lambda: b"written" in b"".join(entry.message.payload for entry in next(stream).entries.entries))
    # ipykernel passes what is written to the descriptor on from a thread of its own
    until(lambda: nbgpu_says("logs", session.id) == "from the process itself\n")


def test_the_life_of_the_agent(place: Workplace, capsys: Capture) -> None:
    assert main(["agent", "status"]) == 1
    assert capsys.readouterr().out.startswith("no agent runs here")
    assert "there is no log at" in fails(capsys, "agent", "log")
    assert main(["agent", "stop"]) == 0
    assert capsys.readouterr() == ("no agent runs here\n", "")

    assert main(["agent", "start"]) == 0
    told = capsys.readouterr()
    record = read_record(place.folder)
    assert record is not None
    running = f"the agent runs as process {record.pid}, version {nbgpu.__version__}"
    assert told == (f"{running}\n", "Starting this machine's agent …\n")
    assert main(["agent", "start"]) == 0
    assert capsys.readouterr() == (f"{running}\n", "")

    with client_of(record) as client:
        client.open(1)
        assert main(["agent", "status"]) == 0
        told = capsys.readouterr()
        assert told.out.startswith(f"{running}, 1 sessions open\nACCELERATOR")
        refused = fails(capsys, "agent", "stop")
        assert refused.startswith("nbgpu: 1 session is open\n\nhint: ")
        assert "`nbgpu agent stop --force`" in refused
        assert len(client.sessions()) == 1

    agent = psutil.Process(record.pid)
    assert main(["agent", "stop", "--force"]) == 0
    assert str(record.pid) in capsys.readouterr().out
    agent.wait(DEADLINE_S)
    assert main(["agent", "log"]) == 0
    assert "closed: the agent ended" in capsys.readouterr().out


def test_an_agent_that_does_not_start_is_an_error_with_its_last_words(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("NBGPU_SIMULATE", "H100x")
    assert main(["agent", "start"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "'H100x' is no accelerator" in told.err


@pytest.mark.parametrize(
    "arguments", [[], ["no-such"], ["agent"], ["agent", "no-such"], ["close"], ["close", "a", "b"], ["offers", "--all"]]
)
def test_wrong_arguments(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("usage: nbgpu")


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_are_data(argument: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as raised:
        main([argument])
    assert raised.value.code == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.startswith("usage: nbgpu" if argument == "--help" else f"nbgpu {nbgpu.__version__}")


def run_with_closed_pipe(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does when it has seen enough
    try:
        return subprocess.run(
            [sys.executable, "-m", "nbgpu", *arguments],
            env=environ,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_reader_that_has_left_is_no_error(place: Workplace, size: int) -> None:
    place.folder.mkdir()
    (place.folder / "agent.log").write_text("x" * size)
    finished = run_with_closed_pipe("agent", "log")
    assert (finished.returncode, finished.stderr) == (0, "")


def test_serving_is_the_agents_own_program(place: Workplace) -> None:
    served = subprocess.run(
        [sys.executable, "-m", "nbgpu", "agent", "serve", "--listen", "0.0.0.0:0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert served.returncode == 2
    assert served.stdout == ""
    assert "can be reached from other machines" in served.stderr
    assert not Path(place.folder).exists()


def test_cost(client: Client, nbgpu_says: Says) -> None:
    session = client.open(2)
    client.CloseSession(pool_pb2.CloseSessionRequest(session_id=session.id))
    lines = nbgpu_says("cost").splitlines()
    assert lines[0].split() == ["GPU", "TIME", "BUSY"]
    assert [line.split()[0] for line in lines[1:3]] == ["today", "this"]
