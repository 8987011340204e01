"""Tells a session's agent which executions this process has shown to their end, so that nobody is shown them again."""

from __future__ import annotations

import asyncio
import contextlib

from nbgpu import errors
from nbgpu.client.executions import CAPABILITY, note_shown
from nbgpu.client.pool import Pool

SHOWN_AFTER_S = 1.0
"""What was handed to the front end's socket has left it by then, though this process be killed."""
_LAST_WORDS_S = 1.0


class ShownTeller:
    """Gathers executions that have ended in front of a person, and tells of them a little later. On one event loop.

    What is not told, as the process is killed before, is shown once more by the next one: sooner twice than never.

    Args:
        pool: Whose agent has the session.
        session_id: The session.
    """

    def __init__(self, pool: Pool, session_id: str) -> None:
        self._pool = pool
        self._session_id = session_id
        self._request_ids: dict[str, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None

    def __contains__(self, request_id: str) -> bool:
        """Says whether an execution was shown, and the agent does not know it yet."""
        return request_id in self._request_ids

    def note(self, request_id: str) -> None:
        """Notes an execution that has ended here."""
        if CAPABILITY not in self._pool.capabilities:
            return
        self._request_ids[request_id] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SHOWN_AFTER_S, self._begin)

    async def close(self) -> None:
        """Tells what is left to be told, if the agent takes it at once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._request_ids:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._tell(), _LAST_WORDS_S)

    def _begin(self) -> None:
        self._timer = None
        self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        request_ids = list(self._request_ids)
        try:
            await note_shown(self._pool, self._session_id, request_ids)
        except errors.AgentUnreachableError:
            return  # with those of the next cell
        except errors.Error:
            pass  # the session is closed, and nobody comes back to it
        for request_id in request_ids:
            self._request_ids.pop(request_id, None)
