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
from nbgpu.client import environments
from nbgpu.client.background import background
from nbgpu.client.pool import Pool
from nbgpu.comms import CommBridge
from nbgpu.notebook_key import own_notebook_key
from nbgpu.output import KernelPublisher, Publisher, ShellPublisher
from nbgpu.pool_connections import PoolConnections
from nbgpu.session_client import SessionClient
from nbgpu.snapshot.attachment import CAPABILITY, Attachment, is_wanted
from nbgpu.spec import Spec
from nbgpu_protocol.v1 import environment_pb2, pool_pb2

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
        self.pools = PoolConnections()
        self.attachment = Attachment()
        self.on_given: Callable[[], None] = lambda: None
        """Called on the background loop when a session was given what had changed here."""
        self._closed_at_end: set[str] = set()
        background().call_at_close(self._leave)

    async def pool(self, *, start: bool = True, on_update: OnUpdate | None = None) -> Pool:
        """Returns the connection to the default pool, made when it is needed, and again when its agent is gone."""
        return await self.pools.get(start=start, on_progress=on_update)

    async def open(
        self,
        spec: Spec | None,
        *,
        new: bool = False,
        wait: bool = True,
        on_update: OnUpdate | None = None,
        pool_name: str | None = None,
        idle_close_s: float | None = None,
    ) -> tuple[SessionClient, bool]:
        """Attaches to this notebook's session that meets the spec, or opens one.

        Args:
            spec: None for the session that the notebook has, else whatever the agent prefers.
            new: Open one even if the notebook has one that would do.
            wait: Queue if nothing is free.
            on_update: Told what is happening.
            pool_name: The pool to ask; None: the one that has this notebook's session, else as
                `PoolConnections.choose`.
            idle_close_s: Close it after so long without work; 0: never; None: as the pool has it.

        Returns:
            The session, and whether it was open before.
        """
        pool = await self._pool_for(spec, pool_name, new=new, on_update=on_update)
        snapshot_digest = ""
        if self.sends_snapshot(pool):
            if on_update is not None:
                on_update("Sending what the environment consists of")
            snapshot_digest = await self.attachment.snapshot_for(pool)
        request = pool_pb2.OpenSessionRequest(
            spec=spec.to_message() if spec else None,
            notebook_id="" if new else notebook_id(),
            notebook_name=notebook_name(),
            python=sys.executable if self._is_embedded(pool) else "",
            working_folder=os.getcwd() if self._is_embedded(pool) else "",
            no_wait=not wait,
            snapshot_digest=snapshot_digest,
            idle_close_s=idle_close_s,
            notebook_key=own_notebook_key(),
        )
        async with contextlib.aclosing(pool.open_session(request)) as updates:
            async for update in updates:
                if on_update is not None:
                    on_update(update)
                if update.phase == pool_pb2.READY:
                    if update.existing and idle_close_s is not None:
                        await pool.renew_lease(update.session.id, idle_close_s=idle_close_s)
                    if not update.existing:
                        self.attachment.note_opened(update.session.id, snapshot_digest)
                    return await self._attach(pool, update.session), update.existing
        raise errors.AgentFaultError("the agent ended the request without a session")

    def sends_snapshot(self, pool: Pool) -> bool:
        """Says whether sessions of the pool get the notebook's environment built: on this machine they run in it."""
        return not self._is_embedded(pool) and CAPABILITY in pool.capabilities and is_wanted()

    def works_here(self, session: SessionClient) -> bool:
        """Says whether a session is of this machine's own agent, which works in its clients' folders."""
        return self._is_embedded(session.pool)

    def _is_embedded(self, pool: Pool) -> bool:
        address = self.pools.address_of(pool)
        return address is not None and address.is_embedded

    async def _pool_for(
        self, spec: Spec | None, pool_name: str | None, *, new: bool, on_update: OnUpdate | None
    ) -> Pool:
        """Returns the pool to ask for a session."""
        if pool_name is not None:
            return await self.pools.get(pool_name, on_progress=on_update)
        if not new and len(self.pools.names()) > 1:
            await self.pool(on_update=on_update)
            for pool, info in await self.pools.sessions_of(notebook_id()):
                if spec is None or spec.is_met_by(info.accelerators):
                    return pool
        if spec is None:
            return await self.pool(on_update=on_update)
        return await self.pools.choose(spec, on_progress=on_update)

    async def bring_up_to_date(
        self, session: SessionClient, cell: str, on_update: Callable[[str], None] | None = None
    ) -> None:
        """Gives the session what changed here since its last cell: packages, local modules, named variables."""
        if await self.attachment.bring_up_to_date(
            session.pool,
            session.id,
            cell=cell,
            with_snapshot=self.sends_snapshot(session.pool),
            on_update=on_update,
        ):
            self.on_given()

    async def plan(self, cell: str = "") -> environment_pb2.PlanResponse | None:
        """Returns what the pool would do to run the notebook's cells; None where they run in its own interpreter."""
        pool = await self.pool()
        if not self.sends_snapshot(pool):
            return None
        return await environments.plan(pool, await self.attachment.snapshot_for(pool, cell))

    async def find(self, session_id: str) -> SessionClient:
        """Attaches to a session by its id, or by the beginning of it.

        Raises:
            NoSuchSessionError: None has it, or more than one.
        """
        matching = [
            (pool, each)
            for pool in (await self.pools.all()).values()
            for each in await pool.list_sessions()
            if each.id.startswith(session_id)
        ]
        if len(matching) != 1:
            many = "more than one session" if matching else "no session"
            raise errors.NoSuchSessionError(f"{many} has an id that begins with {session_id}")
        return await self._attach(*matching[0])

    async def choose(self, session: SessionClient) -> None:
        """Makes the session this notebook's, and the one that a plain `%%gpu` uses; its agent knows of it."""
        self.chosen = session
        await self.pools.choose_session(session.pool, session.id, notebook_id(), notebook_name(), own_notebook_key())

    async def leave(self, session: SessionClient) -> None:
        """Leaves a session running, as no notebook's if it was this one's."""
        await self.detach(session)
        if session.info.notebook_id and session.info.notebook_id == notebook_id():
            with contextlib.suppress(errors.NoSuchSessionError, errors.AgentUnreachableError):
                await session.pool.detach_session(session.id)

    async def offers(self) -> list[pool_pb2.Offer]:
        """Returns what all pools offer that are reached."""
        pools = await self.pools.all(start=True)
        return [offer for pool in pools.values() for offer in await pool.list_offers()]

    async def sessions(self) -> list[pool_pb2.SessionInfo]:
        """Returns the sessions of all pools that are reached."""
        pools = await self.pools.all(start=True)
        return [info for pool in pools.values() for info in await pool.list_sessions()]

    async def find_chosen(self) -> SessionClient | None:
        """Returns the chosen session, else this notebook's own if its agent knows one, without opening any."""
        if self.chosen is not None and self.chosen.end is None:
            return self.chosen
        self.chosen = None
        try:
            own = await self.pools.sessions_of(notebook_id())
        except errors.AgentUnreachableError:
            return None
        if own:
            self.chosen = await self._attach(*own[0])
        return self.chosen

    def attached_that_meets(self, spec: Spec) -> SessionClient | None:
        """Returns an attached session that has exactly what the spec asks for; the chosen one first."""
        candidates = [self.chosen, *self._attached.values()]
        for session in candidates:
            if session is not None and session.end is None and spec.is_met_by(session.info.accelerators):
                return session
        return None

    def open_sessions(self) -> list[SessionClient]:
        """Returns those that are attached and have not ended."""
        return [session for session in self._attached.values() if session.end is None]

    def held(self) -> list[pool_pb2.Accelerator]:
        """Returns what the attached sessions hold, without what is shared."""
        return [each for session in self.open_sessions() for each in session.info.accelerators if not each.shared]

    async def detach(self, session: SessionClient) -> None:
        """Ends the stream; the session goes on."""
        self._attached.pop(session.id, None)
        if self.chosen is session:
            self.chosen = None
        await session.disconnect()

    async def close(self, session: SessionClient) -> None:
        """Ends the session and frees its accelerators. Idempotent."""
        await self.detach(session)
        self.attachment.forget(session.id)
        if not isinstance(session.end, errors.NoSuchSessionError):
            await session.pool.close_session(session.id)

    async def _attach(self, pool: Pool, info: pool_pb2.SessionInfo) -> SessionClient:
        known = self._attached.get(info.id)
        if known is not None and known.end is None:
            return known
        session = SessionClient(
            pool,
            info,
            lambda: self.pools.is_agent_gone(pool),
            late_publisher,
            self.comms,
            on_choice=self._follow_choice,
            revive=lambda: self.pools.revive(pool),
        )
        await session.connect()
        self._attached[info.id] = session
        return session

    def _follow_choice(self, session: SessionClient, of_notebook: str, session_id: str) -> None:
        """Does what a front end, or another client, wants of this notebook: to use another session, or none."""
        if not of_notebook or of_notebook != notebook_id():
            return
        if not session_id:
            background().start_task(self._let_go(session))
        elif self.chosen is None or self.chosen.id != session_id:
            background().start_task(self._use(session.pool, session_id))

    async def _let_go(self, session: SessionClient) -> None:
        """Detaches from a session once nothing that was asked of it is unanswered."""
        if self._attached.get(session.id) is session:
            del self._attached[session.id]
        if self.chosen is session:
            self.chosen = None
        await session.quiet()
        await session.disconnect()

    async def _use(self, pool: Pool, session_id: str) -> None:
        with contextlib.suppress(errors.Error):  # it is closed by now, or its agent lost, and the next cell says so
            for info in await pool.list_sessions():
                if info.id == session_id:
                    self.chosen = await self._attach(pool, info)

    def close_at_end(self, session: SessionClient) -> None:
        """Has a session closed with this process if this is no notebook: nobody could find it again. Idempotent."""
        if not notebook_id() and session.id not in self._closed_at_end:
            self._closed_at_end.add(session.id)
            background().call_at_close(functools.partial(self._close_quietly, session))

    async def _close_quietly(self, session: SessionClient) -> None:
        with contextlib.suppress(errors.Error):
            await self.close(session)

    async def _leave(self) -> None:
        for session in list(self._attached.values()):
            await session.disconnect()
        await self.pools.close()


def late_publisher() -> Publisher:
    """Returns where output goes that comes when the cell is over."""
    shell = get_ipython()
    return KernelPublisher(shell) if _kernel() is not None else ShellPublisher()


@functools.cache
def this_notebook() -> Notebook:
    """Returns the process's one Notebook."""
    return Notebook()
