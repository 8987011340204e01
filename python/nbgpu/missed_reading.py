"""Reads what an agent holds of an execution's output."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from nbgpu.client.journal import Said, read_journal
from nbgpu.client.pool import Pool
from nbgpu.output_area import OutputArea, elsewhere
from nbgpu.replay import Replay
from nbgpu_protocol.v1 import pool_pb2

_BEGINNING_ENTRIES = 3
"""Among which the code is."""


async def read_output(
    pool: Pool, session_id: str, execution: pool_pb2.Execution, until_number: int = 0
) -> tuple[Replay, OutputArea]:
    """Returns what the agent holds of an execution, and of its output as it stands.

    Args:
        pool: Whose agent has the session.
        session_id: The session.
        execution: Which.
        until_number: Of the last entry that is wanted of an execution that still runs; 0: the newest.

    Raises:
        NoSuchSessionError: The session is closed.
        AgentUnreachableError: The agent does not answer, again and again.
    """
    replay, area = Replay(execution), OutputArea()
    if execution.first_number:
        until_number = execution.last_number or until_number
        journal = read_journal(pool, session_id, request_id=execution.request_id, until_number=until_number)
        await _read(replay, area, journal)
    if execution.state == pool_pb2.EXECUTION_LOST:  # the end of its kernel is its last entry
        last = execution.last_number
        await _read(replay, area, read_journal(pool, session_id, after_number=last - 1, until_number=last))
    return replay, area


async def read_beginning(pool: Pool, session_id: str, execution: pool_pb2.Execution) -> Replay:
    """Returns an execution's code, if it has begun, and if the agent still holds it. Raises as `read_output`."""
    replay = Replay(execution)
    if execution.first_number:
        until_number = execution.first_number + _BEGINNING_ENTRIES
        journal = read_journal(pool, session_id, request_id=execution.request_id, until_number=until_number)
        await _read(replay, OutputArea(), journal)
    return replay


async def _read(replay: Replay, area: OutputArea, journal: AsyncGenerator[Said, None]) -> None:
    async with contextlib.aclosing(journal) as entries:
        async for said in entries:
            for output in replay.take(said):
                area.add(elsewhere(output))
