"""Agents as processes in folders of a test's own, a client of theirs that speaks the protocol, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil

from nbgpu_protocol import VERSION
from nbgpu_protocol.discovery import AgentRecord, read_record
from nbgpu_protocol.fragments import split_message
from nbgpu_protocol.v1 import (
    accounting_pb2,
    accounting_pb2_grpc,
    pool_pb2,
    pool_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)

DEADLINE_S = 120
KEPT = {"agent.lock", "start.lock", "agent.log", "usage.sqlite3", "audit.jsonl"}
"""What may stay in an agent's folder: removing a lock is a race, and logs and accounts are there to be read."""


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return value


def is_guardian(process: psutil.Process) -> bool:
    """Says whether it watches over an agent, and so comes and goes with it."""
    return any(part.endswith("guardian.py") for part in process.cmdline())


@dataclass
class Workplace:
    """Folders and processes of one test's agents."""

    root: Path
    python: str = sys.executable
    """Of the agents, and of kernels in them."""
    prefix: Sequence[str] = ()
    """Before each command, such as one that runs it as another user."""
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.root / "agent"

    def environ(self, **variables: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "HOME": str(self.root),
            "TMPDIR": str(self.root / "tmp"),
            "JUPYTER_CONFIG_DIR": str(self.root / "config"),
            "JUPYTER_DATA_DIR": str(self.root / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.root / "runtime"),
            "JUPYTER_NO_CONFIG_ENV": "1",
            "NBGPU_OS_USERS_FOLDER": str(self.root / "os-users"),
            "NBGPU_SIMULATE": "H100x4",
            **variables,
        }

    def start(self, *arguments: str, program: str = "", **variables: str) -> subprocess.Popen[str]:
        """Starts an agent, or a program that runs one in its own way."""
        (self.root / "tmp").mkdir(exist_ok=True)
        what = ["-c", program] if program else ["-m", "nbgpu_agent"]
        with (self.root / "stderr").open("a") as stderr:
            process = subprocess.Popen(
                [*self.prefix, self.python, *what, *arguments],
                env=self.environ(**variables),
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_embedded(
        self, *arguments: str, folder: Path | None = None, program: str = "", **variables: str
    ) -> tuple[subprocess.Popen[str], AgentRecord]:
        folder = folder or self.folder
        process = self.start("--embedded", f"--folder={folder}", *arguments, program=program, **variables)

        def record() -> AgentRecord | None:
            assert process.poll() is None, self.log()
            found = read_record(folder)
            return found if found and found.pid == process.pid else None

        return process, until(record)

    def start_listening(
        self, *arguments: str, folder: Path | None = None, **variables: str
    ) -> tuple[subprocess.Popen[str], str, str]:
        """Starts an agent on a free port of loopback; returns it, its address and its token."""
        process = self.start("--listen=127.0.0.1:0", f"--folder={folder or self.folder}", *arguments, **variables)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, self.log()
        words = dict(word.split("=", 1) for word in line.removeprefix("export ").split())
        return process, words["NBGPU_AGENT_ADDRESS"], words["NBGPU_AGENT_TOKEN"]

    def log(self) -> str:
        return (self.root / "stderr").read_text()

    def end(self, process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
        process.send_signal(number)
        return process.wait(DEADLINE_S)

    def end_agents(self) -> set[int | None]:
        """Ends the agents that this place or a client in it has started, and returns their exit codes, if known."""
        agents = [each for each in self.stragglers() if "nbgpu_agent" in each.cmdline()]
        for agent in agents:
            agent.terminate()
        ended, alive = psutil.wait_procs(agents, timeout=DEADLINE_S)
        assert alive == []
        return {agent.returncode for agent in ended} - {None}  # type: ignore[attr-defined,unused-ignore]

    def left_in(self, folder: Path) -> set[str]:
        return {each.name for each in folder.iterdir()} - KEPT

    def assert_nothing_left(self, folder: Path | None = None) -> None:
        """Looks for processes, sockets and folders, in the agent's folder and where temporary ones are made."""
        until(lambda: not self.stragglers())  # what watches over an agent that was killed sees the next one soon
        folder = folder or self.folder
        assert not folder.exists() or self.left_in(folder) == set()
        assert list((self.root / "tmp").iterdir()) == []

    def stragglers(self) -> list[psutil.Process]:
        """Returns every process whose environment shows that it is of this test."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get("HOME") == str(self.root):
                    found.append(process)
            except psutil.Error:
                continue
        return [each for each in found if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def workplace() -> Iterator[Workplace]:
    """Gives a test its place, and ends at its end whatever the test left running.

    Its path is short, other than that of pytest's folders: a Unix socket below it has 107 bytes for its own.
    """
    with tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True) as name:
        place = Workplace(Path(name))
        try:
            yield place
        finally:
            for process in place.processes:
                process.kill()
                process.wait(DEADLINE_S)
                assert process.stdout is not None
                process.stdout.close()
            for straggler in place.stragglers():
                straggler.kill()


def request_for(count: int, notebook_id: str = "") -> pool_pb2.OpenSessionRequest:
    """Asks for so many H100, or for 0 of them for the CPU."""
    wanted = pool_pb2.Alternative(type="H100" if count else "CPU", count=count or 1)
    spec = pool_pb2.Spec(alternatives=[wanted], text=f"H100x{count}" if count else "CPU")
    return pool_pb2.OpenSessionRequest(spec=spec, notebook_id=notebook_id)


class Client:
    """A client of an agent, for the length of a with statement."""

    def __init__(self, address: str, token: str) -> None:
        self._channel = grpc.insecure_channel(address, options=[("grpc.default_authority", "localhost")])
        self._pool: Any = pool_pb2_grpc.PoolStub(self._channel)
        self._session: Any = session_pb2_grpc.SessionStub(self._channel)
        self._accounting: Any = accounting_pb2_grpc.AccountingStub(self._channel)
        self._leaving = threading.Event()
        self._options = {"metadata": (("authorization", f"Bearer {token}"),), "timeout": DEADLINE_S}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._channel.close()

    def __getattr__(self, name: str) -> Any:
        return lambda request, **options: getattr(self._pool, name)(request, **{**self._options, **options})

    def handshake(self) -> pool_pb2.HandshakeResponse:
        answer: pool_pb2.HandshakeResponse = self.Handshake(pool_pb2.HandshakeRequest(protocol_version=VERSION))
        return answer

    def open(self, count: int, notebook_id: str = "") -> pool_pb2.SessionInfo:
        updates = list(self.OpenSession(request_for(count, notebook_id)))
        assert updates[-1].phase == pool_pb2.READY
        session: pool_pb2.SessionInfo = updates[-1].session
        return session

    def set_budget(self, notebook_id: str, amount: float | None) -> list[accounting_pb2.Allowance]:
        request = accounting_pb2.SetBudgetRequest(notebook_id=notebook_id, amount=amount)
        return list(self._accounting.SetBudget(request, **self._options).allowances)

    def sessions(self) -> list[pool_pb2.SessionInfo]:
        return list(self.ListSessions(pool_pb2.ListSessionsRequest()).sessions)

    def connect(self, session_id: str, code: str = "") -> Any:
        """Returns the session's stream, on which the code runs, if there is any; it is open until the client leaves."""

        def frames() -> Iterator[session_pb2.ClientFrame]:
            connect = session_pb2.ConnectRequest(session_id=session_id, client_id="test")
            yield session_pb2.ClientFrame(connect=connect)
            if code:
                request_id = uuid.uuid4().hex
                header = {
                    "msg_id": request_id,
                    "msg_type": "execute_request",
                    "session": "test",
                    "username": "test",
                    "date": "2026-11-20T00:00:00+00:00",
                    "version": "5.3",
                }
                content = {"code": code, "silent": False, "store_history": True, "allow_stdin": True}
                parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
                for fragment in split_message(session_pb2.SHELL, parts, request_id=request_id):
                    yield session_pb2.ClientFrame(fragment=fragment)
            self._leaving.wait()

        return self._session.Connect(frames(), metadata=self._options["metadata"])


def client_of(record: AgentRecord) -> Client:
    return Client(record.address, record.token)
