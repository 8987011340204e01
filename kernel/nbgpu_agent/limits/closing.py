"""When a session is closed by itself, and why. Pure: over what is known of its work, and the time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.model import Closing, ClosingCause, Sample
from nbgpu_protocol.spans import span_in_words

COMPUTING_PERCENT = 5.0
"""An accelerator that is busier than this computes: a desktop's or a display server's share stays below."""
_SIMULATED_CORES = 0.5
"""A simulated one computes if so many of the node's cores do: its load is that of processes."""
_IDLE_WARNING_S = 600.0
_LIFETIME_WARNING_S = 86_400.0
"""So long before the end of the longest life: enough to write a checkpoint in, whenever the person sleeps."""
_LEASE_WARNING_S = 600.0


@dataclass(frozen=True)
class Terms:
    """What the pool's owner set for all sessions. None: no bound."""

    idle_close_s: float | None = None
    """Without work, unless a session asks for another time."""
    max_idle_close_s: float | None = None
    """The longest that a session may ask for."""
    max_session_s: float | None = None
    """Of a session's life, whatever it does."""

    def idle_close_of(self, wish_s: float | None) -> float | None:
        """Returns after which time without work a session is closed; None: never.

        Args:
            wish_s: What its user asked for; 0: never; None: as the pool has it.

        Raises:
            InvalidRequestError: It is longer than the owner allows, or no span of time.
        """
        if wish_s is None:
            return self.idle_close_s
        if not 0 <= wish_s < float("inf"):
            raise InvalidRequestError(f"{wish_s:g} s is no span of time")
        longest_s = self.max_idle_close_s
        if longest_s is not None and (wish_s == 0 or wish_s > longest_s):
            asked = span_in_words(wish_s) if wish_s else "never"
            raise InvalidRequestError(
                f"this pool closes a session after {span_in_words(longest_s)} without work at the latest,"
                f" {asked} asked",
                f"ask for less, such as `%gpu keep --idle {longest_s:g}s`",
            )
        return wish_s or None


@dataclass(frozen=True)
class Activity:
    """What is known of a session's work. Times are in seconds since the epoch."""

    created_unix_s: float
    last_active_unix_s: float
    """End of the last cell, or creation."""
    working: bool
    """A cell runs or waits, or the kernel is on its way."""
    computing: bool = False
    """One of its accelerators did, at the last reading."""
    computed_unix_s: float | None = None
    """The last reading at which one did."""
    kept_unix_s: float | None = None
    """When its user last asked to keep it."""

    @property
    def idle_since_unix_s(self) -> float | None:
        """Since when there is no work; None: there is."""
        if self.working or self.computing:
            return None
        return max(self.last_active_unix_s, self.computed_unix_s or 0.0, self.kept_unix_s or 0.0)


@dataclass(frozen=True)
class Deadline:
    """An end that comes of itself."""

    cause: ClosingCause
    unix_s: float
    warn_unix_s: float


def computing(samples: Iterable[Sample], cpu_count: int) -> frozenset[str]:
    """Returns the accelerators that compute, by a reading. What is unknown, as with MIG slices, does not.

    Args:
        cpu_count: Of the node.
    """
    simulated_percent = min(COMPUTING_PERCENT, 100 * _SIMULATED_CORES / cpu_count)
    return frozenset(
        each.accelerator_id
        for each in samples
        if each.utilisation_percent is not None
        and each.utilisation_percent > (simulated_percent if each.simulated else COMPUTING_PERCENT)
    )


def foresee(
    terms: Terms,
    idle_close_s: float | None,
    activity: Activity,
    *,
    lease_expires_unix_s: float | None = None,
    others: Iterable[Deadline] = (),
) -> Closing:
    """Returns when the session is closed if nothing changes, and why; of several ends the first.

    Args:
        terms: Of the pool.
        idle_close_s: Of the session, see `Terms.idle_close_of`.
        activity: Its work.
        lease_expires_unix_s: When its lease ends unless it is renewed; None: never.
        others: Ends that are not a matter of its time, such as a budget's.
    """
    idle_since = activity.idle_since_unix_s
    deadlines = list(others)
    if idle_close_s is not None and idle_since is not None:
        deadlines.append(_deadline(ClosingCause.IDLE, idle_since, idle_close_s, _IDLE_WARNING_S))
    if terms.max_session_s is not None:
        deadlines.append(
            _deadline(ClosingCause.LIFETIME, activity.created_unix_s, terms.max_session_s, _LIFETIME_WARNING_S)
        )
    if lease_expires_unix_s is not None:
        warn_unix_s = lease_expires_unix_s - _LEASE_WARNING_S
        deadlines.append(Deadline(ClosingCause.LEASE, lease_expires_unix_s, warn_unix_s))
    first = min(deadlines, key=lambda each: each.unix_s, default=None)
    return Closing(
        idle_close_s=idle_close_s,
        idle_since_unix_s=idle_since,
        closes_unix_s=first.unix_s if first else None,
        warn_unix_s=first.warn_unix_s if first else None,
        cause=first.cause if first else None,
    )


def reason_in_words(cause: ClosingCause, closing: Closing, terms: Terms) -> str:
    """Returns why a session was closed, to stand behind "the session was closed: "."""
    if cause is ClosingCause.IDLE:
        return f"it was idle for {span_in_words(closing.idle_close_s or 0)}"
    if cause is ClosingCause.LIFETIME:
        return f"it was open for {span_in_words(terms.max_session_s or 0)}, the longest on this pool"
    return "its lease expired"


def _deadline(cause: ClosingCause, since_unix_s: float, span_s: float, warning_s: float) -> Deadline:
    """Returns the end of a span, warned of for at most a quarter of it."""
    return Deadline(cause, since_unix_s + span_s, since_unix_s + span_s - min(warning_s, span_s / 4))
