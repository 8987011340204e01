"""Sessions on their way: requests that wait for accelerators, and what follows until each is READY or undone."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from nbgpu_agent.background_tasks import BackgroundTasks
from nbgpu_agent.environments.progress import Progress
from nbgpu_agent.errors import BusyError, ShuttingDownError, WithdrawnError
from nbgpu_agent.leases import LeaseLedger
from nbgpu_agent.model import (
    Alternative,
    KernelState,
    Lease,
    Phase,
    SessionInfo,
    SessionRequest,
    SessionUpdate,
    Spec,
)
from nbgpu_agent.placement import Waiting

if TYPE_CHECKING:
    from nbgpu_agent.environments.session_environments import SessionEnvironments
    from nbgpu_agent.sessions import Session


class Home(Protocol):
    """Where a session lives from when it has its lease: the registry, as far as openings go."""

    def make_session(self, session_id: str, request: SessionRequest, lease: Lease) -> Session:
        """Returns a new session on the lease, listed and not started. From here on, closing it frees the lease."""

    def note_ready(self, session: Session) -> str:
        """Notes that the session's first kernel runs; returns what its notebook is to be told of one before."""

    def settle(self, session_id: str) -> None:
        """Notes that the session is its notebook's from now on, whoever leaves."""

    async def close(self, session_id: str, reason: str) -> None:
        """Ends the session, then frees what it held. Idempotent."""

    def touch(self) -> None:
        """Notes that somebody has just used the agent."""


class Openings:
    """All sessions that are on their way, and those that nobody has taken yet.

    Args:
        home: Where sessions live.
        ledger: Grants the accelerators.
        environments: Prepares sessions that bring a snapshot; None where none does.
        on_change: Called after every change of one.
        now: The time, in seconds since the epoch.
    """

    def __init__(
        self,
        home: Home,
        ledger: LeaseLedger,
        environments: SessionEnvironments | None,
        *,
        on_change: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self.home = home
        self.ledger = ledger
        self.environments = environments
        self.on_change = on_change
        self.now = now
        self._listed: dict[tuple[str, tuple[Alternative, ...] | None], Opening] = {}
        self._untaken: dict[str, Opening] = {}
        self._anonymous = 0

    def __bool__(self) -> bool:
        return bool(self._listed)

    def ids(self) -> set[str]:
        """Returns the ids of the sessions that come of them."""
        return {opening.id for opening in self._listed.values()}

    def find(self, request: SessionRequest) -> Opening | None:
        """Returns the opening of a notebook's request for the same; of any, if it asks for nothing particular."""
        if not request.notebook_id:
            return None
        notebook = _notebook(request)
        if request.spec is None:
            of_none = self._listed.get((notebook, None))
            return of_none or next((each for (of, _), each in self._listed.items() if of == notebook), None)
        return self._listed.get((notebook, request.spec.alternatives))

    def begin(self, request: SessionRequest, background: BackgroundTasks, *, no_wait: bool) -> Opening:
        """Begins one, which nobody watches yet.

        Args:
            background: Where it goes on.
        """
        opening = Opening(self, request, background, no_wait=no_wait)
        key = (_notebook(request), request.spec.alternatives if request.spec else None)
        if not request.notebook_id:
            self._anonymous += 1
            key = (f"\0\0{self._anonymous}", None)  # nobody can ask for the same
        self._listed[key] = opening
        return opening

    def waiting(self) -> list[SessionInfo]:
        """Returns what is to be told of those that wait for accelerators, the oldest first."""
        return [info for opening in self._listed.values() if (info := opening.waiting_info()) is not None]

    def count_without_session(self) -> int:
        return sum(not opening.has_session for opening in self._listed.values())

    def make_session(self, opening: Opening, request: SessionRequest, lease: Lease) -> Session:
        """Returns the opening's session, listed and not started."""
        session = self.home.make_session(opening.id, request, lease)
        self._untaken[session.id] = opening
        return session

    def take(self, session_id: str) -> None:
        """Makes the session, if nobody has taken it yet, its notebook's: it stays, whoever leaves."""
        if (opening := self._untaken.get(session_id)) is not None:
            opening.take()

    def forget(self, session_id: str) -> None:
        """Notes that the session is taken, or closed."""
        self._untaken.pop(session_id, None)

    async def withdraw(self, session_id: str) -> None:
        """Undoes the opening of which the session would come; returns once that is done, or if there is none."""
        for opening in self._listed.values():
            if opening.id == session_id:
                await asyncio.shield(opening.withdraw(WithdrawnError("the request was withdrawn")))
                return

    def withdraw_all(self, error: Exception) -> None:
        """Begins to undo all; whoever watches one gets the error."""
        for opening in list(self._listed.values()):
            opening.withdraw(error)

    def unlist(self, opening: Opening) -> None:
        """Notes that there is nothing to join any more: it has ended, well or not. Idempotent."""
        for key in [key for key, each in self._listed.items() if each is opening]:
            del self._listed[key]
        self.home.touch()


class Opening:
    """A session on its way to READY, watched by those who asked for it; it is undone when the last of them leaves.

    Attributes:
        id: Of the session that comes of it.
        no_wait: Whether all who asked said so.
        taken: A watcher has gone on from READY: the session is its notebook's.
    """

    def __init__(
        self, openings: Openings, request: SessionRequest, background: BackgroundTasks, *, no_wait: bool
    ) -> None:
        self.id = secrets.token_hex(8)
        self.no_wait = no_wait
        self.taken = False
        self._request = request
        self._openings = openings
        self._background = background
        self._created_unix_s = openings.now()
        self._updates: list[SessionUpdate] = []
        self._arrived = asyncio.Event()
        self._watchers = 0
        self._session: Session | None = None
        self._error: Exception | None = None
        self._task = background.begin(self._run())

    @property
    def has_session(self) -> bool:
        return self._session is not None

    def waiting_info(self) -> SessionInfo | None:
        """Returns what is to be told of it while it waits for accelerators; None before and after."""
        update = self._updates[-1] if self._updates else None
        if update is None or update.phase is not Phase.QUEUED or self._error is not None:
            return None
        return SessionInfo(
            id=self.id,
            request=self._request,
            phase=Phase.QUEUED,
            lease=None,
            kernel_state=KernelState.STARTING,
            kernel_generation=0,
            created_unix_s=self._created_unix_s,
            last_active_unix_s=self._created_unix_s,
            executing=None,
            executions=0,
            kernel_exit=None,
            python_version="",
            working_folder="",
            queue_position=update.queue_position,
            queue_length=update.queue_length,
            detail=update.detail,
        )

    def take(self) -> None:
        """Makes the session its notebook's: it stays, whoever leaves."""
        self.taken = True
        if self._session is not None:
            self._openings.forget(self._session.id)
            self._openings.home.settle(self._session.id)

    async def watch(self, *, no_wait: bool) -> AsyncGenerator[SessionUpdate, None]:
        """Yields every update from the first on, and raises what the opening fails with."""
        self._watchers += 1
        self.no_wait = self.no_wait and no_wait
        position = 0
        try:
            while True:
                arrived = self._arrived
                while position < len(self._updates):
                    update = self._updates[position]
                    position += 1
                    if update.phase is Phase.QUEUED:
                        if no_wait:
                            raise BusyError("the notebook's request for the same waits already", "wait, or cancel it")
                        if position < len(self._updates):
                            continue  # only the newest place in the queue matters
                    yield update
                    if update.phase is Phase.READY:
                        self.take()
                        return
                if self._error is not None:
                    raise self._error
                await arrived.wait()
        finally:
            self._watchers -= 1
            if not self._watchers and not self.taken:
                await asyncio.shield(self.withdraw(ShuttingDownError("the request was withdrawn")))

    def withdraw(self, error: Exception) -> asyncio.Task[None]:
        """Undoes it, wherever it is; whoever still watches gets the error. Returns the task that does so."""
        self._fail(error)
        return self._background.begin(self._undo())

    async def _undo(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._session is not None and not self.taken:
            await self._openings.home.close(self._session.id, "its request was withdrawn")
        self._tell(None)

    async def _run(self) -> None:
        try:
            await self._open(self._request)
        except Exception as error:  # noqa: BLE001
            self._fail(error)
            if self._session is not None:
                await self._openings.home.close(self._session.id, "its kernel did not start")
        finally:
            self._openings.unlist(self)
            self._tell(None)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error  # why it was withdrawn says more than what came of that
        self._openings.unlist(self)  # whoever asks for the same while this is undone is not to get its error

    async def _open(self, request: SessionRequest) -> None:
        ledger = self._openings.ledger
        spec = request.spec or ledger.preferred()
        lease_request = ledger.request(spec, no_wait=self.no_wait)
        try:
            async for state in lease_request.states():
                if isinstance(state, Waiting):
                    self._tell(SessionUpdate(Phase.QUEUED, state.position, state.length, state.detail))
            lease = lease_request.lease
            assert lease is not None, "the last state is the lease"
            if request.spec is None:
                spec = Spec((Alternative(lease.accelerators[0].type, 1),), lease.accelerators[0].type)
            session = self._openings.make_session(self, replace(request, spec=spec), lease)
        except BaseException:
            ledger.withdraw(lease_request)
            raise
        self._session = session  # from here on, closing it frees the lease
        self._tell(SessionUpdate(Phase.PLACING, session=replace(session.info(), phase=Phase.PLACING)))
        await self._materialise(session, request.snapshot_digest)
        self._tell(SessionUpdate(Phase.STARTING, session=replace(session.info(), phase=Phase.STARTING)))
        await session.start()
        notice = self._openings.home.note_ready(session)
        self._tell(SessionUpdate(Phase.READY, session=session.info(), notice=notice))

    async def _materialise(self, session: Session, snapshot_digest: str) -> None:
        environments = self._openings.environments
        if not snapshot_digest or environments is None:
            return
        session.note_phase(Phase.MATERIALISING)

        def tell(progress: Progress) -> None:
            session.note_environment(progress.facts())
            session.note_phase(Phase.MATERIALISING, progress.in_words())
            self._tell(SessionUpdate(Phase.MATERIALISING, detail=progress.in_words(), session=session.info()))

        await environments.prepare(session, snapshot_digest, tell)

    def _tell(self, update: SessionUpdate | None) -> None:
        if update is not None:
            self._updates.append(update)
        self._openings.on_change()
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()


def _notebook(request: SessionRequest) -> str:
    # Two users may name the same notebook, which makes it two.
    return f"{request.owner}\0{request.notebook_id}"
