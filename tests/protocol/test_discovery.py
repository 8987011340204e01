"""The record of the embedded agent is for its owner's eyes alone."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from nbgpu_protocol.discovery import AGENT_FILE, AgentRecord, agent_folder, read_record, write_record

RECORD = AgentRecord(address="unix:/run/agent.sock", token="secret", pid=4711, version="0.1.0", protocol_version=1)
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX's")


def test_round_trip(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD


@posix_only
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_is_written_for_its_owner_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_record(tmp_path, RECORD)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / AGENT_FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [AGENT_FILE]


@posix_only
@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o644, 0o666])
def test_is_not_trusted_when_others_have_access(tmp_path: Path, mode: int) -> None:
    write_record(tmp_path, RECORD)
    (tmp_path / AGENT_FILE).chmod(mode)
    assert read_record(tmp_path) is None


@posix_only
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_is_not_trusted_when_another_owns_it(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    os.chown(tmp_path / AGENT_FILE, 65534, -1)
    assert read_record(tmp_path) is None


def test_a_new_record_replaces_the_old_one_whole(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    later = AgentRecord(address="127.0.0.1:7443", token="t", pid=1, version="0.2.0", protocol_version=1)
    write_record(tmp_path, later)
    assert read_record(tmp_path) == later


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"address": "unix:/a"}', "\x00"])
def test_what_is_no_record_is_no_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / AGENT_FILE
    path.write_text(text)
    path.chmod(0o600)
    assert read_record(tmp_path) is None


def test_no_folder_is_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path / "absent") is None


def test_the_folder_is_in_jupyters_runtime_folder_unless_said_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.delenv("NBGPU_AGENT_DIR", raising=False)
    assert agent_folder() == tmp_path / "runtime" / "nbgpu"
    monkeypatch.setenv("NBGPU_AGENT_DIR", str(tmp_path / "own"))
    assert agent_folder() == tmp_path / "own"
