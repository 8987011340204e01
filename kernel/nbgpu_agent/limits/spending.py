"""Ends what goes beyond a budget: warns at 80 %, interrupts at 100 %, and closes after a grace."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from nbgpu_agent.accounting.accounts import Accounts
from nbgpu_agent.accounting.allowances import WARN_SHARE, Allowance, amount_in_words
from nbgpu_agent.limits.admission import check_admission, raising_hint
from nbgpu_agent.model import Phase, SessionInfo, SessionRequest
from nbgpu_agent.registry import SessionRegistry
from nbgpu_protocol.spans import span_in_words

logger = logging.getLogger(__name__)

DEFAULT_GRACE_S = 60.0
"""In which what was computed can be saved, or more be allowed."""


@dataclass
class _Told:
    """What was told of one session."""

    warned_of: set[tuple[str, float]] = field(default_factory=set)
    """Allowances, by key and amount."""
    spent: tuple[str, float] | None = None
    """The allowance that is over."""
    spent_unix_s: float = 0.0


class SpendingKeeper:
    """Holds all sessions to what their users may spend. For one event loop.

    Args:
        registry: Of the sessions.
        accounts: Of the users.
        grace_s: Between the interrupt and the end.
    """

    def __init__(self, registry: SessionRegistry, accounts: Accounts, *, grace_s: float = DEFAULT_GRACE_S) -> None:
        self._registry = registry
        self._accounts = accounts
        self._grace_s = grace_s
        self._told: dict[str, _Told] = {}
        registry.admit = self.admit

    def admit(self, request: SessionRequest) -> None:
        """Refuses a request for a new session beyond what its user may have.

        Raises:
            LimitReachedError: As `check_admission`.
        """
        check_admission(
            request,
            [*self._registry.infos(), *self._registry.waiting()],
            self._accounts.grants.limits_of(request.owner),
            self._accounts.allowances(request.owner, request.notebook_id),
        )

    def look(self) -> None:
        """Warns, interrupts and closes what is due; to be called about once a second, after `Accounts.look`."""
        if not self._accounts.bounds_spending:
            self._told.clear()
            return
        open_ids = set()
        for session in self._registry.sessions():
            info = session.info()
            open_ids.add(info.id)
            held = info.lease is not None and any(not each.shared for each in info.lease.accelerators)
            if info.phase is Phase.READY and held and not self._registry.is_closing(info.id):
                self._look_at(info)
        for session_id in set(self._told) - open_ids:
            del self._told[session_id]

    def _look_at(self, info: SessionInfo) -> None:
        told = self._told.setdefault(info.id, _Told())
        allowances = self._accounts.allowances(info.request.owner, info.request.notebook_id)
        spent = next((each for each in allowances if each.is_spent), None)
        if spent is None:
            told.spent = None
            for allowance in allowances:
                if allowance.share >= WARN_SHARE:
                    self._warn(info, told, allowance)
        elif told.spent != (spent.key, spent.amount):
            self._stop(info, told, spent)
        elif self._registry.now() - told.spent_unix_s >= self._grace_s:
            reason = f"{spent.in_words()}, is spent"
            logger.info("session %s is closed: %s", info.id, reason)
            self._registry.begin_closing(info.id, reason, tell=True)

    def _warn(self, info: SessionInfo, told: _Told, allowance: Allowance) -> None:
        key = (allowance.key, allowance.amount)
        if key in told.warned_of:
            return
        told.warned_of.add(key)
        left_s = allowance.left_s()
        left = "" if left_s is None else f", and at this rate over in {span_in_words(max(left_s, 1))}"
        spent = amount_in_words(allowance.spent, allowance.unit)
        self._tell(info, f"{allowance.in_words()}, is used up to {allowance.share:.0%} ({spent}){left}", allowance)

    def _stop(self, info: SessionInfo, told: _Told, allowance: Allowance) -> None:
        told.spent, told.spent_unix_s = (allowance.key, allowance.amount), self._registry.now()
        grace = span_in_words(self._grace_s)
        self._tell(info, f"{allowance.in_words()}, is spent: the session is closed in {grace}", allowance)
        if info.executing is not None:
            self._registry.background.begin(self._interrupt(info.id))

    async def _interrupt(self, session_id: str) -> None:
        await self._registry.get(session_id).interrupt("", escalate=False)

    def _tell(self, info: SessionInfo, text: str, allowance: Allowance) -> None:
        self._registry.get(info.id).tell(f"{text}; {raising_hint(allowance)}")
