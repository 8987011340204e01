"""The systemd unit, read by systemd itself where there is one, and what the agent tells systemd."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent_processes import DEADLINE_S, Workplace
from nbgpu.cli import main
from nbgpu.systemd_unit import NAME, unit


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_it(user: bool, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text(unit(user=user, arguments=["--idle-close=2h", "--AgentApp.prices=H100=2.10"]))
    command = ["systemd-analyze", "verify", "--man=no", *(["--user"] if user else []), str(path)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_LOG_LEVEL": "warning"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert [line for line in done.stderr.splitlines() if NAME in line] == []
    assert done.returncode == 0, done.stderr


def test_the_command_prints_what_is_saved(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "systemd-unit", "--", "--session-memory=64GB"]) == 0
    text = capsys.readouterr().out
    assert text == unit(user=False, arguments=["--session-memory=64GB"])
    assert f"ExecStart={sys.executable} -m nbgpu_agent --folder=%S/nbgpu/agent" in text
    assert "--session-memory=64GB\n" in text
    assert {"KillMode=process", "Type=notify", "User=nbgpu", "NoNewPrivileges=yes"} <= set(text.splitlines())
    assert "User=nbgpu" not in unit(user=True)


def test_what_systemd_would_replace_is_kept_as_it_is() -> None:
    text = unit(user=False, arguments=["--AgentApp.users={'ada': {'budget': 5}}", "--note=100%$HOME"])
    assert "100%%$$HOME" in text


def test_the_agent_says_when_it_serves_and_when_it_ends(place: Workplace) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = place.root / "notify"
        manager.bind(str(path))
        manager.settimeout(DEADLINE_S)
        process, _, _ = place.start_listening(NOTIFY_SOCKET=str(path))
        assert manager.recv(100) == b"READY=1"
        assert place.end(process) == 0
        assert manager.recv(100) == b"STOPPING=1"
