"""What a session has executed, and what its agent still holds of the output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from nbgpu import errors
from nbgpu.client.agent_times import to_own_clock
from nbgpu.client.connection import Message, message_of
from nbgpu.client.pool import DEADLINE_S, Pool
from nbgpu.errors import translated
from nbgpu_protocol.fragments import MessageAssembler
from nbgpu_protocol.v1 import session_pb2

T = TypeVar("T")

CAPABILITY = "missed_output"
"""Of agents that say which executions nobody was shown."""
READ_DEADLINE_S = 600.0
"""For reading what may be as much as the agent holds of a session."""
_BACKOFF_S = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)

Said: TypeAlias = Message | session_pb2.CellTimedOut | session_pb2.KernelEvent | session_pb2.Gap
"""What the journal has of an execution."""


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Returns what the work does; over a link that is cut it is done again, for about 9 s.

    Raises:
        AgentUnreachableError: The agent does not answer, again and again.
    """
    for delay_s in _BACKOFF_S:
        try:
            return await work()
        except errors.AgentUnreachableError:
            await asyncio.sleep(delay_s)
    return await work()


async def list_executions(pool: Pool, session_id: str) -> session_pb2.ListExecutionsResponse:
    """Returns the cells that the session has run, runs and is to run, the oldest first.

    Raises:
        NoSuchSessionError: It is closed.
        AgentUnreachableError: The agent does not answer.
    """
    request = session_pb2.ListExecutionsRequest(session_id=session_id)
    with translated():
        response: session_pb2.ListExecutionsResponse = await pool.session.ListExecutions(
            request, metadata=pool.metadata, timeout=DEADLINE_S
        )
    to_own_clock(response, response.time_unix_s)
    return response


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
                        said = _said(entry, assembler)
                        if said is not None:
                            after_number, failures = entry.number, 0
                            yield said
            return
        except errors.AgentUnreachableError:
            if failures == len(_BACKOFF_S):
                raise
        finally:
            call.cancel()
        await asyncio.sleep(_BACKOFF_S[failures])
        failures += 1


async def note_shown(pool: Pool, session_id: str, request_ids: Sequence[str]) -> None:
    """Tells the agent that a person was shown these executions to their end. Idempotent."""
    request = session_pb2.NoteShownRequest(session_id=session_id, request_ids=request_ids)
    with translated():
        await pool.session.NoteShown(request, metadata=pool.metadata, timeout=DEADLINE_S)


def _said(entry: session_pb2.Entry, assembler: MessageAssembler) -> Said | None:
    kind = entry.WhichOneof("body")
    if kind == "message":
        done = assembler.add(entry.message)
        return message_of(entry.message.channel, done[0]) if done is not None else None
    if kind == "cell_timed_out":
        return entry.cell_timed_out
    if kind == "kernel_event":
        return entry.kernel_event
    return entry.gap if kind == "gap" else None
