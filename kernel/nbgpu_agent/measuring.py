"""What accelerators did during an execution, from the readings that were made meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from nbgpu_agent.model import Sample


@dataclass(frozen=True)
class Measurement:
    """None is unknown: there was no reading that says it."""

    mean_utilisation_percent: float | None = None
    peak_memory_bytes: int | None = None


Measure: TypeAlias = Callable[[Collection[str], float, float], Measurement | None]
"""Says what accelerators did from one time to another; None while there is no reading from after that."""


def measure(
    readings: Sequence[Sequence[Sample]], accelerator_ids: Collection[str], started_unix_s: float, ended_unix_s: float
) -> Measurement:
    """Returns what the readings say of an execution.

    A reading's utilisation is that of the interval since the reading before it, and counts with the part of that
    interval in which the execution ran. Where no interval lies in it to more than half, as with one that took a
    moment, its utilisation is unknown. The peak is of the readings while it ran, or else of the first one after it.

    Args:
        readings: Oldest first, from before the execution began to after it ended, as far as they are held.
        accelerator_ids: Those that it had.
        started_unix_s: In seconds since the epoch, as the readings' times are.
        ended_unix_s: Likewise.
    """
    weighted_sum = weight_sum = 0.0
    covered = False
    during: list[int] = []
    after: list[int] = []
    previous_unix_s: float | None = None
    for reading in readings:
        if not reading:
            continue
        time_unix_s = reading[0].time_unix_s
        overlap_s = 0.0
        if previous_unix_s is not None:
            overlap_s = min(time_unix_s, ended_unix_s) - max(previous_unix_s, started_unix_s)
            covered = covered or overlap_s > (time_unix_s - previous_unix_s) / 2
        for sample in reading:
            if sample.accelerator_id not in accelerator_ids:
                continue
            if overlap_s > 0 and sample.utilisation_percent is not None:
                weighted_sum += overlap_s * sample.utilisation_percent
                weight_sum += overlap_s
            if sample.memory_used_bytes is None or time_unix_s < started_unix_s:
                continue
            if time_unix_s <= ended_unix_s:
                during.append(sample.memory_used_bytes)
            elif previous_unix_s is None or previous_unix_s <= ended_unix_s:
                after.append(sample.memory_used_bytes)
        previous_unix_s = time_unix_s
    return Measurement(
        mean_utilisation_percent=weighted_sum / weight_sum if covered and weight_sum else None,
        peak_memory_bytes=max(during or after, default=None),
    )
