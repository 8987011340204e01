"""Reads what an agent holds of an execution's output."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from nbgpu.client.executions import Said, read_journal
from nbgpu.client.pool import Pool
from nbgpu.missed_replay import Replay
from nbgpu_protocol.v1 import pool_pb2

_BEGINNING_ENTRIES = 3
"""Among which the code is."""


async def read_replay(pool: Pool, session_id: str, execution: pool_pb2.Execution, until_number: int = 0) -> Replay:
    """Returns what the agent holds of an execution's output.

    Args:
        pool: Whose agent has the session.
        session_id: The session.
        execution: Which.
        until_number: Of the last entry that is wanted of an execution that still runs; 0: the newest.

    Raises:
        NoSuchSessionError: The session is closed.
        AgentUnreachableError: The agent does not answer, again and again.
    """
    replay = Replay()
    if execution.first_number:
        until_number = execution.last_number or until_number
        await _read(replay, read_journal(pool, session_id, request_id=execution.request_id, until_number=until_number))
    if execution.state == pool_pb2.EXECUTION_LOST:  # the end of its kernel is its last entry
        last = execution.last_number
        await _read(replay, read_journal(pool, session_id, after_number=last - 1, until_number=last))
    return replay


async def read_beginning(pool: Pool, session_id: str, execution: pool_pb2.Execution) -> Replay:
    """Returns an execution's code, if it has begun, and if the agent still holds it. Raises as `read_replay`."""
    replay = Replay()
    if execution.first_number:
        until_number = execution.first_number + _BEGINNING_ENTRIES
        await _read(replay, read_journal(pool, session_id, request_id=execution.request_id, until_number=until_number))
    return replay


async def _read(replay: Replay, journal: AsyncGenerator[Said, None]) -> None:
    async with contextlib.aclosing(journal) as entries:
        async for said in entries:
            for _ in replay.take(said):
                pass  # what is shown is what stands at the end
