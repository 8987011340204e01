"""Gives a notebook that has another kernel its sessions back, and finds what its cells lack of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbgpu.notebook_key import notebook_key
from nbgpu.server.notebooks import file_of, has_kernel
from nbgpu.server.problems import PoolLostError, RefusedError
from nbgpu.server.unsaved import Cell, CellExecution, unsaved
from nbgpu.server.views import SessionView, StateView

if TYPE_CHECKING:
    from nbgpu.server.hub import Hub
    from nbgpu.server.pool_calls import PoolCalls

SHOWN_S = 2.0
"""How long the pool's state is waited for that shows an attachment."""


async def give_back(hub: Hub, settings: dict[str, Any], kernel_id: str) -> None:
    """Attaches the notebook to the sessions that it had with a kernel that is gone. To be called while the hub is used.

    Nothing is done for a notebook that has a session. A session is passed over whose notebook's kernel this server
    runs, or that somebody is connected to: it is in use. Which file the notebook is in is this server's own knowledge.

    Args:
        settings: The server's.
        kernel_id: Of the kernel that the notebook has now.
    """
    known = [(link, each) for link in hub.links() for each in link.state["sessions"] if each["phase"] == "ready"]
    if any(each["notebook_id"] == kernel_id for _, each in known):
        return
    file = await file_of(settings, kernel_id)
    key = await asyncio.to_thread(notebook_key, file) if file is not None else ""
    lost = [(link, each) for link, each in known if key and _is_lost(each, key, settings)]
    for link, session in sorted(lost, key=lambda each: each[1]["attached_unix_s"] or 0.0):
        calls = link.calls
        with contextlib.suppress(PoolLostError, RefusedError):  # it is closed by now, or its pool's state says so
            if calls is not None and file is not None:
                await calls.attach(session["id"], kernel_id, file.name, key)
                await link.settle_until(_shows(session["id"], kernel_id), SHOWN_S)


def _is_lost(session: SessionView, key: str, settings: dict[str, Any]) -> bool:
    return (
        session["notebook_key"] == key
        and session["notebook_id"] is not None
        and not session["notebook_connected"]
        and not has_kernel(settings, session["notebook_id"])
    )


def _shows(session_id: str, kernel_id: str) -> Any:
    def shows(state: StateView) -> bool:
        return any(each["id"] == session_id and each["notebook_id"] == kernel_id for each in state["sessions"])

    return shows


def sessions_of(hub: Hub, kernel_id: str) -> list[tuple[PoolCalls, SessionView]]:
    """Returns the notebook's sessions in the pools that are connected, and those pools."""
    return [
        (link.calls, each)
        for link in hub.links()
        if link.calls is not None
        for each in link.state["sessions"]
        if each["notebook_id"] == kernel_id and each["phase"] == "ready"
    ]


async def find_unsaved(hub: Hub, kernel_id: str, cells: Sequence[Cell]) -> list[tuple[PoolCalls, CellExecution]]:
    """Returns the executions in the notebook's own sessions whose output its cells lack, and where to have it.

    Raises:
        PoolLostError: A pool does not answer any more.
    """
    calls_of: dict[str, PoolCalls] = {}
    executions: list[CellExecution] = []
    for calls, session in sessions_of(hub, kernel_id):
        with contextlib.suppress(RefusedError):  # closed a moment ago, another user's, or of an older agent
            executions += await calls.cell_executions(session["id"])
            calls_of[session["id"]] = calls
    return [(calls_of[each.session_id], each) for each in unsaved(cells, executions)]


async def note_saved(hub: Hub, kernel_id: str, cell_ids: Sequence[str]) -> None:
    """Has the agents know that the notebook's file has what these cells have put out until now."""
    for calls, session in sessions_of(hub, kernel_id):
        with contextlib.suppress(PoolLostError, RefusedError):  # it is shown again then, and found to be there
            await calls.note_saved(session["id"], cell_ids)
