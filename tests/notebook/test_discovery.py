"""This machine's agent, as its clients find, start and replace it; and an agent that the environment names."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import psutil
import pytest

from agent_processes import DEADLINE_S, Workplace, client_of, until
from nbgpu import errors
from nbgpu.client.discovery import PoolAddress, configured_address, connect, find_address
from nbgpu.client.embedded import ensure_agent, find_agent, has_ended
from nbgpu_protocol import VERSION
from nbgpu_protocol.discovery import AGENT_FILE, AgentRecord, read_record, write_record

OTHER_VERSION = """
import nbgpu_protocol
nbgpu_protocol.VERSION = 99
from nbgpu_agent.app import main
main()
"""


def test_the_first_client_starts_the_agent_and_the_next_finds_it(place: Workplace) -> None:
    assert asyncio.run(find_agent()) is None
    told: list[str] = []
    record = asyncio.run(ensure_agent(on_progress=told.append))
    assert told == ["Starting this machine's agent"]
    assert asyncio.run(ensure_agent(on_progress=told.append)) == record
    assert asyncio.run(find_agent()) == record
    assert len(told) == 1
    assert (record.protocol_version, psutil.Process(record.pid).environ()["HOME"]) == (VERSION, str(place.root))
    assert os.getpgid(record.pid) == record.pid  # a Ctrl-C here is not meant for it


def test_of_several_that_start_it_at_once_all_get_the_same(place: Workplace) -> None:
    program = "import asyncio; from nbgpu.client.embedded import *; print(asyncio.run(ensure_agent()).pid)"
    starters = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    pids = {starter.communicate(timeout=DEADLINE_S)[0] for starter in starters}
    assert [starter.returncode for starter in starters] == [0, 0, 0]
    assert len(pids) == 1
    record = asyncio.run(find_agent())
    assert record is not None
    assert pids == {f"{record.pid}\n"}


def test_the_record_of_an_agent_that_was_killed_is_no_agent(place: Workplace) -> None:
    process, record = place.start_embedded()
    place.end(process, 9)
    assert read_record(place.folder) == record
    assert asyncio.run(find_agent()) is None
    again = asyncio.run(ensure_agent())
    assert again.pid != record.pid


def test_a_record_that_others_could_have_written_is_not_trusted(place: Workplace) -> None:
    _, record = place.start_embedded()
    assert asyncio.run(find_agent()) == record
    (place.folder / AGENT_FILE).chmod(0o622)
    assert asyncio.run(find_agent()) is None
    (place.folder / AGENT_FILE).chmod(0o600)
    write_record(place.folder, AgentRecord(**{**vars(record), "token": "of another agent that had the folder"}))
    assert asyncio.run(find_agent()) is None
    write_record(place.folder, record)
    place.end(place.processes[0])


def test_an_idle_agent_of_another_version_is_replaced(place: Workplace) -> None:
    process, other = place.start_embedded(program=OTHER_VERSION)
    with pytest.raises(errors.VersionMismatchError, match="speaks protocol 99"):
        asyncio.run(find_agent())
    record = asyncio.run(ensure_agent())
    assert process.wait(DEADLINE_S) == 0
    assert record.pid != other.pid
    assert record.protocol_version == VERSION


def test_an_agent_of_another_version_with_sessions_is_left_alone(place: Workplace) -> None:
    process, other = place.start_embedded(program=OTHER_VERSION)
    with client_of(other) as client:
        session = client.open(1)
        with pytest.raises(errors.VersionMismatchError) as raised:
            asyncio.run(ensure_agent())
        assert "and it has sessions open" in raised.value.message()
        assert "nbgpu agent stop --force" in raised.value.hint
        assert process.poll() is None
        assert [each.id for each in client.sessions()] == [session.id]
    assert place.end(process) == 0


def test_an_agent_that_does_not_start_is_told_of_with_its_last_words(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBGPU_SIMULATE", "H100x")
    with pytest.raises(errors.AgentStartError) as raised:
        asyncio.run(ensure_agent())
    lines = raised.value.message().splitlines()
    assert lines[0] == "this machine's agent ended with exit code 2:"
    assert any("'H100x' is no accelerator" in line for line in lines[1:])
    assert str(place.folder / "agent.log") in raised.value.hint


def test_an_agent_that_runs_and_does_not_answer_is_told_of(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    process, record = place.start_embedded()
    monkeypatch.setattr("nbgpu.client.pool.DEADLINE_S", 0.3)
    psutil.Process(process.pid).suspend()
    try:
        with pytest.raises(errors.AgentStartError, match=f"already, with process id {record.pid}"):
            asyncio.run(ensure_agent())
    finally:
        psutil.Process(process.pid).resume()
    assert place.end(process) == 0


def test_a_process_that_nobody_has_waited_for_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not has_ended(process.pid)
        assert not PoolAddress("unix:/x", "t", process.pid).is_agent_gone()
        process.kill()
        until(lambda: has_ended(process.pid))
        assert psutil.pid_exists(process.pid)
        assert PoolAddress("unix:/x", "t", process.pid).is_agent_gone()
    finally:
        process.kill()
        process.communicate()
    assert has_ended(process.pid)
    assert not PoolAddress("127.0.0.1:1", "t").is_agent_gone()


def test_an_agent_that_the_environment_names_comes_first(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured_address() is None
    assert asyncio.run(find_address(start=False)) is None
    monkeypatch.setenv("NBGPU_AGENT_ADDRESS", "127.0.0.1:7443")
    with pytest.raises(errors.AuthenticationError, match="NBGPU_AGENT_TOKEN is not set"):
        configured_address()
    monkeypatch.setenv("NBGPU_AGENT_TOKEN", "secret")
    address = asyncio.run(find_address(start=True))
    assert address == PoolAddress("127.0.0.1:7443", "secret")
    assert not address.is_embedded
    assert read_record(place.folder) is None


def test_without_an_agent_a_client_that_starts_none_is_told_so(place: Workplace) -> None:
    with pytest.raises(errors.AgentUnreachableError, match="no agent runs on this machine"):
        asyncio.run(connect(start=False))


def test_windows_is_told_where_agents_run(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbgpu.client.embedded.sys", FakeSys())
    with pytest.raises(errors.AgentStartError, match="not on Windows"):
        asyncio.run(ensure_agent())


class FakeSys:
    platform = "win32"

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)
