"""NVIDIA GPUs and MIG slices, found and read through NVML.

What a driver does not know (an old one, a slice, a GPU that fell off the bus) is None; nothing here fails for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import pynvml

from nbgpu_agent.accelerators.nvml_monitors import PcieMonitor, XidMonitor
from nbgpu_agent.accelerators.nvml_words import reasons_in_words
from nbgpu_agent.accelerators.source import Holder, session_of_each
from nbgpu_agent.model import Accelerator, AcceleratorProcess, Sample
from nbgpu_protocol.accelerator_types import canonical_type, nominal_memory_bytes

logger = logging.getLogger(__name__)

MIG_INDEX_STRIDE = 1000
"""Index of a slice: that of its GPU plus 1, times this, plus the slice's number: no GPU's index, and near its likes."""

_ECC_KINDS = (pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED)
_LINK_FIELDS = (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX)
_ALL_LINKS = 0xFFFFFFFF


@dataclass(frozen=True)
class _Device:
    accelerator: Accelerator
    handle: Any
    is_slice: bool
    gpu_uuid: str
    """Its own, or of the GPU that it is a slice of."""
    gpu_handle: Any


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
        self._links: dict[str, _LinkCounters] = {}
        self._names: dict[int, str] = {}
        gpus = {device.gpu_uuid: device.gpu_handle for device in self._devices}
        self._pcie = PcieMonitor({each.gpu_uuid: each.handle for each in self._devices if not each.is_slice})
        self._xids = XidMonitor(gpus)
        self._pcie.start()
        self._xids.start()

    def sample(self, time_unix_s: float, holders: Sequence[Holder]) -> list[Sample]:
        sessions = session_of_each(holders)
        sessions_of_pids = {process.pid: holder.session_id for holder in holders for process in holder.processes}
        samples = [self._sample_one(device, time_unix_s, sessions, sessions_of_pids) for device in self._devices]
        running = {process.pid for sample in samples for process in sample.processes}
        self._names = {pid: name for pid, name in self._names.items() if pid in running}
        return samples

    def close(self) -> None:
        self._pcie.close()
        self._xids.close()
        _known(pynvml.nvmlShutdown)

    def _sample_one(
        self, device: _Device, time_unix_s: float, sessions: dict[str, str], sessions_of_pids: dict[int, str]
    ) -> Sample:
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
        pcie = None if memory is None else self._pcie.newest(accelerator.id)
        nvlink_tx, nvlink_rx = self._nvlink(device)
        ecc = [known(pynvml.nvmlDeviceGetTotalEccErrors, handle, kind, pynvml.NVML_VOLATILE_ECC) for kind in _ECC_KINDS]
        return Sample(
            accelerator_id=accelerator.id,
            time_unix_s=time_unix_s,
            simulated=False,
            pcie_tx_bytes_per_s=pcie.tx_bytes_per_s if pcie is not None else None,
            pcie_rx_bytes_per_s=pcie.rx_bytes_per_s if pcie is not None else None,
            nvlink_tx_bytes_per_s=nvlink_tx,
            nvlink_rx_bytes_per_s=nvlink_rx,
            throttle_reasons=reasons_in_words(known(_clock_reasons, handle) or 0),
            ecc_errors_corrected=ecc[0],
            ecc_errors_uncorrected=ecc[1],
            xid=self._xids.last(device.gpu_uuid),
            processes=tuple(self._processes(handle, sessions_of_pids)),
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

    def _nvlink(self, device: _Device) -> tuple[float | None, float | None]:
        """Returns what NVLink carries, sent and received, in bytes a second since the last reading."""
        counted = None if device.is_slice else _known(_link_counters, device.handle)
        before = self._links.pop(device.accelerator.id, None)
        if counted is None:
            return None, None
        self._links[device.accelerator.id] = counted
        if before is None or counted.read_s <= before.read_s:
            return None, None
        elapsed_s = counted.read_s - before.read_s
        sent, received = counted.tx_kib - before.tx_kib, counted.rx_kib - before.rx_kib
        if sent < 0 or received < 0:  # the counters were reset
            return None, None
        return 1024 * sent / elapsed_s, 1024 * received / elapsed_s

    def _processes(self, handle: Any, sessions_of_pids: dict[int, str]) -> Iterator[AcceleratorProcess]:
        for process in _known(_compute_processes, handle) or ():
            if process.pid not in self._names:
                self._names[process.pid] = _process_name(process.pid)
            yield AcceleratorProcess(
                pid=process.pid,
                session_id=sessions_of_pids.get(process.pid),
                memory_bytes=process.usedGpuMemory,
                name=self._names[process.pid],
            )


@dataclass(frozen=True)
class _LinkCounters:
    """What NVLink has carried since the driver was loaded."""

    tx_kib: int
    rx_kib: int
    read_s: float
    """When, by the monotonic clock."""


def _link_counters(handle: Any) -> _LinkCounters | None:
    values = pynvml.nvmlDeviceGetFieldValues(handle, [(field, _ALL_LINKS) for field in _LINK_FIELDS])
    if any(value.nvmlReturn != pynvml.NVML_SUCCESS for value in values):
        return None
    return _LinkCounters(int(values[0].value.ullVal), int(values[1].value.ullVal), time.monotonic())


def _clock_reasons(handle: Any) -> int:
    """Returns NVML's bits; drivers before 535 have them by another name."""
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError_FunctionNotFound:
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _compute_processes(handle: Any) -> Sequence[Any]:
    """Returns NVML's records; by name of version, since pynvml refuses the plain name where a driver is older."""
    try:
        records: Sequence[Any] = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
    except pynvml.NVMLError_FunctionNotFound:  # before 510
        records = pynvml.nvmlDeviceGetComputeRunningProcesses_v2(handle)
    return records


def _process_name(pid: int) -> str:
    """Returns the name of a process' program; empty for one that cannot be seen from here, as of another container."""
    try:
        return str(psutil.Process(pid).name())
    except (psutil.Error, OSError):
        path = _text(_known(pynvml.nvmlSystemGetProcessName, pid)) or ""
        return path.rpartition("/")[2]


def _devices() -> Iterator[_Device]:
    for index in range(_known(pynvml.nvmlDeviceGetCount) or 0):
        handle = _known(pynvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            logger.warning("GPU %d cannot be read and is not offered", index)
            continue
        mode = _known(pynvml.nvmlDeviceGetMigMode, handle)
        if mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
            yield from _slices(index, handle)
        elif (device := _device(index, handle)) is not None:
            yield device


def _slices(index: int, whole: Any) -> Iterator[_Device]:
    uuid = _text(_known(pynvml.nvmlDeviceGetUUID, whole)) or ""
    for number in range(_known(pynvml.nvmlDeviceGetMaxMigDeviceCount, whole) or 0):
        handle = _known(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, whole, number)
        if handle is None:
            continue  # numbers without a slice are usual
        device = _device((index + 1) * MIG_INDEX_STRIDE + number, handle, gpu=(uuid, whole))
        if device is not None:
            yield device


def _device(index: int, handle: Any, *, gpu: tuple[str, Any] | None = None) -> _Device | None:
    """Returns the device; of a slice, `gpu` is the UUID and the handle of its GPU."""
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
        parent_id=gpu[0] if gpu is not None else "",
    )
    return _Device(accelerator, handle, gpu is not None, *(gpu or (uuid, handle)))


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
