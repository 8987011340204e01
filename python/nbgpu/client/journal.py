"""What the journal of a session says, as its agent sends it: of one execution up to now, or of all and what comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from nbgpu import errors
from nbgpu.client.connection import Message, message_of
from nbgpu.client.executions import BACKOFF_S
from nbgpu.client.pool import Pool
from nbgpu.errors import translated
from nbgpu_protocol.fragments import MessageAssembler
from nbgpu_protocol.v1 import session_pb2

READ_DEADLINE_S = 600.0
"""For reading what may be as much as the agent holds of a session."""

Said: TypeAlias = (
    Message
    | session_pb2.CellTimedOut
    | session_pb2.RequestRefused
    | session_pb2.KernelEvent
    | session_pb2.SessionClosed
    | session_pb2.Gap
)
"""What an entry says that matters to an execution."""


@dataclass(frozen=True)
class Beginning:
    """Comes first of what is followed."""

    last_number: int
    """Of the newest entry there is now; 0: none."""
    dropped_until: int
    """Entries up to this one were asked for and are not held any more; 0: none."""


@dataclass(frozen=True)
class Recorded:
    """What an entry says, and its number."""

    number: int
    said: Said | None
    """None: nothing that matters to an execution."""


Piece: TypeAlias = Sequence[Beginning | Recorded]
"""What comes at once, in the order of the session's numbers."""


async def read_journal(
    pool: Pool, session_id: str, *, request_id: str = "", after_number: int = 0, until_number: int = 0
) -> AsyncGenerator[Said, None]:
    """Yields what the journal has now, in order; over a link that is cut, each of it once.

    Args:
        pool: Whose agent has the session.
        session_id: The session.
        request_id: Of the execution that is meant; empty: of all, and kernels' ends too.
        after_number: What came up to this number is left out.
        until_number: The last that is wanted; 0: the newest.

    Raises:
        NoSuchSessionError: The session is closed.
        AgentUnreachableError: The agent does not answer, again and again.
    """
    failures = 0
    while True:
        request = session_pb2.ReadEntriesRequest(
            session_id=session_id, request_id=request_id, after_number=after_number, until_number=until_number
        )
        call = pool.session.ReadEntries(request, metadata=pool.metadata, timeout=READ_DEADLINE_S)
        assembler = MessageAssembler()
        try:
            with translated():
                async for entries in call:
                    for entry in entries.entries:
                        said = _said_in(entry, assembler)
                        if said is not None:
                            after_number, failures = entry.number, 0
                            yield said
            return
        except errors.AgentUnreachableError:
            if failures == len(BACKOFF_S):
                raise
        finally:
            call.cancel()
        await asyncio.sleep(BACKOFF_S[failures])
        failures += 1


async def follow(pool: Pool, session_id: str, after_number: int) -> AsyncGenerator[Piece, None]:
    """Yields what follows the number, of all executions, in pieces as they come, until the session is closed.

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
                found = []
                for entry in frame.entries.entries:
                    said = _said_in(entry, assembler)
                    if said is not None or entry.WhichOneof("body") != "message":
                        found.append(Recorded(entry.number, said))
                if found:
                    yield found
    finally:
        call.cancel()


def _said_in(entry: session_pb2.Entry, assembler: MessageAssembler) -> Said | None:
    """Returns what an entry says; None for a piece of a message that is not whole yet, and for what else is told."""
    kind = entry.WhichOneof("body")
    if kind == "message":
        done = assembler.add(entry.message)
        return message_of(entry.message.channel, done[0]) if done is not None else None
    if kind in ("cell_timed_out", "request_refused", "kernel_event", "session_closed", "gap"):
        said: Said = getattr(entry, kind)
        return said
    return None
