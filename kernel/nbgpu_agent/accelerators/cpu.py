"""The node's CPU, an accelerator that any number of sessions share."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import psutil

from nbgpu_agent.accelerators.source import Holder
from nbgpu_agent.model import Accelerator, Sample
from nbgpu_protocol.accelerator_types import CPU


class CpuSource:
    """The CPU. Its samples are the whole node's load and memory, whoever causes them."""

    def __init__(self) -> None:
        self.accelerators: tuple[Accelerator, ...] = (
            Accelerator(
                id="cpu",
                index=0,
                type=CPU,
                product_name=f"{psutil.cpu_count() or 1} × {platform.machine()}",
                memory_bytes=0,
                shared=True,
            ),
        )
        self.driver_version: str | None = None
        self._last_times = psutil.cpu_times()

    def sample(self, time_unix_s: float, holders: Sequence[Holder]) -> list[Sample]:
        memory = psutil.virtual_memory()
        return [
            Sample(
                accelerator_id="cpu",
                time_unix_s=time_unix_s,
                simulated=False,
                utilisation_percent=self._utilisation_percent(),
                memory_used_bytes=memory.total - memory.available,
                memory_total_bytes=memory.total,
            )
        ]

    def close(self) -> None:
        pass

    def _utilisation_percent(self) -> float | None:
        times = psutil.cpu_times()
        spent = _total_s(times) - _total_s(self._last_times)
        idle = _idle_s(times) - _idle_s(self._last_times)
        self._last_times = times
        return min(max(100 * (spent - idle) / spent, 0.0), 100.0) if spent > 0 else None


def _total_s(times: psutil._common.scputimes) -> float:  # type: ignore[name-defined]
    # Linux counts a guest's time in user's as well.
    return float(sum(times)) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)


def _idle_s(times: psutil._common.scputimes) -> float:  # type: ignore[name-defined]
    return float(times.idle) + float(getattr(times, "iowait", 0.0))
