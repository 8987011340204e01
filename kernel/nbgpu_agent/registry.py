"""The registry of sessions: opens them on leases, finds a notebook's again, closes them and frees what they held."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from nbgpu_agent.ends import RecentEnds
from nbgpu_agent.environments.progress import Progress
from nbgpu_agent.errors import (
    BusyError,
    InvalidRequestError,
    NoSuchSessionError,
    SessionsOpenError,
    ShuttingDownError,
    WithdrawnError,
)
from nbgpu_agent.leases import LeaseLedger
from nbgpu_agent.model import (
    Accelerator,
    Alternative,
    EnvironmentFacts,
    KernelState,
    Lease,
    Phase,
    SessionInfo,
    SessionRequest,
    SessionUpdate,
    Spec,
)
from nbgpu_agent.observing import SessionObserver
from nbgpu_agent.placement import Waiting, satisfies
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
        self._openings: dict[tuple[str, tuple[Alternative, ...] | None], _Opening] = {}
        self._untaken: dict[str, _Opening] = {}
        self._owners: dict[str, str] = {}
        self._anonymous_openings = 0
        self._users = 0
        self._unused_since_s = time.monotonic()
        self._shutting_down = False
        self.ends = RecentEnds()
        self.observers: list[SessionObserver] = []
        self.admit: Callable[[SessionRequest], None] = lambda request: None
        """Asked about every request for a new session; raises what it is refused with."""
        self._cleanups: set[asyncio.Task[None]] = set()
        self._lost: dict[str, str] = {}

    def get(self, session_id: str) -> Session:
        """Returns the session.

        Raises:
            NoSuchSessionError: It is closed, or another agent's.
        """
        try:
            return self._sessions[session_id]
        except KeyError:
            raise no_such_session(session_id, self._lost.get(session_id, "")) from None

    def note_lost(self, lost: Mapping[str, str], owner: str | None = None) -> None:
        """Notes why sessions of an earlier agent are not here.

        Args:
            lost: By their ids.
            owner: The user whose they were; None: unknown, and nobody but an administrator is told.
        """
        self._lost.update(lost)
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
        return [info for opening in self._openings.values() if (info := opening.waiting_info()) is not None]

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
        if self._users or self._sessions or self._openings or self._closing:
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
            self._touch()

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
        if (found := self._find(request)) is not None:
            if (opened := self._untaken.get(found.id)) is not None:
                opened.take()
            yield SessionUpdate(Phase.READY, session=found.info(), existing=True)
            return
        if existing_only:
            raise NoSuchSessionError(
                f"the notebook has no session{f' on {request.spec.text}' if request.spec else ''} here",
                "open one with `%gpu attach`",
            )
        opening = self._join_or_begin(request, no_wait=no_wait)
        updates = opening.watch(no_wait=no_wait)
        async with contextlib.aclosing(updates):
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
            await self._withdraw(session_id)
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

    async def _withdraw(self, session_id: str) -> None:
        for opening in self._openings.values():
            if opening.id == session_id:
                await asyncio.shield(opening.withdraw(WithdrawnError("the request was withdrawn")))
                return

    async def close_all(self, reason: str) -> None:
        """Withdraws every request, ends every session; from now on there is no new one."""
        self._shutting_down = True
        for opening in list(self._openings.values()):
            opening.withdraw(ShuttingDownError("the agent is ending"))
        while self._cleanups or self._sessions:
            await asyncio.gather(
                *(self.close(session_id, reason) for session_id in list(self._sessions)),
                *list(self._cleanups),
                return_exceptions=True,
            )

    async def leave_all(self) -> None:
        """Withdraws every request, and leaves every session that is ready to the next agent."""
        self._shutting_down = True
        for opening in list(self._openings.values()):
            opening.withdraw(ShuttingDownError("the agent is ending"))
        while self._cleanups:
            await asyncio.gather(*list(self._cleanups), return_exceptions=True)
        await asyncio.gather(*(session.leave() for session in self._sessions.values()))

    def refuse_if_open(self) -> None:
        """Refuses to end while the agent is in use.

        Raises:
            SessionsOpenError: There are sessions, or requests for some.
        """
        count = len(self._sessions) + sum(not opening.has_session for opening in self._openings.values())
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

    def _find(self, request: SessionRequest) -> Session | None:
        """Returns the notebook's session that satisfies the spec, the one attached last if there are several."""
        if not request.notebook_id:
            return None
        found = [
            session
            for session in self._sessions.values()
            if session.id not in self._closing and _belongs(session.info(), request)
        ]
        infos = {session.id: session.info() for session in found}
        return max(
            found,
            key=lambda session: (infos[session.id].attached_unix_s, infos[session.id].last_active_unix_s),
            default=None,
        )

    def _join_or_begin(self, request: SessionRequest, *, no_wait: bool) -> _Opening:
        # Two users may name the same notebook, which makes it two.
        notebook = f"{request.owner}\0{request.notebook_id}"
        key = (notebook, request.spec.alternatives if request.spec else None)
        if not request.notebook_id:
            self._anonymous_openings += 1
            key = (f"\0\0{self._anonymous_openings}", None)  # nobody can ask for the same
        if (opening := self._openings.get(key)) is None and request.notebook_id and request.spec is None:
            opening = next((each for (of, _), each in self._openings.items() if of == notebook), None)
        if opening is None:
            self.admit(request)
            opening = _Opening(self, request, no_wait=no_wait, on_end=lambda: self._forget(key))
            self._openings[key] = opening
            self._owners[opening.id] = request.owner
            self._forget_old_owners()
        opening.no_wait = opening.no_wait and no_wait
        return opening

    def _forget_old_owners(self) -> None:
        open_ids = self._sessions.keys() | {opening.id for opening in self._openings.values()}
        while len(self._owners) > max(_REMEMBERED_OWNERS, len(open_ids)):
            del self._owners[next(each for each in self._owners if each not in open_ids)]

    def _forget(self, key: tuple[str, tuple[Alternative, ...] | None]) -> None:
        self._openings.pop(key, None)
        self._touch()

    def make_session(self, opening: _Opening, request: SessionRequest, lease: Lease) -> Session:
        """Returns a new session on the lease, listed and not started."""
        session = self._make_session(opening.id, request, lease, self.changes.notify)
        self._sessions[session.id] = session
        self._untaken[session.id] = opening
        self.changes.notify()
        return session

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
            self._untaken.pop(session.id, None)
            self._closing.pop(session.id, None)
            if self.environments is not None:
                self.environments.forget(session.id)
            if session.lease is not None:
                self.ledger.release(session.lease.id)
            self._touch()
            self.changes.notify()
            logger.info("session %s closed: %s", session.id, reason)

    def settle(self, session_id: str) -> None:
        """Notes that the session is its notebook's from now on, whoever leaves."""
        self._untaken.pop(session_id, None)
        if (session := self._sessions.get(session_id)) is not None:
            session.settle()

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)
        return task

    def _touch(self) -> None:
        self._unused_since_s = time.monotonic()


class _Opening:
    """A session on its way to READY, watched by those who asked for it; it is undone when the last of them leaves."""

    def __init__(
        self, registry: SessionRegistry, request: SessionRequest, *, no_wait: bool, on_end: Callable[[], None]
    ) -> None:
        self.id = secrets.token_hex(8)
        """Of the session that comes of it."""
        self._request = request
        self._created_unix_s = registry.now()
        self._registry = registry
        self._updates: list[SessionUpdate] = []
        self._arrived = asyncio.Event()
        self._watchers = 0
        self.taken = False  # a watcher has gone on from READY: the session is its notebook's
        self.no_wait = no_wait  # whether all who asked said so
        self._session: Session | None = None
        self._error: Exception | None = None
        self._on_end = on_end
        self._task = registry.in_background(self._run(request))

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
            self._registry.settle(self._session.id)

    async def watch(self, *, no_wait: bool) -> AsyncGenerator[SessionUpdate, None]:
        """Yields every update from the first on, and raises what the opening fails with."""
        self._watchers += 1
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
        self._error = self._error or error
        return self._registry.in_background(self._undo())

    async def _undo(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._session is not None and not self.taken:
            await self._registry.close(self._session.id, "its request was withdrawn")
        self._tell(None)

    async def _run(self, request: SessionRequest) -> None:
        try:
            await self._open(request)
        except Exception as error:  # noqa: BLE001
            self._error = self._error or error  # why it was withdrawn says more than what came of that
            if self._session is not None:
                await self._registry.close(self._session.id, "its kernel did not start")
        finally:
            self._on_end()
            self._tell(None)

    async def _open(self, request: SessionRequest) -> None:
        ledger = self._registry.ledger
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
            session = self._registry.make_session(self, replace(request, spec=spec), lease)
        except BaseException:
            ledger.withdraw(lease_request)
            raise
        self._session = session  # from here on, closing it frees the lease
        self._tell(SessionUpdate(Phase.PLACING, session=replace(session.info(), phase=Phase.PLACING)))
        await self._materialise(session, request.snapshot_digest)
        self._tell(SessionUpdate(Phase.STARTING, session=replace(session.info(), phase=Phase.STARTING)))
        await session.start()
        for observer in self._registry.observers:
            observer.session_ready(session.info())
        logger.info("session %s opened on %s", session.id, ", ".join(each.id for each in lease.accelerators))
        end = self._registry.ends.take_of_notebook(request.owner, request.notebook_id)
        self._tell(SessionUpdate(Phase.READY, session=session.info(), notice=end.in_words() if end else ""))

    async def _materialise(self, session: Session, snapshot_digest: str) -> None:
        environments = self._registry.environments
        if not snapshot_digest or environments is None:
            return
        session.note_phase(Phase.MATERIALISING)

        def tell(progress: Progress) -> None:
            session.note_environment(environment_in_progress(progress))
            session.note_phase(Phase.MATERIALISING, progress.in_words())
            self._tell(SessionUpdate(Phase.MATERIALISING, detail=progress.in_words(), session=session.info()))

        await environments.prepare(session, snapshot_digest, tell)

    def _tell(self, update: SessionUpdate | None) -> None:
        if update is not None:
            self._updates.append(update)
        self._registry.changes.notify()
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()


def no_such_session(session_id: str, why: str = "") -> NoSuchSessionError:
    """Returns what is said of a session that is not there, and of another user's in the same words.

    Args:
        why: It ended with an earlier agent; empty: it did not, or that is nothing to be told.
    """
    return NoSuchSessionError(
        f"session {session_id!r} ended with the agent that had it: {why}"
        if why
        else f"no session {session_id!r} here; it is closed, or the agent was started anew",
        "open another with `%gpu attach`",
    )


def environment_in_progress(progress: Progress) -> EnvironmentFacts:
    """Returns what is told of an environment while it is built."""
    known = bool(progress.total)
    return EnvironmentFacts(
        own=True,
        done=progress.done if known else None,
        total=progress.total if known else None,
        current=progress.current,
    )


def _belongs(info: SessionInfo, request: SessionRequest) -> bool:
    return (
        info.phase is Phase.READY
        and info.request.owner == request.owner
        and info.request.notebook_id == request.notebook_id
        and (request.spec is None or (info.lease is not None and satisfies(request.spec, info.lease.accelerators)))
    )
