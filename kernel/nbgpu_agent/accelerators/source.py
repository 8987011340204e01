"""What every kind of accelerator can be asked: which there are, and a reading of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import psutil

from nbgpu_agent.model import Accelerator, Sample


@dataclass(frozen=True)
class Holder:
    """A session that holds accelerators, with its processes at the time of a reading."""

    session_id: str
    accelerators: tuple[Accelerator, ...]
    """In the order of the lease: the process with LOCAL_RANK=i works for the i-th."""
    processes: tuple[psutil.Process, ...]


class AcceleratorSource(Protocol):
    """One kind of accelerators. `sample` and `close` may block: they are called on a thread of their own."""

    accelerators: tuple[Accelerator, ...]
    driver_version: str | None

    def sample(self, time_unix_s: float, holders: Sequence[Holder]) -> list[Sample]:
        """Reads every accelerator once.

        Args:
            time_unix_s: Goes into the samples.
            holders: Every session that holds accelerators, of whatever kind.
        """
        ...

    def close(self) -> None: ...


def session_of_each(holders: Sequence[Holder]) -> dict[str, str]:
    """Returns the session that holds each accelerator, by the accelerator's id; shared ones are held by nobody."""
    return {
        accelerator.id: holder.session_id
        for holder in holders
        for accelerator in holder.accelerators
        if not accelerator.shared
    }
