"""Tells the agents of a notebook's sessions how its environment differs from theirs, and which variables they have.

It looks after each cell that ended here, in the background, and tells only what is new: what watches the sessions,
such as the sidebar, never asks the notebook's kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref

from nbgpu import errors
from nbgpu.client.background import background
from nbgpu.notebook import Notebook, notebook_id
from nbgpu.session_client import SessionClient
from nbgpu.snapshot.difference import Difference
from nbgpu.values.account import Account
from nbgpu.values.exchange import account_of
from nbgpu_protocol.v1 import pool_pb2

CAPABILITY = "notebook_facts"
_SETTLE_S = 0.2
"""Cells that end within it of one another are looked at once."""
_SHARE = 0.02
"""At most this share of the time is spent on looking: it holds the interpreter's lock, which cells want."""
_LISTED = 100
_MAX_CHARACTERS = 1000


class FactsTeller:
    """Tells the agents of a notebook's open sessions what is new since they were last told."""

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook
        self._told: weakref.WeakKeyDictionary[SessionClient, tuple[int, pool_pb2.NotebookFacts]]
        self._told = weakref.WeakKeyDictionary()  # a session that is attached anew is told anew
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._is_due_again = False
        self._not_before_s = 0.0

    def cell_ended(self, *_: object) -> None:
        """Has it look soon; for IPython's `post_run_cell`, on any thread. Takes microseconds."""
        if self._notebook.chosen is not None:
            background().loop.call_soon_threadsafe(self.look_soon)

    def look_soon(self) -> None:
        """The same, on the background loop."""
        if self._looking is not None:
            self._is_due_again = True
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            delay_s = max(_SETTLE_S, self._not_before_s - time.monotonic())
            self._timer = loop.call_later(delay_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._looking = background().start_task(self._look())
        self._looking.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled() and self._is_due_again:
            self._is_due_again = False
            self.look_soon()

    async def _look(self) -> None:
        for session in self._notebook.open_sessions():
            if CAPABILITY not in session.pool.capabilities or not notebook_id():
                continue
            began_s = time.monotonic()
            facts = facts_message(await self._difference(session), account_of(session))
            ended_s = time.monotonic()
            self._not_before_s = ended_s + (ended_s - began_s) / _SHARE
            told = session.kernel_generation, facts
            if self._told.get(session) == told:
                continue
            with contextlib.suppress(errors.Error):  # it is closed by now, or cut off, and told after the next cell
                await session.pool.note_notebook(session.id, notebook_id(), *told)
                self._told[session] = told

    async def _difference(self, session: SessionClient) -> Difference | None:
        notebook = self._notebook
        with_snapshot = notebook.sends_snapshot(session.pool)
        if not with_snapshot and not notebook.works_here(session):
            return None  # it runs in its agent's own interpreter
        try:
            return await notebook.attachment.difference(session.id, with_snapshot=with_snapshot)
        except (errors.Error, OSError):  # which the next cell says, where a person reads it
            return None


def facts_message(difference: Difference | None, account: Account) -> pool_pb2.NotebookFacts:
    """Returns what is told; of much, the first or the largest is named."""
    facts = pool_pb2.NotebookFacts(
        variables=pool_pb2.SharedVariables(
            sent_count=len(account.sent),
            sent=[_variable(name, size_bytes) for name, size_bytes in account.sent[:_LISTED]],
            handle_count=len(account.handles),
            handles=[_variable(name, size_bytes) for name, size_bytes in account.handles[:_LISTED]],
            sent_bytes=account.sent_bytes,
        )
    )
    if difference is not None:
        facts.difference.CopyFrom(
            pool_pb2.EnvironmentDifference(
                package_count=len(difference.packages),
                packages=[
                    pool_pb2.PackageChange(name=_cut(name), before=_cut(before), now=_cut(now))
                    for name, before, now in difference.packages[:_LISTED]
                ],
                file_count=len(difference.files),
                files=[_cut(path) for path in difference.files[:_LISTED]],
                variables=[_cut(name) for name in difference.variables[:_LISTED]],
            )
        )
    return facts


def _variable(name: str, size_bytes: int | None) -> pool_pb2.SharedVariable:
    return pool_pb2.SharedVariable(name=_cut(name), size_bytes=size_bytes)


def _cut(text: str) -> str:
    """Text of a file's name can be what UTF-8 cannot have, and as long as it likes."""
    return text.encode(errors="replace").decode()[:_MAX_CHARACTERS]
