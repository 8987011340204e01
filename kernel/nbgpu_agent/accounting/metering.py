"""Meters a session: what it holds, and what of that computes, as rows for the ledger. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

from nbgpu_agent.accounting.ledger import CellUse, Use
from nbgpu_agent.model import Accelerator, Execution, SessionInfo
from nbgpu_agent.prices import PriceList

_MAX_INTERVAL_S = 10.0
"""A reading says what was done since the one before it, unless that is longer ago than this."""


class Meter:
    """One session's, from when it has its lease. What a row says is not said again by the next.

    Args:
        info: The session.
        prices: By which it pays for as long as it lasts.
        counted_s: Accelerator-seconds of it that an earlier agent has counted.
    """

    def __init__(self, info: SessionInfo, prices: PriceList, counted_s: float = 0.0) -> None:
        self._info = info
        self._accelerators = tuple(each for each in _held(info) if not each.shared)
        self._prices = prices
        self._row_s = counted_s
        self._row_ended_unix_s = info.lease.granted_unix_s if info.lease else info.created_unix_s
        self._busy_s = 0.0
        self._read_unix_s: float | None = None

    @property
    def accelerator_count(self) -> int:
        return len(self._accelerators)

    @property
    def cost_per_hour(self) -> float:
        """Returns what it costs now; 0 where there is no price."""
        return self._prices.cost_per_hour(self._accelerators) or 0.0

    @property
    def owner(self) -> str:
        return self._info.request.owner

    @property
    def notebook_id(self) -> str:
        return self._info.request.notebook_id

    def note(self, info: SessionInfo) -> None:
        """Notes the session's newest facts."""
        self._info = info

    def note_reading(self, utilisation_percents: Iterable[float | None], time_unix_s: float) -> None:
        """Notes what its accelerators did since the last reading; what is unknown counts as nothing."""
        interval_s = time_unix_s - self._read_unix_s if self._read_unix_s is not None else 0.0
        self._read_unix_s = time_unix_s
        if 0 < interval_s <= _MAX_INTERVAL_S:
            self._busy_s += sum(percent or 0.0 for percent in utilisation_percents) / 100 * interval_s

    def open_use(self, now_unix_s: float) -> Use | None:
        """Returns what no row says yet; None: nothing."""
        leased_s = self._info.accelerator_seconds - self._row_s
        if leased_s <= 0:
            return None
        request = self._info.request
        cost = self._prices.cost(self._accelerators, leased_s / max(len(self._accelerators), 1))
        return Use(
            owner=request.owner,
            session_id=self._info.id,
            notebook_id=request.notebook_id,
            notebook_name=request.notebook_name,
            accelerators=types_in_words(self._accelerators),
            began_unix_s=self._row_ended_unix_s,
            ended_unix_s=now_unix_s,
            accelerator_s=leased_s,
            busy_accelerator_s=min(self._busy_s, leased_s),
            cost=cost,
            currency="" if cost is None else self._prices.currency,
        )

    def take_use(self, now_unix_s: float) -> Use | None:
        """Returns the same as a row."""
        use = self.open_use(now_unix_s)
        if use is not None:
            self._row_s = self._info.accelerator_seconds
            self._row_ended_unix_s, self._busy_s = now_unix_s, 0.0
        return use


def cell_use(
    info: SessionInfo, execution: Execution, mean_utilisation_percent: float | None, prices: PriceList
) -> CellUse | None:
    """Returns the row of a cell that has ended; None: it held nothing that is not shared."""
    accelerators = tuple(each for each in execution.accelerators if not each.shared)
    if not accelerators or execution.ended_unix_s is None:
        return None
    duration_s = max(execution.ended_unix_s - execution.started_unix_s, 0.0)
    cost = prices.cost(accelerators, duration_s)
    accelerator_s = duration_s * len(accelerators)
    mean = mean_utilisation_percent
    return CellUse(
        owner=info.request.owner,
        session_id=info.id,
        notebook_id=info.request.notebook_id,
        notebook_name=info.request.notebook_name,
        accelerators=types_in_words(accelerators),
        began_unix_s=execution.started_unix_s,
        ended_unix_s=execution.ended_unix_s,
        accelerator_s=accelerator_s,
        busy_accelerator_s=None if mean is None else accelerator_s * mean / 100,
        cost=cost,
        currency="" if cost is None else prices.currency,
        execution_count=execution.execution_count,
        succeeded=execution.succeeded,
    )


def types_in_words(accelerators: Iterable[Accelerator]) -> str:
    """Returns "H100 ×8"."""
    counts: dict[str, int] = {}
    for each in accelerators:
        counts[each.type] = counts.get(each.type, 0) + 1
    return ", ".join(name if count == 1 else f"{name} ×{count}" for name, count in counts.items())


def _held(info: SessionInfo) -> tuple[Accelerator, ...]:
    return info.lease.accelerators if info.lease else ()
