"""Where this person's embedded agent is found: its folder, and the file in which it says how to reach it."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from jupyter_core.paths import jupyter_runtime_dir

AGENT_FILE = "agent.json"
START_LOCK_FILE = "start.lock"
"""Held (flock) by the client that starts the agent, so that two that start it at once get one."""
RUN_LOCK_FILE = "agent.lock"
"""Held (flock) by the agent for as long as it runs, so that a stale `agent.json` is recognised."""
LOG_FILE = "agent.log"
TLS_NAME = "nbgpu-agent"
"""The name in the certificate of every agent that listens with TLS. Who is meant is what the client's pin says."""
TLS_SCHEME = "grpcs://"
"""Before host and port in the address of an agent that listens with TLS."""


@dataclass(frozen=True)
class AgentRecord:
    """How to reach a running agent. Written by the agent once it serves, readable by its owner alone."""

    address: str
    """gRPC target: `unix:/path` or `127.0.0.1:port`."""
    token: str
    pid: int
    version: str
    """Of the nbgpu package."""
    protocol_version: int


def agent_folder() -> Path:
    """Returns the embedded agent's folder: `$NBGPU_AGENT_DIR`, else `nbgpu` in Jupyter's runtime folder."""
    configured = os.environ.get("NBGPU_AGENT_DIR")
    return Path(configured) if configured else Path(jupyter_runtime_dir()) / "nbgpu"


def read_record(folder: Path) -> AgentRecord | None:
    """Returns the record in the folder, or None where there is none that can be trusted.

    A record that others than its owner can read or write, or that another user owns, is not trusted.
    """
    path = folder / AGENT_FILE
    try:
        status = path.stat()
        if hasattr(os, "getuid") and (
            status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
        ):
            return None
        return AgentRecord(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_record(folder: Path, record: AgentRecord) -> None:
    """Writes the record, whole or not at all, with access for the owner alone."""
    temporary = folder / f"{AGENT_FILE}.{os.getpid()}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(record), file)
    os.replace(temporary, folder / AGENT_FILE)
