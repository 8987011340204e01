"""The part of the agent's configuration that bounds sessions and users."""

from __future__ import annotations

import re
from typing import Any

from traitlets import Dict, Float, HasTraits, Int, TraitError, Unicode

from nbgpu_agent.accounting.allowances import Grants, UserLimits, make_grants
from nbgpu_agent.limits.closing import Terms
from nbgpu_agent.limits.host import HostLimits
from nbgpu_protocol.spans import parse_span

PRICED_IDLE_CLOSE_S = 3600.0
"""Of a pool whose owner set a price, and said nothing else."""
MAX_SESSION = "7d"
NEVER = "never"
_NEVER = frozenset({NEVER, "off", "0"})
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)", re.IGNORECASE)
_SIZE_UNITS = {
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}


class Span(Unicode[str, Any]):
    """A span such as "90s", "2h" or "7d", "never", or empty for a default that depends on other settings."""

    def validate(self, obj: Any, value: Any) -> str:
        text = str(value).strip().lower() if not isinstance(value, bool) else ""
        if not text and isinstance(value, str):
            return text
        if text in _NEVER:
            return NEVER
        try:
            parse_span(text)
        except ValueError as error:
            raise TraitError(f"{self.name}: {error}, nor `{NEVER}`") from error
        return text


class Size(Unicode[str, Any]):
    """A size such as "64GB", "512MiB" or "2TB", or empty for none."""

    def validate(self, obj: Any, value: Any) -> str:
        text = str(value).strip() if not isinstance(value, bool) else "no"
        if text and text.lower() not in _NEVER and size_bytes(text) is None:
            raise TraitError(f"{self.name}: {value!r} is no size, such as 64GB or 512MiB")
        return text


def size_bytes(text: str) -> int | None:
    """Returns the bytes of a `Size`; None where it is empty, or sets no bound."""
    found = _SIZE.fullmatch(text.strip())
    return int(float(found[1]) * _SIZE_UNITS[found[2].upper()]) if found and float(found[1]) > 0 else None


def span_s(text: str, default_s: float | None = None) -> float | None:
    """Returns the seconds of a `Span`; None for never, and the default where it is empty."""
    if not text:
        return default_s
    return None if text == NEVER else parse_span(text)


class LimitSettings(HasTraits):
    """For the agent as an application to inherit."""

    idle_close = Span(
        help="Close a session after so long without a running cell or a GPU that computes, such as 30m or 2h, or"
        " `never`; users may ask for another time. By default 60m where prices are set, else never; never embedded."
    ).tag(config=True)
    max_idle_close = Span(
        help="The longest time without work that users may ask for; then none may ask for `never`. By default any."
    ).tag(config=True)
    max_session = Span(
        help=f"Close a session after so long, whatever it does, or `never`. By default {MAX_SESSION}; never embedded."
    ).tag(config=True)
    user_sessions = Int(None, allow_none=True, min=1, help="How many sessions a user may have at once.").tag(
        config=True
    )
    user_accelerators = Int(
        None, allow_none=True, min=1, help="How many accelerators a user may hold at once, in all sessions."
    ).tag(config=True)
    user_accelerator_hours = Float(
        None,
        allow_none=True,
        min=0.0,
        help="How many accelerator-hours a user may use in a calendar month; then their sessions are interrupted, and"
        " closed after budget_grace.",
    ).tag(config=True)
    user_budget = Float(
        None,
        allow_none=True,
        min=0.0,
        help="How much a user may spend in a calendar month, in the currency of the prices; likewise.",
    ).tag(config=True)
    users = Dict(
        value_trait=Dict(),
        key_trait=Unicode(),
        help="Other limits for some users, such as {'ada': {'budget': 500, 'accelerators': 8}}; also sessions and"
        " accelerator_hours. None: no limit.",
    ).tag(config=True)
    budget_grace = Span(
        "60s", help="Between the interrupt of what a spent budget no longer pays for, and the session's end."
    ).tag(config=True)

    session_memory = Size(
        help="How much memory of the node a session's processes may hold, such as 64GB; its kernel is ended beyond."
    ).tag(config=True)
    session_disk = Size(
        help="How much a session's own folder and temporary files may take; its cell is interrupted beyond, and its"
        " kernel ended at 110 %."
    ).tag(config=True)
    cell_output = Size(
        "64MB", help="How much a cell may print and display; the rest of what it prints is in the log only. `off`: any."
    ).tag(config=True)

    def host_limits(self) -> HostLimits:
        """Returns what each session may take of the node."""
        return HostLimits(size_bytes(self.session_memory), size_bytes(self.session_disk))

    def terms(self, *, embedded: bool, priced: bool) -> Terms:
        """Returns what bounds every session: unless it is said, one's own machine sets no bound."""
        longest_s = span_s(self.max_idle_close)
        idle_close_s = span_s(self.idle_close, PRICED_IDLE_CLOSE_S if priced and not embedded else None)
        if longest_s is not None:
            idle_close_s = min(idle_close_s or longest_s, longest_s)
        max_session_s = span_s(self.max_session, None if embedded else parse_span(MAX_SESSION))
        return Terms(idle_close_s=idle_close_s, max_idle_close_s=longest_s, max_session_s=max_session_s)

    def grants(self) -> Grants:
        """Returns what bounds every user.

        Raises:
            InvalidRequestError: As `make_grants`.
        """
        of_all = UserLimits(self.user_sessions, self.user_accelerators, self.user_accelerator_hours, self.user_budget)
        return make_grants(of_all, self.users)
