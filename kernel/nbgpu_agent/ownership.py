"""The sessions as who calls may see them. Services reach the registry through this and in no other way.

Another user's session answers exactly as one that does not exist. What the registry does beyond this is not here, so
that a new RPC has to say whose sessions it is about.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from nbgpu_agent.ends import no_such_session
from nbgpu_agent.errors import NoSuchSessionError
from nbgpu_agent.identity.caller import Caller, current_caller
from nbgpu_agent.model import (
    AcceleratorProcess,
    Lease,
    OthersProcess,
    OthersSample,
    Sample,
    SessionInfo,
    SessionRequest,
    SessionUpdate,
)

if TYPE_CHECKING:
    from nbgpu_agent.environments.session_environments import SessionEnvironments
    from nbgpu_agent.leases import LeaseLedger
    from nbgpu_agent.registry import SessionRegistry
    from nbgpu_agent.sessions import Session
    from nbgpu_agent.state import Changes


class OwnSessions:
    """A registry, of which each caller sees their own sessions, and an administrator all.

    What runs in a session, and its files, are its user's alone, also for an administrator.

    Args:
        registry: Of all sessions.
        caller: Returns who calls.
    """

    def __init__(self, registry: SessionRegistry, caller: Callable[[], Caller] = current_caller) -> None:
        self._registry = registry
        self._caller = caller

    # -- What is everybody's

    @property
    def ledger(self) -> LeaseLedger:
        return self._registry.ledger

    @property
    def changes(self) -> Changes:
        return self._registry.changes

    @property
    def environments(self) -> SessionEnvironments | None:
        return self._registry.environments

    def now(self) -> float:
        return self._registry.now()

    def in_use(self) -> AbstractContextManager[None]:
        return self._registry.in_use()

    def refuse_if_open(self) -> None:
        self._registry.refuse_if_open()

    # -- What is the caller's

    def get(self, session_id: str) -> Session:
        """Returns a session of the caller's own.

        Raises:
            NoSuchSessionError: As `SessionRegistry.get`, or it is another user's.
                Why the caller's own was closed is said.
        """
        user = self._caller().user
        try:
            session = self._registry.get(session_id)
        except NoSuchSessionError:
            end = self._registry.ends.of_session(session_id)
            if end is not None and end.owner == user:
                raise NoSuchSessionError(end.in_words(), "open another with `%gpu attach`") from None
            if self._sees(session_id):
                raise
            raise no_such_session(session_id) from None
        if session.info().request.owner != user:
            raise no_such_session(session_id)
        return session

    def managed(self, session_id: str) -> Session:
        """Returns a session that the caller may interrupt, restart and end: their own; an administrator's are all.

        Raises:
            NoSuchSessionError: As `get`.
        """
        return self._registry.get(session_id) if self._caller().administrator else self.get(session_id)

    def open(
        self, request: SessionRequest, *, no_wait: bool = False, existing_only: bool = False
    ) -> AsyncGenerator[SessionUpdate, None]:
        """As `SessionRegistry.open`, for the caller."""
        owned = replace(request, owner=self._caller().user)
        return self._registry.open(owned, no_wait=no_wait, existing_only=existing_only)

    async def close(self, session_id: str, reason: str) -> None:
        """As `SessionRegistry.close`; one that the caller may not see is closed already."""
        if self._sees(session_id):
            await self._registry.close(session_id, reason)

    def renew(self, session_id: str, duration_s: float | None) -> Lease:
        """As `SessionRegistry.renew`.

        Raises:
            NoSuchSessionError, InvalidRequestError: As there.
        """
        self.managed(session_id)
        return self._registry.renew(session_id, duration_s)

    def attach(
        self, session_id: str, notebook_id: str, notebook_name: str = "", notebook_key: str = ""
    ) -> SessionInfo | None:
        """As `SessionRegistry.attach`; concerns no notebook of another user.

        Raises:
            NoSuchSessionError, InvalidRequestError: As there.
        """
        if session_id:
            self.get(session_id)
        return self._registry.attach(session_id, notebook_id, notebook_name, notebook_key, owner=self._caller().user)

    def detach(self, session_id: str) -> SessionInfo:
        """As `SessionRegistry.detach`.

        Raises:
            NoSuchSessionError: As there.
        """
        self.managed(session_id)
        return self._registry.detach(session_id)

    def infos(self) -> list[SessionInfo]:
        return self._own(self._registry.infos())

    def waiting(self) -> list[SessionInfo]:
        return self._own(self._registry.waiting())

    def holders(self) -> dict[str, str | None]:
        """Returns the session that holds each accelerator, by the accelerator's id; None: another user's."""
        holders = self._registry.holders()
        return {each: session_id if self._sees(session_id) else None for each, session_id in holders.items()}

    def samples(self, batch: Iterable[Sample]) -> list[Sample]:
        """Returns samples without what is another user's: their sessions and processes, and not the load."""
        if self._caller().administrator:
            return list(batch)
        return [self._redacted(sample) for sample in batch]

    def _redacted(self, sample: Sample) -> Sample:
        processes = tuple(map(self._redacted_process, sample.processes))
        if sample.session_id is None or self._sees(sample.session_id):
            return replace(sample, processes=processes) if processes else sample
        readings = {each.name: getattr(sample, each.name) for each in fields(sample)}
        return OthersSample(**{**readings, "session_id": None, "processes": processes})

    def _redacted_process(self, process: AcceleratorProcess) -> AcceleratorProcess:
        if process.session_id is not None and self._sees(process.session_id):
            return process
        return OthersProcess(pid=0, session_id=None, memory_bytes=process.memory_bytes, name="")

    def _own(self, infos: Iterable[SessionInfo]) -> list[SessionInfo]:
        caller = self._caller()
        return [info for info in infos if caller.administrator or info.request.owner == caller.user]

    def _sees(self, session_id: str) -> bool:
        caller = self._caller()
        return caller.administrator or self._registry.owner_of(session_id) == caller.user
