"""Watches the sessions once a second: says in time that one will be closed, and closes it when its time is over."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nbgpu_agent.limits.closing import Activity, Deadline, Terms, computing, foresee, reason_in_words
from nbgpu_agent.model import Closing, ClosingCause, Phase, Sample, SessionInfo
from nbgpu_agent.observing import SessionObserver
from nbgpu_agent.registry import SessionRegistry
from nbgpu_protocol.spans import span_in_words

logger = logging.getLogger(__name__)


@dataclass
class _Kept:
    """What the keeper knows of one session."""

    idle_close_s: float | None
    computing: bool = False
    computed_unix_s: float | None = None
    kept_unix_s: float | None = None
    warned_of: tuple[ClosingCause, float] | None = None


class SessionKeeper(SessionObserver):
    """Applies the terms of a pool to its sessions. For one event loop.

    Args:
        registry: Of the sessions.
        terms: What the owner set.
        deadlines: Asked about each session: ends of other kinds, such as a budget's.
        now: The time, in seconds since the epoch.
    """

    def __init__(
        self,
        registry: SessionRegistry,
        terms: Terms,
        *,
        deadlines: Callable[[SessionInfo], Sequence[Deadline]] = lambda info: (),
        now: Callable[[], float] | None = None,
    ) -> None:
        self.terms = terms
        self._registry = registry
        self._deadlines = deadlines
        self._now = now or registry.now
        self._cpu_count = os.cpu_count() or 1
        self._kept: dict[str, _Kept] = {}
        registry.observers.append(self)

    def session_ready(self, info: SessionInfo) -> None:
        self.look_at(info.id)

    def note_reading(self, samples: Sequence[Sample]) -> None:
        """Notes which sessions compute. To be called after every reading of the accelerators."""
        busy = computing(samples, self._cpu_count)
        for session in self._registry.sessions():
            lease = session.lease
            kept = self._kept.get(session.id) or self._of(session.info())
            kept.computing = lease is not None and any(each.id in busy for each in lease.accelerators)
            if kept.computing:
                kept.computed_unix_s = self._now()

    def keep(self, session_id: str, idle_close_s: float | None = None) -> None:
        """Has the session's time without work begin anew.

        Args:
            idle_close_s: From now on after so long without work; 0: never; None: as it was.

        Raises:
            NoSuchSessionError: It is closed, or another agent's.
            InvalidRequestError: The pool's owner does not allow so long.
        """
        session = self._registry.get(session_id)
        kept = self._of(session.info())
        if idle_close_s is not None:
            kept.idle_close_s = self.terms.idle_close_of(idle_close_s)
        kept.kept_unix_s = self._now()
        self.look_at(session_id)

    def look(self) -> None:
        """Tells of each session when it is closed, warns, and begins to close what is due."""
        open_ids = {session.id for session in self._registry.sessions()}
        for session_id in list(self._kept):
            if session_id not in open_ids:
                del self._kept[session_id]
        for session_id in open_ids:
            self.look_at(session_id)

    def look_at(self, session_id: str) -> None:
        """Does what `look` does for one session.

        Raises:
            NoSuchSessionError: It is closed, or another agent's.
        """
        session = self._registry.get(session_id)
        info = session.info()
        if info.phase is not Phase.READY or self._registry.is_closing(session_id):
            return
        kept = self._of(info)
        activity = Activity(
            info.created_unix_s,
            info.last_active_unix_s,
            working=session.is_working,
            computing=kept.computing,
            computed_unix_s=kept.computed_unix_s,
            kept_unix_s=kept.kept_unix_s,
        )
        expires = session.lease.expires_unix_s if session.lease is not None else None
        closing = foresee(
            self.terms, kept.idle_close_s, activity, lease_expires_unix_s=expires, others=self._deadlines(info)
        )
        session.note_closing(closing)
        self._act(info, kept, closing)

    def _act(self, info: SessionInfo, kept: _Kept, closing: Closing) -> None:
        if closing.cause is None or closing.closes_unix_s is None or closing.warn_unix_s is None:
            return
        now = self._now()
        if now >= closing.closes_unix_s and closing.cause in (ClosingCause.IDLE, ClosingCause.LIFETIME):
            reason = reason_in_words(closing.cause, closing, self.terms)
            logger.info("session %s is closed: %s", info.id, reason)
            self._registry.begin_closing(info.id, reason, tell=True)
        elif now >= closing.warn_unix_s and closing.cause is ClosingCause.LIFETIME:
            # The other ends are averted by running something, which is when the person would read this.
            warned_of = (closing.cause, closing.closes_unix_s)
            if kept.warned_of != warned_of:
                kept.warned_of = warned_of
                left = span_in_words(max(closing.closes_unix_s - now, 1))
                longest = span_in_words(self.terms.max_session_s or 0)
                text = f"this session is closed in {left}: it may be open for {longest} on this pool"
                self._registry.get(info.id).tell(text)

    def _of(self, info: SessionInfo) -> _Kept:
        kept = self._kept.get(info.id)
        if kept is None:
            kept = self._kept[info.id] = _Kept(self.terms.idle_close_of(info.request.idle_close_s))
        return kept
