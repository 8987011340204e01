"""What `nbgpu.Session` and its async twin have in common: which session it is, and what they ask of its agent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from nbgpu import errors, words
from nbgpu.notebook import this_notebook
from nbgpu.session_client import SessionClient
from nbgpu.stack_report import cell_name, stacks_in_words
from nbgpu.workspace.plan import Direction
from nbgpu.workspace.report import SyncReport
from nbgpu.workspace.workspace import this_workspace
from nbgpu_protocol.v1 import pool_pb2


class AttachedSession:
    """A session that this process uses. Its coroutines are for the background loop."""

    def __init__(self, client: SessionClient) -> None:
        self._client = client
        this_notebook().close_at_end(client)

    @property
    def id(self) -> str:
        return self._client.id

    @property
    def accelerators(self) -> tuple[str, ...]:
        """The types of the accelerators held, one an accelerator."""
        return tuple(each.type for each in self._client.info.accelerators)

    def __repr__(self) -> str:
        held = words.accelerators_in_words(self._client.info.accelerators)
        state = "closed" if self._client.end is not None else f"on {self._client.info.node.hostname}"
        return f"<nbgpu session {self.id}: {held}, {state}>"

    async def _sync(
        self, paths: Sequence[str], only: Literal["to", "from"] | None, *, dry_run: bool
    ) -> SyncReport | None:
        direction = Direction(only or "both")
        return await this_workspace().sync(self._client, paths, direction=direction, dry_run=dry_run)

    async def _info(self) -> pool_pb2.SessionInfo:
        for info in await self._client.pool.list_sessions():
            if info.id == self.id:
                return info
        raise errors.NoSuchSessionError(f"the session {self.id} is closed")

    async def _stacks(self, *, all_threads: bool) -> str:
        response, info = await asyncio.gather(self._client.pool.stacks(self.id), self._info())
        return stacks_in_words(response, info, cell_name, show_all=all_threads)
