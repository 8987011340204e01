"""What a session's journal holds of its executions: which there were, and what they said, up to now and later."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from nbgpu.client.connection import Message
from nbgpu.client.pool import DEADLINE_S, Pool
from nbgpu.errors import translated
from nbgpu_protocol.fragments import MessageAssembler
from nbgpu_protocol.v1 import pool_pb2, session_pb2

CAPABILITY = "replay"


@dataclass(frozen=True)
class Beginning:
    """Comes first."""

    last_number: int
    """Of the newest entry there is now; 0: none."""
    dropped_until: int
    """Entries up to this one were asked for and are not held any more; 0: none."""


@dataclass(frozen=True)
class Recorded:
    """An entry: a message of the session's kernel, or what else happened."""

    number: int
    body: Message | session_pb2.Entry


Piece: TypeAlias = Sequence[Beginning | Recorded | session_pb2.Gap]
"""What comes at once, in the order of the session's numbers."""


async def settle_executions(pool: Pool, session_id: str, cell_ids: Iterable[str]) -> None:
    """Notes that nobody needs to be shown any more what these cells have put out until now.

    Raises:
        NoSuchSessionError: The session is closed, or another user's.
        AgentUnreachableError: The agent does not answer.
    """
    request = session_pb2.SettleExecutionsRequest(session_id=session_id, cell_ids=cell_ids)
    with translated():
        await pool.session.SettleExecutions(request, metadata=pool.metadata, timeout=DEADLINE_S)


async def follow(pool: Pool, session_id: str, after_number: int) -> AsyncGenerator[Piece, None]:
    """Yields what follows the number, in pieces as they come, and goes on until the session is closed.

    Raises:
        NoSuchSessionError: It is closed already, or another user's.
        AgentUnreachableError: The connection is cut.
    """
    call = pool.session.Connect(metadata=pool.metadata)
    connect = session_pb2.ConnectRequest(session_id=session_id, after_number=after_number, observer=True)
    assembler = MessageAssembler()
    try:
        with translated():
            await call.write(session_pb2.ClientFrame(connect=connect))
            async for frame in call:
                if frame.WhichOneof("body") == "connected":
                    yield [Beginning(frame.connected.last_number, frame.connected.dropped_until)]
                    continue
                found: Piece = [each for entry in frame.entries.entries for each in _read(entry, assembler)]
                if len(found):
                    yield found
    finally:
        call.cancel()


def _read(entry: session_pb2.Entry, assembler: MessageAssembler) -> list[Recorded | session_pb2.Gap]:
    kind = entry.WhichOneof("body")
    if kind == "gap":
        return [entry.gap]
    if kind != "message":
        return [Recorded(entry.number, entry)]
    done = assembler.add(entry.message)
    if done is None:
        return []
    parts, _ = done
    header, parent = json.loads(bytes(parts[0])), json.loads(bytes(parts[1]))
    return [Recorded(entry.number, Message(entry.message.channel, header, parent, parts[2], parts[3], parts[4:]))]


def is_over(execution: pool_pb2.Execution) -> bool:
    """Returns whether it has ended, however it did."""
    return execution.HasField("ended_unix_s")
