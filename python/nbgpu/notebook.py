"""This process as a client: which notebook it is, and the sessions that it is attached to."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import sys
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from IPython.core.getipython import get_ipython

from nbgpu import errors
from nbgpu.client.background import background
from nbgpu.client.discovery import PoolAddress, connect
from nbgpu.client.pool import Pool
from nbgpu.comms import CommBridge
from nbgpu.output import KernelPublisher, Publisher, ShellPublisher
from nbgpu.session_client import SessionClient
from nbgpu.spec import Spec
from nbgpu_protocol.v1 import pool_pb2

OnUpdate = Callable[[str | pool_pb2.SessionUpdate], None]
"""Told what is happening: an update of the agent's, or words of ours before there is an agent."""

_PROCESS_SESSION = uuid.uuid4().hex


def notebook_id() -> str:
    """Returns the Jupyter kernel id, which outlives a restart of the kernel; empty outside of a Jupyter kernel."""
    if _kernel() is None:
        return ""
    from ipykernel.connect import get_connection_file

    try:
        stem = Path(get_connection_file()).stem
    except RuntimeError:  # an embedded kernel has no connection file
        return ""
    return stem.removeprefix("kernel-")


def notebook_name() -> str:
    """Returns a name for lists: the notebook's file, else the program's."""
    path = os.environ.get("JPY_SESSION_NAME", "")
    if _kernel() is not None:
        return Path(path).name if path else "notebook"
    return "IPython" if get_ipython() is not None else (Path(sys.argv[0]).name or "Python")


def current_request() -> dict[str, Any]:
    """Returns the Jupyter message that this kernel is working on, or one made up outside of a Jupyter kernel."""
    kernel = _kernel()
    parent = kernel.get_parent() if kernel is not None else None
    if parent and parent.get("header"):
        return dict(parent)
    header = {
        "msg_id": uuid.uuid4().hex,
        "username": getpass.getuser(),
        "session": _PROCESS_SESSION,
        "msg_type": "execute_request",
        "version": "5.3",
        "date": datetime.now(timezone.utc).isoformat(),
    }
    return {"header": header, "metadata": {}, "content": {"allow_stdin": sys.stdin is not None and sys.stdin.isatty()}}


def _kernel() -> Any:
    return getattr(get_ipython(), "kernel", None)


class Notebook:
    """The sessions that this process is attached to, and the one that a plain `%%gpu` uses.

    The registry of sessions is the agent's. This keeps only the open streams, and which session was chosen. Its
    coroutines run on the background loop.
    """

    def __init__(self, comms: CommBridge | None = None) -> None:
        self.comms = comms
        self.chosen: SessionClient | None = None
        self._attached: dict[str, SessionClient] = {}
        self._pool: Pool | None = None
        self._address: PoolAddress | None = None
        background().call_at_close(self._leave)

    async def pool(self, *, start: bool = True, on_update: OnUpdate | None = None) -> Pool:
        """Returns the connection to the pool, made when it is first needed, and again when its agent is gone."""
        if self._pool is not None and self._address is not None and not self._address.is_agent_gone():
            return self._pool
        if self._pool is not None:
            stale, self._pool = self._pool, None
            await stale.close()
        self._pool, self._address = await connect(start=start, on_progress=on_update)
        return self._pool

    async def open(
        self,
        spec: Spec | None,
        *,
        new: bool = False,
        wait: bool = True,
        on_update: OnUpdate | None = None,
    ) -> tuple[SessionClient, bool]:
        """Attaches to this notebook's session that meets the spec, or opens one.

        Args:
            spec: None for the session that the notebook has, else whatever the agent prefers.
            new: Open one even if the notebook has one that would do.
            wait: Queue if nothing is free.
            on_update: Told what is happening.

        Returns:
            The session, and whether it was open before.
        """
        pool = await self.pool(on_update=on_update)
        assert self._address is not None
        request = pool_pb2.OpenSessionRequest(
            spec=spec.to_message() if spec else None,
            notebook_id="" if new else notebook_id(),
            notebook_name=notebook_name(),
            python=sys.executable if self._address.is_embedded else "",
            working_folder=os.getcwd() if self._address.is_embedded else "",
            no_wait=not wait,
        )
        async with contextlib.aclosing(pool.open_session(request)) as updates:
            async for update in updates:
                if on_update is not None:
                    on_update(update)
                if update.phase == pool_pb2.READY:
                    return await self._attach(pool, update.session), update.existing
        raise errors.AgentFaultError("the agent ended the request without a session")

    async def find(self, session_id: str) -> SessionClient:
        """Attaches to a session by its id, or by the beginning of it.

        Raises:
            NoSuchSessionError: None has it, or more than one.
        """
        pool = await self.pool(start=False)
        matching = [each for each in await pool.list_sessions() if each.id.startswith(session_id)]
        if len(matching) != 1:
            many = "more than one session" if matching else "no session"
            raise errors.NoSuchSessionError(f"{many} has an id that begins with {session_id}")
        return await self._attach(pool, matching[0])

    async def find_chosen(self) -> SessionClient | None:
        """Returns the chosen session, else this notebook's own if its agent knows one, without opening any."""
        if self.chosen is not None and self.chosen.end is None:
            return self.chosen
        self.chosen = None
        own = notebook_id()
        try:
            pool = await self.pool(start=False)
        except errors.AgentUnreachableError:
            return None
        for info in await pool.list_sessions():
            if own and info.notebook_id == own and info.phase == pool_pb2.READY:
                self.chosen = await self._attach(pool, info)
                return self.chosen
        return None

    def attached_that_meets(self, spec: Spec) -> SessionClient | None:
        """Returns an attached session that has exactly what the spec asks for; the chosen one first."""
        candidates = [self.chosen, *self._attached.values()]
        for session in candidates:
            if session is not None and session.end is None and spec.is_met_by(session.info.accelerators):
                return session
        return None

    def held(self) -> list[pool_pb2.Accelerator]:
        """Returns what the attached sessions hold, without what is shared."""
        sessions = [session for session in self._attached.values() if session.end is None]
        return [each for session in sessions for each in session.info.accelerators if not each.shared]

    async def detach(self, session: SessionClient) -> None:
        """Ends the stream; the session goes on."""
        self._attached.pop(session.id, None)
        if self.chosen is session:
            self.chosen = None
        await session.disconnect()

    async def close(self, session: SessionClient) -> None:
        """Ends the session and frees its accelerators. Idempotent."""
        await self.detach(session)
        if not isinstance(session.end, errors.NoSuchSessionError):
            await session.pool.close_session(session.id)

    async def _attach(self, pool: Pool, info: pool_pb2.SessionInfo) -> SessionClient:
        known = self._attached.get(info.id)
        if known is not None and known.end is None:
            return known
        assert self._address is not None
        session = SessionClient(pool, info, self._address.is_agent_gone, late_publisher, self.comms)
        await session.connect()
        self._attached[info.id] = session
        return session

    async def _leave(self) -> None:
        for session in list(self._attached.values()):
            await session.disconnect()
        if self._pool is not None:
            await self._pool.close()
            self._pool = None


def late_publisher() -> Publisher:
    """Returns where output goes that comes when the cell is over."""
    shell = get_ipython()
    return KernelPublisher(shell) if _kernel() is not None else ShellPublisher()


@functools.cache
def this_notebook() -> Notebook:
    """Returns the process's one Notebook."""
    return Notebook()
