"""`python -m nbgpu_agent` as a process: its lock, its end, and what it leaves when it is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import psutil
import pytest

from agent_processes import DEADLINE_S, Client, Workplace, client_of, until, workplace
from nbgpu_agent.app import EXIT_ALREADY_RUNNING, EXIT_REFUSED
from nbgpu_protocol.discovery import read_record
from nbgpu_protocol.v1 import pool_pb2


@pytest.fixture
def place() -> Iterator[Workplace]:
    with workplace() as place:
        yield place


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_its_sessions_and_leaves_nothing(place: Workplace, number: int) -> None:
    process, record = place.start_embedded()
    assert record.address == f"unix:{place.folder / 'agent.sock'}"
    assert place.folder.stat().st_mode & 0o777 == 0o700
    with client_of(record) as client:
        assert client.handshake().pid == process.pid
        client.open(2)
    assert place.end(process, number) == 0
    assert place.left_in(place.folder) == set()
    assert place.stragglers() == []
    assert list((place.root / "tmp").iterdir()) == []
    assert record.token not in place.log()


def test_one_agent_a_folder(place: Workplace) -> None:
    process, record = place.start_embedded()
    second = place.start("--embedded", f"--folder={place.folder}")
    assert second.wait(DEADLINE_S) == EXIT_ALREADY_RUNNING
    assert f"already, with process id {process.pid}" in place.log()
    with client_of(record) as client:
        assert client.handshake().pid == process.pid


def test_one_agent_an_address(place: Workplace) -> None:
    process, _, token = place.start_listening()
    assert token not in (place.folder / "agent.json").read_text()
    second = place.start("--listen=127.0.0.1:0", f"--folder={place.folder}")
    assert second.wait(DEADLINE_S) == EXIT_ALREADY_RUNNING
    assert f"already, with process id {process.pid}" in place.log()
    assert place.end(process) == 0
    place.assert_nothing_left()


def test_of_two_that_start_at_once_one_serves(place: Workplace) -> None:
    processes = [place.start("--embedded", f"--folder={place.folder}") for _ in range(3)]
    until(lambda: sum(each.poll() is not None for each in processes) == 2)
    assert sorted(str(each.poll()) for each in processes) == sorted(["None", *[str(EXIT_ALREADY_RUNNING)] * 2])
    record = until(lambda: read_record(place.folder))
    with client_of(record) as client:
        assert client.handshake().pid == next(each.pid for each in processes if each.poll() is None)


def test_what_a_killed_agent_left_is_removed_by_the_next(place: Workplace) -> None:
    process, record = place.start_embedded()
    with client_of(record) as client:
        client.open(4)
    assert place.end(process, signal.SIGKILL) == -signal.SIGKILL
    assert "agent.sock" in place.left_in(place.folder)
    process, record = place.start_embedded()
    with client_of(record) as client:
        client.open(4)  # all are free again
        alive = {each.pid for each in place.stragglers()}
        children = {each.pid for each in psutil.Process(process.pid).children(recursive=True)}
        assert alive <= children | {process.pid}
    place.end(process)
    assert place.left_in(place.folder) == set()
    assert place.stragglers() == []
    assert list((place.root / "tmp").iterdir()) == []


def test_a_folder_with_a_long_path_gets_a_socket_elsewhere(place: Workplace) -> None:
    folder = place.root / ("f" * 60) / ("g" * 60)
    short = place.root / "t"
    for number in (signal.SIGKILL, signal.SIGTERM):
        process, record = place.start_embedded(folder=folder)
        socket = Path(record.address.removeprefix("unix:"))
        assert not socket.is_relative_to(folder)
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        with client_of(record) as client:
            assert client.handshake().pid == process.pid
        place.end(process, number)
        assert socket.exists() == (number == signal.SIGKILL)
    assert place.left_in(folder) == set()
    assert not short.exists()
    assert list((place.root / "tmp").iterdir()) == []


def test_it_ends_when_nobody_uses_it(place: Workplace) -> None:
    process, _ = place.start_embedded("--AgentApp.idle_shutdown_s=0.5")
    assert process.wait(DEADLINE_S) == 0
    assert place.left_in(place.folder) == set()
    assert place.stragglers() == []


def test_a_session_and_a_watcher_keep_it_alive(place: Workplace) -> None:
    process, record = place.start_embedded("--AgentApp.idle_shutdown_s=1")
    with client_of(record) as client:
        watch = client.WatchPool(pool_pb2.WatchPoolRequest())
        next(watch)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
        session = client.open(1)
        watch.cancel()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
        client.CloseSession(pool_pb2.CloseSessionRequest(session_id=session.id))
    assert process.wait(DEADLINE_S) == 0


def test_a_client_may_end_it(place: Workplace) -> None:
    process, record = place.start_embedded()
    with client_of(record) as client:
        client.open(1)
        with pytest.raises(grpc.RpcError, match="1 session is open"):
            client.Shutdown(pool_pb2.ShutdownRequest())
        client.Shutdown(pool_pb2.ShutdownRequest(close_sessions=True))
        assert process.wait(DEADLINE_S) == 0
    assert place.left_in(place.folder) == set()
    assert place.stragglers() == []


def test_on_loopback_it_prints_once_how_to_reach_it(place: Workplace) -> None:
    process = place.start("--listen=127.0.0.1:0")
    assert process.stdout is not None
    words = dict(word.split("=", 1) for word in process.stdout.readline().removeprefix("export ").split())
    with Client(words["NBGPU_AGENT_ADDRESS"], words["NBGPU_AGENT_TOKEN"]) as client:
        assert not client.handshake().embedded
        with pytest.raises(grpc.RpcError, match="chooses interpreter"):
            list(client.OpenSession(pool_pb2.OpenSessionRequest(python=sys.executable)))
    assert place.end(process) == 0
    assert process.stdout.read() == ""
    assert words["NBGPU_AGENT_TOKEN"] not in place.log()


def test_the_token_may_be_given(place: Workplace) -> None:
    token = "a-token-that-was-given"
    process = place.start(f"--listen=unix:{place.root}/gpu.sock", NBGPU_AGENT_TOKEN=token)
    assert process.stdout is not None
    assert process.stdout.readline() == f"export NBGPU_AGENT_ADDRESS=unix:{place.root}/gpu.sock\n"
    with Client(f"unix:{place.root}/gpu.sock", token) as client:
        assert client.handshake().pid == process.pid
    assert place.end(process) == 0
    assert not (place.root / "gpu.sock").exists()


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--listen=0.0.0.0:7443"], {}, "can be reached from other machines"),
        (["--listen=127.0.0.1:0", "--AgentApp.lease_duration_s=-1"], {}, "no negative"),
        (["--listen=127.0.0.1:0"], {"NBGPU_SIMULATE": "H100x"}, "NBGPU_SIMULATE=H100x: 'H100x' is no accelerator"),
        (["--listen=127.0.0.1:0"], {"NBGPU_AGENT_TOKEN": "short"}, "shorter than 16"),
        (["--listen=127.0.0.1:0", "--AgentApp.token_file=/no/such"], {}, "cannot be read"),
        (["--embedded", "--folder=/dev/null/x"], {}, "cannot be used"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    place: Workplace, arguments: Sequence[str], variables: dict[str, str], message: str
) -> None:
    process = place.start(*arguments, **variables)
    assert process.wait(DEADLINE_S) == EXIT_REFUSED
    assert message in place.log()
    assert "Traceback" not in place.log()


def test_it_is_configured_in_jupyters_files(place: Workplace) -> None:
    (place.root / "config").mkdir()
    (place.root / "config" / "nbgpu_config.json").write_text(json.dumps({"AgentApp": {"idle_shutdown_s": 0.5}}))
    process, _ = place.start_embedded()
    assert process.wait(DEADLINE_S) == 0


def test_help_describes_every_option(place: Workplace) -> None:
    process = place.start("--help-all")
    text, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    for option in ("listen", "idle_shutdown_s", "environment_variables", "spare_kernels", "journal_bytes"):
        assert f"--AgentApp.{option}=" in text


def test_prices_are_configured_or_in_the_environment(place: Workplace) -> None:
    process, address, token = place.start_listening("--AgentApp.prices=H100=2.10", "--AgentApp.currency=eur")
    with Client(address, token) as client:
        offers = client.ListOffers(pool_pb2.ListOffersRequest()).offers
    assert (offers[0].price_per_hour, offers[0].currency) == (2.10, "EUR")
    assert not offers[1].HasField("price_per_hour")
    assert place.end(process) == 0
    process, address, token = place.start_listening(NBGPU_PRICES="h100=0.5")
    with Client(address, token) as client:
        offers = client.ListOffers(pool_pb2.ListOffersRequest()).offers
    assert (offers[0].price_per_hour, offers[0].currency) == (0.5, "USD")
    assert place.end(process) == 0


def test_a_price_that_is_none_is_refused_in_words(place: Workplace) -> None:
    process = place.start("--listen=127.0.0.1:0", f"--folder={place.folder}", NBGPU_PRICES="H100:2")
    assert process.wait(60) == EXIT_REFUSED
    assert "NBGPU_PRICES=H100:2: cannot read 'H100:2'" in place.log()
