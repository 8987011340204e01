"""Sends hostile requests to an agent that serves two users, and looks whether it stands and keeps its folders."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import psutil

from agent_processes import workplace
from fuzz.requests import Hostile, Requests, raw_bytes
from nbgpu.client.pool import Pool
from nbgpu.client.trust import TLS_OPTIONS, Trust
from nbgpu_protocol import ERROR_METADATA_KEY
from nbgpu_protocol.v1 import pool_pb2, session_pb2
from secured_agents import Machine, SecuredAgent, start_secured

AT_ONCE = 24
DEADLINE_S = 0.5
"""Of one request: streams have no end of their own."""
MAX_GROWTH_BYTES = 512 << 20
CHECK_EVERY = 500


@dataclass
class Findings:
    """What came of an attack; all is well if there are no complaints."""

    statuses: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    growth_bytes: int = 0


OWN_FILES = ("stderr", "log", "stacks", "history.sqlite", "users.sqlite", "audit.jsonl", "usage.sqlite3", "journal.db")
"""What the agent writes by itself, as these names begin."""


@dataclass(frozen=True)
class Target:
    agent: SecuredAgent
    trust: Trust
    tokens: dict[str, str]
    sessions: dict[str, str]

    def pool(self, user: str) -> Pool:
        return Pool(self.agent.address, self.tokens[user], self.trust)

    async def files(self) -> dict[str, str]:
        """Returns the digests of all files that no request may change, by their paths."""
        of_bob = await self._sessions_of_bob()
        found = self._digests()
        of_bob |= await self._sessions_of_bob()  # one that was still being opened
        folder = self.agent.place.root / "agent" / "sessions"
        return {
            str(path): digest
            for path, digest in found.items()
            if not any(path.is_relative_to(folder / each) for each in of_bob)
        }

    async def _sessions_of_bob(self) -> set[str]:
        """Some of the requests open sessions of his."""
        async with self.pool("bob") as pool:
            return {self.sessions["bob"], *[each.id for each in await pool.list_sessions()]}

    def _digests(self) -> dict[Path, str]:
        root = self.agent.place.root
        kernels = root / "agent" / "kernels"
        others = kernels / f"session-{self.sessions['alice']}"
        places = (root, Path("/tmp"))
        found = [
            path
            for place in places
            for path in (place.rglob("*") if place == root else place.glob("*hacked*"))
            if path.is_file()
            and (path.is_relative_to(others) or not path.is_relative_to(kernels))
            and not path.is_relative_to(root / "agent" / "blobs-of-users" / "bob")
            and path.suffix not in (".log", ".sqlite-journal")
            and not path.name.startswith(OWN_FILES)
            and "/tmp/" not in str(path.relative_to(place))
        ]
        digests = {}
        for path in found:
            with contextlib.suppress(FileNotFoundError):  # one of a session that has just ended
                digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return digests


@contextlib.contextmanager
def target() -> Iterator[Target]:
    """Yields an agent on loopback with a session of Alice's and one of Bob's."""
    with workplace() as place:
        agent = start_secured(place, "--AgentApp.spare_kernels=0")
        tokens, trust = {}, None
        for user in ("alice", "bob"):
            machine = Machine(place.root / user)
            assert machine.paste(agent.invite(user)).returncode == 0
            (pool,) = json.loads((machine.home / "config" / "nbgpu" / "pools.json").read_text())["pools"]
            tokens[user], trust = pool["token"], Trust(pool["authority"])
        assert trust is not None
        made = Target(agent, trust, tokens, {})
        asyncio.run(_open_sessions(made))
        yield made
        assert place.end(agent.process) == 0
        place.assert_nothing_left()


async def _open_sessions(made: Target) -> None:
    for user in made.tokens:
        async with made.pool(user) as pool:
            spec = pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="H100", count=1)], text="H100")
            async for update in pool.open_session(pool_pb2.OpenSessionRequest(spec=spec, notebook_id=f"of {user}")):
                made.sessions[user] = update.session.id


async def attack(on: Target, count: int, seed: int) -> Findings:
    """Sends so many requests as Bob, and returns what is wrong."""
    findings = Findings()
    requests = Requests(seed, on.sessions["bob"], [on.sessions["alice"]])
    process = psutil.Process(on.agent.process.pid)
    files, before_bytes = await on.files(), process.memory_info().rss
    await asyncio.to_thread(_write_raw, on.agent.address, seed)
    channel = grpc.aio.secure_channel(
        on.agent.address.removeprefix("grpcs://"),
        on.trust.credentials(),
        options=[*TLS_OPTIONS, ("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)],
    )
    try:
        for start in range(0, count, CHECK_EVERY):
            waiting = [requests.next() for _ in range(min(CHECK_EVERY, count - start))][::-1]
            await asyncio.gather(*(_send_each(channel, on.tokens["bob"], waiting, findings) for _ in range(AT_ONCE)))
            findings.complaints += await _standing(on)
    finally:
        await channel.close()
    findings.growth_bytes = process.memory_info().rss - before_bytes
    if findings.growth_bytes > MAX_GROWTH_BYTES:
        findings.complaints.append(f"the agent's memory grew by {findings.growth_bytes >> 20} MiB")
    after = await on.files()
    findings.complaints += [f"{path} was changed" for path in files if after.get(path) != files[path]]
    findings.complaints += [f"{path} was written" for path in after.keys() - files.keys()]
    findings.complaints += [line for line in on.agent.place.log().splitlines() if "a handler failed" in line]
    return findings


async def _send_each(channel: grpc.aio.Channel, token: str, waiting: list[Hostile], findings: Findings) -> None:
    while waiting:
        request = waiting.pop()
        status, complaint = await _send(channel, token, request)
        findings.statuses[status] += 1
        if complaint:
            findings.complaints.append(f"{request.path}: {complaint}")


async def _send(channel: grpc.aio.Channel, token: str, request: Hostile) -> tuple[str, str]:
    metadata = [*request.metadata, *([("authorization", f"Bearer {token}")] if request.authorised else [])]
    compression = grpc.Compression.Gzip if request.compressed else None
    call = channel.stream_stream(request.path)(
        iter(request.frames), metadata=metadata, timeout=DEADLINE_S, compression=compression
    )
    received = 0
    try:
        async for _ in call:
            received += 1
            if received > 50:  # of a stream that goes on
                call.cancel()
                return "OK", ""
    except grpc.aio.AioRpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        told = pool_pb2.Error.FromString(trailing.get(ERROR_METADATA_KEY, b""))
        if error.code() is grpc.StatusCode.UNKNOWN or told.reason == pool_pb2.INTERNAL:
            return error.code().name, f"{error.code().name}: {told.message or error.details()}"
        return error.code().name, ""
    return "OK", ""


async def _standing(on: Target) -> list[str]:
    """Returns what no longer works for Alice, who does nothing wrong."""
    if on.agent.process.poll() is not None:
        return [f"the agent ended with {on.agent.process.returncode}:\n{on.agent.place.log()[-2000:]}"]
    async with on.pool("alice") as pool:
        await pool.handshake()
        ids = [each.id for each in await pool.list_sessions()]
        if ids != [on.sessions["alice"]]:
            return [f"Alice's sessions are {ids}"]
        request = session_pb2.ConnectRequest(session_id=ids[0], only_new=True)
        call = pool.session.Connect(metadata=pool.metadata, timeout=60)
        await call.write(session_pb2.ClientFrame(connect=request))
        await call.read()
        call.cancel()
    return []


def _write_raw(address: str, seed: int) -> None:
    host, _, port = address.removeprefix("grpcs://").rpartition(":")
    for content in raw_bytes(seed):
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(content)
