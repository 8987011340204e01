"""Decides what is done while a cell runs on several ranks: whom to free, to interrupt, to kill, once one has failed."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

GRACE_S = 1.0
"""Ranks that fail alike, as with a mistyped name, do so within this time, and keep their process group."""
INTERRUPT_GRACE_S = 0.5
_ANSWER_WITHIN_S = 1.0
_INTERRUPT_AFTER_S = 2.0
_KILL_AFTER_S = 6.0
TICK_S = 0.05


class Measure(enum.Enum):
    """What is to be done to a rank."""

    ASK = "ask"
    """Where it is."""
    LEAVE = "leave"
    """Have it give up its process groups, which frees those that wait for it, and itself where it waits."""
    INTERRUPT = "interrupt"
    KILL = "kill"


@dataclass(frozen=True)
class Step:
    """One measure for one rank."""

    measure: Measure
    rank: int


class CellWatch:
    """One cell on its ranks.

    Rank 0, where it takes part, is the session's own kernel, which is never killed.

    Args:
        ranks: Those that run the cell.
    """

    def __init__(self, ranks: Iterable[int]) -> None:
        self.ranks = frozenset(ranks)
        self.reports: dict[int, dict[str, Any]] = {}
        self.where: dict[int, dict[str, Any]] = {}
        """Where ranks were that still ran when another's failure had its time."""
        self.is_interrupted = False
        self.is_breaking_up = False
        """Whether the process groups are given up."""
        self._began: set[int] = set()
        self._trouble_s: float | None = None
        self._grace_s = GRACE_S
        self._asked_s: float | None = None
        self._left_s: float | None = None
        self._done: set[Step] = set()

    @property
    def running(self) -> frozenset[int]:
        return self.ranks - self.reports.keys()

    @property
    def needs_ticks(self) -> bool:
        return self._trouble_s is not None

    def began(self, rank: int) -> list[Step]:
        """Takes note that a rank runs code from now on, and can be interrupted."""
        self._began.add(rank)
        return self._once(Measure.INTERRUPT, [rank]) if self.is_interrupted and rank else []

    def interrupt(self, now_s: float) -> list[Step]:
        """Takes note of an interrupt, which rank 0 has got as well."""
        self.is_interrupted = True
        self._trouble(now_s, INTERRUPT_GRACE_S)
        return self._once(Measure.INTERRUPT, self.running & self._began - {0})

    def report(self, rank: int, report: dict[str, Any], now_s: float) -> list[Step]:
        """Takes a rank's report; one that is gone has a report that says so."""
        if rank not in self.running:
            return []
        self.reports[rank] = report
        if report["kind"] == "returned":
            return []
        if report.get("is_interrupt") and not self._was_stopped(rank):
            return self.interrupt(now_s)
        # The connections of a rank that is gone are closed: those that notice are to tell the others at once.
        self._trouble(now_s, 0.0 if report["kind"] == "vanished" else GRACE_S)
        return []

    def tick(self, now_s: float) -> list[Step]:
        """Returns what is to be done by now. Each step is returned once."""
        if self._trouble_s is None or not self.running:
            return []
        if now_s < self._trouble_s + self._grace_s:
            return []
        if self._asked_s is None:
            self._asked_s = now_s
            return self._once(Measure.ASK, self.running)
        if self._left_s is None:
            if now_s < self._asked_s + _ANSWER_WITHIN_S and not self.running <= self.where.keys():
                return []
            self._left_s = now_s
            self.is_breaking_up = True
        gone = {rank for rank, report in self.reports.items() if report["kind"] == "vanished"}
        steps = self._once(Measure.LEAVE, self.reports.keys() - gone)
        if now_s >= self._left_s + _INTERRUPT_AFTER_S:
            steps += self._once(Measure.INTERRUPT, self.running)
            # Whom no other frees: those that wait for each other, or for one that goes on.
            steps += self._once(Measure.LEAVE, self.running)
        if now_s >= self._left_s + _KILL_AFTER_S:
            steps += self._once(Measure.KILL, self.running - {0})
        return steps

    def was_told_to_leave(self, rank: int) -> bool:
        return Step(Measure.LEAVE, rank) in self._done

    def _was_stopped(self, rank: int) -> bool:
        """Says whether it was us who interrupted a rank, or killed it, because another had failed."""
        return not self.is_interrupted and bool({Step(Measure.INTERRUPT, rank), Step(Measure.KILL, rank)} & self._done)

    def _was_freed(self, rank: int, report: dict[str, Any]) -> bool:
        """Says whether a rank failed because its process group was given up: it ran until then."""
        is_later = self._left_s is not None and report["time_s"] >= self._left_s
        return (
            is_later
            and self.where.get(rank, {}).get("frame") is not None
            and report["kind"] == "raised"
            and not self.is_interrupted
        )

    def _trouble(self, now_s: float, grace_s: float) -> None:
        if self._trouble_s is None:
            self._trouble_s, self._grace_s = now_s, grace_s
        elif now_s + grace_s < self._trouble_s + self._grace_s:
            self._grace_s = now_s + grace_s - self._trouble_s

    def _once(self, measure: Measure, ranks: Iterable[int]) -> list[Step]:
        steps = [Step(measure, rank) for rank in sorted(ranks)]
        new = [step for step in steps if step not in self._done]
        self._done.update(new)
        return new

    def outcome(self) -> dict[str, Any]:
        """Returns how the cell ended, when no rank runs it any more.

        Ranks that were ended because of others are told of as those that waited.
        """
        failures = []
        others = []
        for rank, report in sorted(self.reports.items()):
            told = {"rank": rank, **report}
            if report["kind"] == "returned":
                others.append({"rank": rank, "returned": True, "collective": "", "frame": None, "stack": []})
            elif self._was_stopped(rank) or self._was_freed(rank, report):
                where = self.where.get(rank, {"returned": False, "collective": "", "frame": None, "stack": []})
                others.append({**where, "rank": rank})
            else:
                failures.append(told)
        if not failures and all(other["returned"] for other in others):
            return {"kind": "returned"}
        kind = "interrupted" if self.is_interrupted else "failed"
        return {"kind": kind, "failures": failures, "others": others}
