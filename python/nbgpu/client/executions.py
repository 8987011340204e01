"""What a session has executed, and what its agent is told of where the output has got to.

There are two of that, as an execution has two kinds of readers. It is *shown* once a person has had it in front of them
to its end, whoever showed it: then `%gpu attach` passes it over. It is *saved* once the notebook's file has it, or a
person cleared it away, which only the page knows: until then a page that is loaded anew has nothing of it below its
cell, though it was shown in the last one, and asks for it again. What is saved is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from nbgpu import errors
from nbgpu.client.pool import DEADLINE_S, Pool
from nbgpu.errors import translated
from nbgpu_protocol.v1 import pool_pb2, session_pb2

T = TypeVar("T")

CAPABILITY = "missed_output"
"""Of agents that say which executions nobody was shown."""
SAVED_CAPABILITY = "replay"
"""Of agents that say which executions notebooks' files have."""
BACKOFF_S = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Returns what the work does; over a link that is cut it is done again, for about 9 s.

    Raises:
        AgentUnreachableError: The agent does not answer, again and again.
    """
    for delay_s in BACKOFF_S:
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
    return response


async def note_shown(pool: Pool, session_id: str, request_ids: Sequence[str]) -> None:
    """Tells the agent that a person was shown these executions to their end. Idempotent."""
    request = session_pb2.NoteShownRequest(session_id=session_id, request_ids=request_ids)
    with translated():
        await pool.session.NoteShown(request, metadata=pool.metadata, timeout=DEADLINE_S)


async def note_saved(pool: Pool, session_id: str, cell_ids: Iterable[str]) -> None:
    """Tells the agent that what these cells have put out until now is in their notebook's file, or was cleared away.

    Raises:
        NoSuchSessionError: The session is closed, or another user's.
        AgentUnreachableError: The agent does not answer.
    """
    request = session_pb2.NoteSavedRequest(session_id=session_id, cell_ids=cell_ids)
    with translated():
        await pool.session.NoteSaved(request, metadata=pool.metadata, timeout=DEADLINE_S)


def is_over(execution: pool_pb2.Execution) -> bool:
    """Returns whether it has ended, however it did."""
    return execution.HasField("ended_unix_s")
