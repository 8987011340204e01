"""This machine's own agent: found if it runs, started if it does not, one for all that the person runs here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil

from nbgpu import errors
from nbgpu.client.pool import Pool
from nbgpu_protocol import VERSION
from nbgpu_protocol.discovery import (
    LOG_FILE,
    START_LOCK_FILE,
    AgentRecord,
    agent_folder,
    read_record,
)

START_TIMEOUT_S = 60.0
_POLL_S = 0.02
_LOG_TAIL_LINES = 15


async def find_agent(folder: Path | None = None) -> AgentRecord | None:
    """Returns how to reach the agent that runs here, or None if none answers."""
    record = read_record(folder or agent_folder())
    if record is None:
        return None
    try:
        async with Pool(record.address, record.token) as pool:
            await pool.handshake()
    except (errors.AgentUnreachableError, errors.AuthenticationError):
        return None
    return record


async def ensure_agent(folder: Path | None = None, *, on_progress: Callable[[str], None] | None = None) -> AgentRecord:
    """Returns how to reach this machine's agent, and starts it first where none runs.

    Whoever comes second while it starts waits for the same one. An idle agent of another version is replaced.

    Args:
        folder: The agent's folder; by default the person's.
        on_progress: Told in words what takes long.

    Raises:
        AgentStartError: It did not start; the message holds the last lines of its log.
        VersionMismatchError: One of another version runs, and has sessions open.
    """
    folder = folder or agent_folder()
    if (record := await _usable_agent(folder)) is not None:
        return record
    if sys.platform == "win32":
        raise errors.AgentStartError(
            "agents run on Linux and macOS, not on Windows",
            "set NBGPU_AGENT_ADDRESS and NBGPU_AGENT_TOKEN to use an agent elsewhere, through an SSH tunnel",
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with _start_lock(folder):
        if (record := await _usable_agent(folder)) is not None:
            return record
        if on_progress:
            on_progress("Starting this machine's agent")
        return await _start(folder)


async def _usable_agent(folder: Path) -> AgentRecord | None:
    try:
        return await find_agent(folder)
    except errors.VersionMismatchError:
        record = read_record(folder)
        if record is None:
            return None
        try:
            async with Pool(record.address, record.token) as pool:
                await pool.shut_down(close_sessions=False)
        except errors.SessionsOpenError as error:
            raise errors.VersionMismatchError(
                f"the agent that runs here speaks protocol {record.protocol_version}, this nbgpu {VERSION},"
                " and it has sessions open",
                "close them, or end the agent with all its sessions by `nbgpu agent stop --force`",
            ) from error
        await wait_until_gone(record.pid)
        return None


async def wait_until_gone(pid: int) -> None:
    """Returns once the process has ended, or after a minute."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if has_ended(pid):
            return
        await asyncio.sleep(_POLL_S)


def has_ended(pid: int) -> bool:
    """Returns whether the process has ended, be it that its parent has not taken notice yet."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextlib.asynccontextmanager
async def _start_lock(folder: Path) -> AsyncIterator[None]:
    import fcntl

    file = os.open(folder / START_LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_POLL_S)
        yield
    finally:
        os.close(file)  # releases the lock


def _spawn(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "nbgpu_agent", "--embedded", "--folder", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=_agent_environ(),
            start_new_session=True,  # it outlives this process, and does not see its Ctrl-C
        )
    # Reaps the agent if it ends before this process does.
    threading.Thread(target=process.wait, name="nbgpu-agent-reaper", daemon=True).start()
    return process


async def _start(folder: Path) -> AgentRecord:
    log = folder / LOG_FILE
    process = await asyncio.to_thread(_spawn, folder, log)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        record = read_record(folder)
        if record is not None and record.pid == process.pid and (found := await find_agent(folder)):
            return found
        if process.poll() is not None:
            raise errors.AgentStartError(
                f"this machine's agent ended with exit code {process.returncode}:\n{_tail(log)}", f"its log is {log}"
            )
        await asyncio.sleep(_POLL_S)
    process.terminate()
    raise errors.AgentStartError(
        f"this machine's agent did not answer within {START_TIMEOUT_S:.0f} s:\n{_tail(log)}", f"its log is {log}"
    )


def _agent_environ() -> dict[str, str]:
    """Returns the environment of this process without what describes its own kernel."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("JPY_")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # every start of a kernel would compile every module again
    return environ


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-_LOG_TAIL_LINES:]) or "    (its log is empty)"
