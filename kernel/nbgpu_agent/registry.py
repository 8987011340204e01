"""The registry of sessions: opens them on leases, finds a notebook's again, closes them and frees what they held."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from nbgpu_agent.background_tasks import BackgroundTasks
from nbgpu_agent.ends import RecentEnds, no_such_session
from nbgpu_agent.errors import (
    InvalidRequestError,
    NoSuchSessionError,
    SessionsOpenError,
    ShuttingDownError,
)
from nbgpu_agent.leases import LeaseLedger
from nbgpu_agent.model import (
    Accelerator,
    Lease,
    Phase,
    SessionInfo,
    SessionRequest,
    SessionUpdate,
)
from nbgpu_agent.notebook_sessions import find_session
from nbgpu_agent.observing import SessionObserver
from nbgpu_agent.openings import Openings
from nbgpu_agent.sampling import Held
from nbgpu_agent.state import Changes

if TYPE_CHECKING:
    from nbgpu_agent.environments.session_environments import SessionEnvironments
    from nbgpu_agent.sessions import Session

logger = logging.getLogger(__name__)

_REMEMBERED_OWNERS = 10_000
"""Of sessions that are closed as well: samples of the last hour are of some of them."""

SessionFactory: TypeAlias = "Callable[[str, SessionRequest, Lease, Callable[[], None]], Session]"
"""Makes a session that is not started yet, from its id, its request, its lease, and what to call when it changes."""


class SessionRegistry:
    """All sessions of the agent. Used on the event loop only.

    Args:
        accelerators: All of the node's.
        make_session: Makes a session that is not started yet.
        environments: Prepares sessions that bring a snapshot; None where none does.
        lease_duration_s: After which a lease expires that is not renewed, and its session is closed; None: never.
        now: The time, in seconds since the epoch.
    """

    def __init__(
        self,
        accelerators: Sequence[Accelerator],
        make_session: SessionFactory,
        *,
        environments: SessionEnvironments | None = None,
        lease_duration_s: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.changes = Changes()
        self.ledger = LeaseLedger(accelerators, duration_s=lease_duration_s, on_change=self.changes.notify, now=now)
        self.environments = environments
        self._make_session = make_session
        self._now = now
        self._sessions: dict[str, Session] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._openings = Openings(self, self.ledger, environments, on_change=self.changes.notify, now=now)
        self._owners: dict[str, str] = {}
        self._users = 0
        self._unused_since_s = time.monotonic()
        self._shutting_down = False
        self.ends = RecentEnds()
        self.observers: list[SessionObserver] = []
        self.admit: Callable[[SessionRequest], None] = lambda request: None
        """Asked about every request for a new session; raises what it is refused with."""
        self.background = BackgroundTasks()
        """What is begun on behalf of sessions, and is waited for when the agent ends."""

    def get(self, session_id: str) -> Session:
        """Returns the session.

        Raises:
            NoSuchSessionError: It is closed, or another agent's.
        """
        try:
            return self._sessions[session_id]
        except KeyError:
            raise no_such_session(session_id, self.ends.why_lost(session_id)) from None

    def note_lost(self, lost: Mapping[str, str], owner: str | None = None) -> None:
        """Notes why sessions of an earlier agent are not here.

        Args:
            lost: By their ids.
            owner: The user whose they were; None: unknown, and nobody but an administrator is told.
        """
        self.ends.note_lost(lost)
        if owner is not None:
            self._owners.update(dict.fromkeys(lost, owner))

    def adopt(self, session: Session, lease: Lease) -> None:
        """Takes a session of an earlier agent into the registry, with its lease.

        Raises:
            InvalidRequestError: Another one holds its accelerators.
        """
        self.ledger.adopt(lease)
        self._sessions[session.id] = session
        self._owners[session.id] = session.info().request.owner
        if self.environments is not None:
            self.environments.adopt(session)
        self.changes.notify()

    def sessions(self) -> list[Session]:
        """Returns all sessions, the oldest first."""
        return list(self._sessions.values())

    def is_closing(self, session_id: str) -> bool:
        return session_id in self._closing

    def infos(self) -> list[SessionInfo]:
        """Returns all sessions, the oldest first; those that start are among them, those that wait are not."""
        return [session.info() for session in self._sessions.values()]

    def waiting(self) -> list[SessionInfo]:
        """Returns what is to be told of the requests that wait for accelerators, the oldest first.

        The session that comes of one has its id; closing that withdraws the request.
        """
        return self._openings.waiting()

    def owner_of(self, session_id: str) -> str | None:
        """Returns whose a session is, or was, or a request for one; None where that is not known any more."""
        return self._owners.get(session_id)

    def attach(
        self, session_id: str, notebook_id: str, notebook_name: str = "", notebook_key: str = "", *, owner: str = ""
    ) -> SessionInfo | None:
        """Makes a session the notebook's and the one that it uses, and tells the kernels that this concerns.

        Args:
            session_id: Empty: the notebook uses none of these from now on, and keeps them.
            notebook_id: Its Jupyter kernel id.
            notebook_name: For lists; empty: as it is.
            notebook_key: By what it is known again when it has another kernel; empty: as it is.
            owner: Whose the notebook is: other users' sessions are not told, whatever notebook they name.

        Raises:
            NoSuchSessionError: It is closed, or another agent's.
            InvalidRequestError: There is no notebook.
        """
        if not notebook_id:
            raise InvalidRequestError("a session is attached to a notebook, and none is named")
        concerned = [
            each
            for each in self._sessions.values()
            if (each.info().request.notebook_id, each.info().request.owner) == (notebook_id, owner)
        ]
        session = self.get(session_id) if session_id else None
        if session is not None:
            previous = session.info().request.notebook_id
            session.attach(notebook_id, notebook_name, notebook_key)
            self._tell_attached(session)
            if previous not in ("", notebook_id):
                session.tell_choice(previous, "")
            if session not in concerned:
                concerned.append(session)
        for each in concerned:
            each.tell_choice(notebook_id, session_id)
        return session.info() if session is not None else None

    def detach(self, session_id: str) -> SessionInfo:
        """Leaves a session running as no notebook's. Idempotent.

        Raises:
            NoSuchSessionError: It is closed, or another agent's.
        """
        session = self.get(session_id)
        if previous := session.info().request.notebook_id:
            session.attach("")
            self._tell_attached(session)
            session.tell_choice(previous, "")
        return session.info()

    def _tell_attached(self, session: Session) -> None:
        for observer in self.observers:
            observer.session_attached(session.info())

    def measure_executions(self) -> None:
        """Completes what is told of executions. To be called after every reading of the accelerators."""
        for session in self._sessions.values():
            session.measure_executions()

    def held(self) -> list[Held]:
        """Returns who holds what."""
        return [
            Held(session.id, session.lease.accelerators, session)
            for session in self._sessions.values()
            if session.lease is not None
        ]

    def holders(self) -> dict[str, str]:
        """Returns the session that holds each accelerator, by the accelerator's id."""
        return {each.id: held.session_id for held in self.held() for each in held.accelerators if not each.shared}

    def now(self) -> float:
        """Returns the time, in seconds since the epoch."""
        return self._now()

    def unused_s(self) -> float:
        """Returns for how long there has been neither a session nor a request for one nor a watcher."""
        if self._users or self._sessions or self._openings or self.background:
            return 0.0
        return time.monotonic() - self._unused_since_s

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Marks the agent as in use, for as long as somebody watches it."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self.touch()

    async def open(
        self, request: SessionRequest, *, no_wait: bool = False, existing_only: bool = False
    ) -> AsyncGenerator[SessionUpdate, None]:
        """Yields what is happening until the notebook has a session that satisfies its spec; READY comes last.

        A notebook's session is found again by its id; two requests of a notebook for the same are one. Closing the
        iterator before it has gone on from READY withdraws the request and leaves nothing behind.

        Raises:
            NoSuchSessionError: There is none, and `existing_only` is set.
            BusyError: It would have to wait, and `no_wait` is set.
            NoSuchAcceleratorError, CanNeverFitError: As `placement.check_fits`.
            KernelFailedError: The kernel does not start.
            EnvironmentImpossibleError, BuildFailedError, NoSuchBlobError: As `SessionEnvironments.prepare`.
            ShuttingDownError: The agent is ending.
        """
        if self._shutting_down:
            raise ShuttingDownError("the agent is ending")
        if (found := self._of_notebook(request)) is not None:
            self._openings.take(found.id)
            yield SessionUpdate(Phase.READY, session=found.info(), existing=True)
            return
        if existing_only:
            raise NoSuchSessionError(
                f"the notebook has no session{f' on {request.spec.text}' if request.spec else ''} here",
                "open one with `%gpu attach`",
            )
        if (opening := self._openings.find(request)) is None:
            self.admit(request)
            opening = self._openings.begin(request, self.background, no_wait=no_wait)
            self._owners[opening.id] = request.owner
            self._forget_old_owners()
        async with contextlib.aclosing(opening.watch(no_wait=no_wait)) as updates:
            async for update in updates:
                yield update

    async def close(self, session_id: str, reason: str, *, tell: bool = False) -> None:
        """Ends the session and its processes, then frees what it held. Idempotent; returns once it is done.

        Args:
            session_id: Of the session, or of a request that waits.
            reason: In words, to stand behind "the session was closed: ".
            tell: It is not its user's doing: the notebook is told when it opens its next session.
        """
        if session_id not in self._sessions:
            await self._openings.withdraw(session_id)
            return
        await asyncio.shield(self.begin_closing(session_id, reason, tell=tell))

    def begin_closing(self, session_id: str, reason: str, *, tell: bool = False) -> asyncio.Task[None]:
        """Begins what `close` does with a session that is there; returns the task that goes on with it. Idempotent."""
        closing = self._closing.get(session_id)
        if closing is None:
            session = self._sessions[session_id]
            self.ends.note(session.info(), reason, self._now(), tell=tell)
            closing = asyncio.get_running_loop().create_task(self._close(session, reason), name=f"close {session_id}")
            self._closing[session_id] = closing
        return closing

    async def close_all(self, reason: str) -> None:
        """Withdraws every request, ends every session; from now on there is no new one."""
        self._shutting_down = True
        self._openings.withdraw_all(ShuttingDownError("the agent is ending"))
        while self.background or self._sessions:
            closing = (self.close(session_id, reason) for session_id in list(self._sessions))
            await asyncio.gather(*closing, self.background.wait(), return_exceptions=True)

    async def leave_all(self) -> None:
        """Withdraws every request, and leaves every session that is ready to the next agent."""
        self._shutting_down = True
        self._openings.withdraw_all(ShuttingDownError("the agent is ending"))
        await self.background.wait()
        await asyncio.gather(*(session.leave() for session in self._sessions.values()))

    def refuse_if_open(self) -> None:
        """Refuses to end while the agent is in use.

        Raises:
            SessionsOpenError: There are sessions, or requests for some.
        """
        count = len(self._sessions) + self._openings.count_without_session()
        if count:
            raise SessionsOpenError(
                f"{count} session{'s are' if count > 1 else ' is'} open",
                "close them first, or end it with --force",
            )

    def renew(self, session_id: str, duration_s: float | None) -> Lease:
        """Returns the session's lease, extended from now on.

        Raises:
            NoSuchSessionError: It is closed, or holds no lease.
            InvalidRequestError: The duration is out of range.
        """
        session = self.get(session_id)
        lease = self.ledger.renew(session.lease.id, duration_s) if session.lease else None
        if lease is None:
            raise NoSuchSessionError(f"session {session_id!r} holds no accelerators now")
        session.note_lease(lease)
        return lease

    def close_expired(self) -> None:
        """Begins to close the sessions whose lease is over. To be called about once a second."""
        expired = {lease.id for lease in self.ledger.expired()}
        for session in list(self._sessions.values()):
            if session.lease is not None and session.lease.id in expired and session.id not in self._closing:
                logger.info("the lease of session %s expired", session.id)
                self.begin_closing(session.id, "its lease expired", tell=True)

    def _of_notebook(self, request: SessionRequest) -> Session | None:
        infos = [session.info() for session in self._sessions.values() if session.id not in self._closing]
        found = find_session(request, infos)
        return self._sessions[found.id] if found is not None else None

    def _forget_old_owners(self) -> None:
        open_ids = self._sessions.keys() | self._openings.ids()
        while len(self._owners) > max(_REMEMBERED_OWNERS, len(open_ids)):
            del self._owners[next(each for each in self._owners if each not in open_ids)]

    def make_session(self, session_id: str, request: SessionRequest, lease: Lease) -> Session:
        """Returns a new session on the lease, listed and not started. From here on, closing it frees the lease."""
        session = self._sessions[session_id] = self._make_session(session_id, request, lease, self.changes.notify)
        self.changes.notify()
        return session

    def note_ready(self, session: Session) -> str:
        """Notes that the session's first kernel runs; returns what its notebook is to be told of one before."""
        info = session.info()
        for observer in self.observers:
            observer.session_ready(info)
        accelerators = info.lease.accelerators if info.lease is not None else ()
        logger.info("session %s opened on %s", session.id, ", ".join(each.id for each in accelerators))
        end = self.ends.take_of_notebook(info.request.owner, info.request.notebook_id)
        return end.in_words() if end is not None else ""

    async def _close(self, session: Session, reason: str) -> None:
        try:
            await session.close(reason)
        except Exception:
            logger.exception("session %s did not close cleanly", session.id)
        finally:
            for observer in self.observers:
                observer.session_ended(session.info(), reason)
            # Only now: its processes had the accelerators until here.
            self._sessions.pop(session.id, None)
            self._openings.forget(session.id)
            self._closing.pop(session.id, None)
            if self.environments is not None:
                self.environments.forget(session.id)
            if session.lease is not None:
                self.ledger.release(session.lease.id)
            self.touch()
            self.changes.notify()
            logger.info("session %s closed: %s", session.id, reason)

    def settle(self, session_id: str) -> None:
        """Notes that the session is its notebook's from now on, whoever leaves."""
        if (session := self._sessions.get(session_id)) is not None:
            session.settle()

    def touch(self) -> None:
        """Notes that somebody has just used the agent."""
        self._unused_since_s = time.monotonic()
