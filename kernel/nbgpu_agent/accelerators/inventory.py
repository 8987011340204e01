"""Finds what the node has."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import psutil

from nbgpu_agent.accelerators.cpu import CpuSource
from nbgpu_agent.accelerators.simulated import SIMULATE_VARIABLE, SimulatedSource, parse_simulated
from nbgpu_agent.accelerators.source import AcceleratorSource, Holder
from nbgpu_agent.model import Accelerator, Sample

logger = logging.getLogger(__name__)


class Inventory:
    """All accelerators of the node, GPUs first. May block; used on one thread only, apart from its attributes.

    Args:
        sources: One for each kind.
    """

    def __init__(self, sources: Sequence[AcceleratorSource]) -> None:
        self._sources = sources
        self.accelerators: tuple[Accelerator, ...] = tuple(
            accelerator for source in sources for accelerator in source.accelerators
        )
        self.driver_version = next((source.driver_version for source in sources if source.driver_version), None)

    def sample(self, time_unix_s: float, holders: Sequence[Holder]) -> list[Sample]:
        """Reads every accelerator once; one kind that fails does not keep the others from being read."""
        samples: list[Sample] = []
        for source in self._sources:
            try:
                samples += source.sample(time_unix_s, holders)
            except (psutil.Error, OSError):
                logger.warning("%s could not be sampled", type(source).__name__, exc_info=True)
        return samples

    def close(self) -> None:
        for source in self._sources:
            source.close()


def find_accelerators(environ: Mapping[str, str]) -> Inventory:
    """Returns what the node has; blocks while NVML gets ready.

    With `NBGPU_SIMULATE` set there are the simulated accelerators in place of real GPUs, so that no name means both.

    Raises:
        InvalidRequestError: `NBGPU_SIMULATE` cannot be read.
    """
    sources: list[AcceleratorSource] = []
    if simulated := environ.get(SIMULATE_VARIABLE, "").strip():
        sources.append(SimulatedSource(parse_simulated(simulated)))
    elif (nvml := _nvml_source()) is not None:
        sources.append(nvml)
    return Inventory([*sources, CpuSource()])


def _nvml_source() -> AcceleratorSource | None:
    import pynvml  # 60 ms that a node with simulated accelerators need not spend

    from nbgpu_agent.accelerators.nvml import NvmlSource

    try:
        return NvmlSource()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None
    except pynvml.NVMLError as error:
        logger.warning("no GPUs are offered, since NVML does not start: %s", error)
        return None
