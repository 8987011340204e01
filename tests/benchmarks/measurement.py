"""Measures several ways of doing the same, in turns, and writes what came out as rows of a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """What one way took, in seconds. On a shared machine the quickest round is the one that was disturbed least."""

    rounds_s: tuple[float, ...]
    """The median of each round."""

    @property
    def best_s(self) -> float:
        return min(self.rounds_s)

    @property
    def median_s(self) -> float:
        return statistics.median(self.rounds_s)


@dataclass(frozen=True)
class Row:
    """One line of the table: a way of doing something against another."""

    what: str
    timing: Timing
    against: str
    reference: Timing
    goal: float | None
    """The ratio that is aimed at, at most."""

    @property
    def ratio(self) -> float:
        return self.timing.best_s / self.reference.best_s


def measure(ways: Mapping[str, Callable[[], float]], *, rounds: int, repeats: int = 1) -> dict[str, Timing]:
    """Times every way `repeats` times a round, all ways in each round, so that noise meets all of them.

    Args:
        ways: Each does it once and returns the seconds that it took.
    """
    medians: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            medians[name].append(statistics.median(way() for _ in range(repeats)))
    return {name: Timing(tuple(values)) for name, values in medians.items()}


def format_duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def format_table(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table."""
    header = ("what", "best", "median", "against", "best", "median", "ratio of bests", "goal")
    cells = [
        (
            row.what,
            format_duration(row.timing.best_s),
            format_duration(row.timing.median_s),
            row.against,
            format_duration(row.reference.best_s),
            format_duration(row.reference.median_s),
            f"{row.ratio:.2f}" if row.ratio >= 0.1 else f"{row.ratio:.4f}",
            "" if row.goal is None else f"≤ {row.goal:g}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [
        " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in (header, *cells)
    ]
    rule = "-|-".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))
