"""NVIDIA GPUs and MIG slices, found and read through NVML.

What a driver does not know (an old one, a slice, a GPU that fell off the bus) is None; nothing here fails for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pynvml

from nbgpu_agent.accelerators.source import Holder, session_of_each
from nbgpu_agent.model import Accelerator, Sample
from nbgpu_protocol.accelerator_types import canonical_type, nominal_memory_bytes

logger = logging.getLogger(__name__)

MIG_INDEX_STRIDE = 1000
"""Index of a slice: that of its GPU plus 1, times this, plus the slice's number: no GPU's index, and near its likes."""


@dataclass(frozen=True)
class _Device:
    accelerator: Accelerator
    handle: Any
    is_slice: bool


class NvmlSource:
    """The node's NVIDIA accelerators. Makes NVML ready, and `close` shuts it down.

    A GPU in MIG mode is offered as its slices, never as a whole.

    Raises:
        pynvml.NVMLError: There is no library, or no driver.
    """

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self.driver_version = _text(_known(pynvml.nvmlSystemGetDriverVersion))
        self._devices = tuple(_devices())
        self.accelerators = tuple(device.accelerator for device in self._devices)
        self._lost: set[str] = set()

    def sample(self, time_unix_s: float, holders: Sequence[Holder]) -> list[Sample]:
        sessions = session_of_each(holders)
        return [self._sample_one(device, time_unix_s, sessions) for device in self._devices]

    def close(self) -> None:
        _known(pynvml.nvmlShutdown)

    def _sample_one(self, device: _Device, time_unix_s: float, sessions: dict[str, str]) -> Sample:
        handle, accelerator = device.handle, device.accelerator
        memory = _known(_memory, handle)
        if memory is None and accelerator.id not in self._lost:
            self._lost.add(accelerator.id)
            logger.warning("%s (%s) cannot be read any more", accelerator.type, accelerator.id)
        elif memory is not None:
            self._lost.discard(accelerator.id)
        used, total = memory or (None, None)
        # NVML tells power, temperature and clocks of a whole GPU only, and no utilisation where it is sliced.
        known = _unknown if device.is_slice else _known
        utilisation = known(pynvml.nvmlDeviceGetUtilizationRates, handle)
        power_mw = known(pynvml.nvmlDeviceGetPowerUsage, handle)
        power_limit_mw = known(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        temperature = known(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
        return Sample(
            accelerator_id=accelerator.id,
            time_unix_s=time_unix_s,
            simulated=False,
            utilisation_percent=None if utilisation is None else float(utilisation.gpu),
            memory_used_bytes=used,
            memory_total_bytes=total,
            power_watts=None if power_mw is None else power_mw / 1000,
            power_limit_watts=None if power_limit_mw is None else power_limit_mw / 1000,
            temperature_celsius=None if temperature is None else float(temperature),
            sm_clock_mhz=known(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
            memory_clock_mhz=known(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
            session_id=sessions.get(accelerator.id),
        )


def _devices() -> Iterator[_Device]:
    for index in range(_known(pynvml.nvmlDeviceGetCount) or 0):
        handle = _known(pynvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            logger.warning("GPU %d cannot be read and is not offered", index)
            continue
        mode = _known(pynvml.nvmlDeviceGetMigMode, handle)
        if mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
            yield from _slices(index, handle)
        elif (device := _device(index, handle, is_slice=False)) is not None:
            yield device


def _slices(index: int, whole: Any) -> Iterator[_Device]:
    for number in range(_known(pynvml.nvmlDeviceGetMaxMigDeviceCount, whole) or 0):
        handle = _known(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, whole, number)
        if handle is None:
            continue  # numbers without a slice are usual
        device = _device((index + 1) * MIG_INDEX_STRIDE + number, handle, is_slice=True)
        if device is not None:
            yield device


def _device(index: int, handle: Any, *, is_slice: bool) -> _Device | None:
    uuid = _text(_known(pynvml.nvmlDeviceGetUUID, handle))
    name = _text(_known(pynvml.nvmlDeviceGetName, handle))
    if uuid is None or name is None:
        logger.warning("accelerator %d tells neither its UUID nor its name and is not offered", index)
        return None
    memory = _known(_memory, handle)
    accelerator = Accelerator(
        id=uuid,
        index=index,
        type=canonical_type(name)[0],
        product_name=name,
        memory_bytes=nominal_memory_bytes(name, memory[1]) if memory else 0,
    )
    return _Device(accelerator, handle, is_slice)


def _memory(handle: Any) -> tuple[int, int]:
    """Returns used and total memory in bytes.

    Version 2 of the call leaves out of `used` what the driver reserves; drivers before 510 have version 1 only.
    """
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return int(memory.used), int(memory.total)


def _known(query: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the answer, or None where NVML has none."""
    try:
        return query(*arguments)
    except pynvml.NVMLError:
        return None


def _unknown(query: Callable[..., Any], *arguments: Any) -> None:
    return None


def _text(value: str | bytes | None) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
