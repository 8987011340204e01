"""The audit log, and the agent's own log as JSON."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import pytest

from agent_processes import Client, Workplace, workplace
from nbgpu_agent.audit import AUDIT_FILE, KEPT_FILES, AuditLog
from nbgpu_agent.json_log import JsonFormatter
from nbgpu_protocol.v1 import pool_pb2


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_who_what_and_when(tmp_path: Path) -> None:
    path = tmp_path / AUDIT_FILE
    log = AuditLog(path, lambda: 1_795_000_000.25)
    log.record("token_revoked", "ada", token="laptop", expires=None)
    log.record("session_closed", "zoë", reason="it was idle\nfor 60 min \udcff")
    assert lines(path) == [
        {"time": "2026-11-18T11:06:40.250+00:00", "event": "token_revoked", "user": "ada", "token": "laptop"},
        {
            "time": "2026-11-18T11:06:40.250+00:00",
            "event": "session_closed",
            "user": "zoë",
            "reason": "it was idle\nfor 60 min \udcff",
        },
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_full_files_are_put_aside_and_the_oldest_removed(tmp_path: Path) -> None:
    path = tmp_path / AUDIT_FILE
    log = AuditLog(path, lambda: 0.0, max_bytes=100)
    for number in range(KEPT_FILES + 5):
        log.record("event", "ada", number=str(number))
    assert [line["number"] for line in lines(path)] == [str(KEPT_FILES + 4)]
    assert [line["number"] for line in lines(tmp_path / f"{AUDIT_FILE}.1")] == [str(KEPT_FILES + 3)]
    assert len(list(tmp_path.iterdir())) == KEPT_FILES + 1


def test_what_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog(tmp_path / "nowhere" / AUDIT_FILE, lambda: 0.0)
    log.record("event", "ada")
    log.record("event", "ada")
    assert caplog.text.count("cannot be written: No such file or directory") == 1


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    (tmp_path / AUDIT_FILE).symlink_to(target)
    AuditLog(tmp_path / AUDIT_FILE, lambda: 0.0).record("event", "ada")
    assert target.read_text() == ""


def test_the_log_as_json_is_one_object_a_line() -> None:
    try:
        raise ValueError("no\nvalue")
    except ValueError as error:
        caught = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("nbgpu_agent.app", logging.ERROR, "app.py", 1, "serving on %s", ("x",), caught)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["logger"], line["message"]) == ("error", "nbgpu_agent.app", "serving on x")
    assert line["traceback"].endswith("ValueError: no\nvalue")


@pytest.fixture
def place() -> object:
    with workplace() as place:
        yield place


def test_an_agent_records_the_lives_of_its_sessions_and_logs_json(place: Workplace) -> None:
    process, address, token = place.start_listening("--log-format=json", "--log-level=INFO")
    with Client(address, token) as client:
        session = client.open(2, "n1")
        client.AttachSession(pool_pb2.AttachSessionRequest(session_id=session.id, notebook_id="n2"))
        client.DetachSession(pool_pb2.DetachSessionRequest(session_id=session.id))
        client.CloseSession(pool_pb2.CloseSessionRequest(session_id=session.id))
    assert place.end(process) == 0
    found = lines(place.folder / AUDIT_FILE)
    assert [line["event"] for line in found] == [
        "session_opened",
        "session_attached",
        "session_detached",
        "session_closed",
    ]
    assert {line["user"] for line in found} == {"owner"}
    assert {line["session"] for line in found} == {session.id}
    assert found[0]["accelerators"] == ["sim-h100-0", "sim-h100-1"]
    assert found[-1]["reason"] == "it was closed by its user"
    assert token not in (place.folder / AUDIT_FILE).read_text()
    logged = [json.loads(line) for line in place.log().splitlines()]
    assert any(line["message"] == f"serving on {address}" for line in logged)
    place.assert_nothing_left()
