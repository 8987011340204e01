"""How much CPU time and memory processes took since the last reading."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from nbgpu_agent.processes import environment_of


@dataclass(frozen=True)
class Load:
    cpu_seconds: float
    """User and system time since the last reading."""
    resident_bytes: int


@dataclass(frozen=True)
class _Reading:
    created_unix_s: float
    cpu_seconds: float
    local_rank: int | None


class ProcessLoads:
    """Remembers the CPU time of processes between readings."""

    def __init__(self) -> None:
        self._readings: dict[int, _Reading] = {}
        self._last_unix_s: float | None = None

    def read(self, time_unix_s: float, groups: Iterable[Iterable[psutil.Process]]) -> list[dict[int | None, Load]]:
        """Returns the load of each group of processes, by LOCAL_RANK in the environment with which they started.

        A process that is new counts with all its CPU time if it was created since the last reading, and with none if
        it is older: a spare kernel's start is no session's load. One that ended since the last reading counts no more.
        """
        readings: dict[int, _Reading] = {}
        loads = []
        for processes in groups:
            load: dict[int | None, Load] = {}
            for process in processes:
                try:
                    with process.oneshot():
                        created = process.create_time()
                        times = process.cpu_times()
                        resident = process.memory_info().rss
                        before = self._readings.get(process.pid)
                        if before is not None and before.created_unix_s != created:
                            before = None
                        rank = before.local_rank if before else _local_rank(process)
                except psutil.Error:
                    continue
                cpu_seconds = times.user + times.system
                readings[process.pid] = _Reading(created, cpu_seconds, rank)
                if before is not None:
                    cpu_seconds -= before.cpu_seconds
                elif self._last_unix_s is None or created < self._last_unix_s:
                    cpu_seconds = 0.0
                sofar = load.get(rank, Load(0.0, 0))
                load[rank] = Load(sofar.cpu_seconds + max(cpu_seconds, 0.0), sofar.resident_bytes + resident)
            loads.append(load)
        self._readings, self._last_unix_s = readings, time_unix_s
        return loads


def _local_rank(process: psutil.Process) -> int | None:
    try:
        text = environment_of(process.pid).get("LOCAL_RANK", "")
    except (psutil.Error, OSError):
        return None
    return int(text) if text.isascii() and text.isdigit() else None
