"""Simulated accelerators: CPU workers that answer to a GPU's name, for demos, teaching and tests.

Their samples are the true load of the processes of the session that holds them, and zero where none does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import psutil

from nbgpu_agent.accelerators.process_load import Load, ProcessLoads
from nbgpu_agent.accelerators.source import Holder
from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.model import Accelerator, Sample
from nbgpu_protocol.accelerator_types import CPU, NOMINAL_MEMORY_GB, canonical_type

SIMULATE_VARIABLE = "NBGPU_SIMULATE"
MAX_SIMULATED = 64

_ITEM = re.compile(r"(?P<name>[A-Za-z][\w .+-]*?)(?:\s*[x:*]\s*(?P<count>\d+))?", re.IGNORECASE)
_NO_LOAD = Load(0.0, 0)


def parse_simulated(text: str) -> tuple[Accelerator, ...]:
    """Returns the accelerators that `NBGPU_SIMULATE` names, such as `H100x8,A10x2`.

    Raises:
        InvalidRequestError: An item is no `TYPExCOUNT`, or no known type.
    """
    accelerators: list[Accelerator] = []
    for item in text.split(","):
        name, count = _parse_item(item.strip(), text)
        accelerator_type, named_gb = canonical_type(name)
        memory_gb = named_gb or NOMINAL_MEMORY_GB.get(accelerator_type)
        if accelerator_type == CPU or memory_gb is None:
            known = ", ".join(sorted(NOMINAL_MEMORY_GB))
            raise InvalidRequestError(
                f"{SIMULATE_VARIABLE}={text}: {name!r} is no accelerator that can be simulated",
                f"use one of {known}, or name its memory, as in `{name}-24GBx2`",
            )
        if len(accelerators) + count > MAX_SIMULATED:
            raise InvalidRequestError(f"{SIMULATE_VARIABLE}={text}: more than {MAX_SIMULATED} accelerators")
        numbered = sum(other.type == accelerator_type for other in accelerators)
        accelerators += [
            Accelerator(
                id=f"sim-{accelerator_type.lower()}-{numbered + number}",
                index=len(accelerators) + number,
                type=accelerator_type,
                product_name=f"simulated {accelerator_type}",
                memory_bytes=memory_gb * 10**9,
                simulated=True,
            )
            for number in range(count)
        ]
    return tuple(accelerators)


def _parse_item(item: str, text: str) -> tuple[str, int]:
    found = _ITEM.fullmatch(item)
    if found is None or (found["count"] is not None and int(found["count"]) == 0):
        raise InvalidRequestError(
            f"{SIMULATE_VARIABLE}={text}: cannot read {item!r}",
            f"write types and counts, as in `{SIMULATE_VARIABLE}=H100x8,A10x2`",
        )
    if found["name"].upper() == "RT":  # "RTX4090" is one RTX-4090, not 4090 of something
        return item, 1
    return found["name"], int(found["count"] or 1)


class SimulatedSource:
    """The accelerators of `NBGPU_SIMULATE`."""

    def __init__(self, accelerators: tuple[Accelerator, ...]) -> None:
        self.accelerators = accelerators
        self.driver_version: str | None = None
        self._loads = ProcessLoads()
        self._cpu_count = psutil.cpu_count() or 1
        self._memory_bytes = psutil.virtual_memory().total
        self._last_unix_s: float | None = None

    def sample(self, time_unix_s: float, holders: Sequence[Holder]) -> list[Sample]:
        mine = [holder for holder in holders if any(each.simulated for each in holder.accelerators)]
        load_of: dict[str, tuple[str, Load]] = {}
        for holder, loads in zip(mine, self._loads.read(time_unix_s, [each.processes for each in mine]), strict=True):
            for position, accelerator in enumerate(holder.accelerators):
                load_of[accelerator.id] = (holder.session_id, _share(position, len(holder.accelerators), loads))
        elapsed_s = time_unix_s - self._last_unix_s if self._last_unix_s is not None else None
        self._last_unix_s = time_unix_s
        return [
            self._sample_one(accelerator.id, time_unix_s, elapsed_s, *load_of.get(accelerator.id, (None, _NO_LOAD)))
            for accelerator in self.accelerators
        ]

    def close(self) -> None:
        pass

    def _sample_one(
        self, accelerator_id: str, time_unix_s: float, elapsed_s: float | None, session_id: str | None, load: Load
    ) -> Sample:
        utilisation: float | None
        if session_id is None:
            utilisation = 0.0
        elif elapsed_s is None or elapsed_s <= 0:
            utilisation = None
        else:
            utilisation = min(100.0, 100 * load.cpu_seconds / (elapsed_s * self._cpu_count))
        return Sample(
            accelerator_id=accelerator_id,
            time_unix_s=time_unix_s,
            simulated=True,
            utilisation_percent=utilisation,
            memory_used_bytes=load.resident_bytes,
            memory_total_bytes=self._memory_bytes,
            session_id=session_id,
        )


def _share(position: int, count: int, loads: dict[int | None, Load]) -> Load:
    """Returns the load that counts for the accelerator at the position: its rank's; at 0, every other process' too."""
    shares = [load for rank, load in loads.items() if (rank if rank is not None and rank < count else 0) == position]
    return Load(sum(load.cpu_seconds for load in shares), sum(load.resident_bytes for load in shares))
