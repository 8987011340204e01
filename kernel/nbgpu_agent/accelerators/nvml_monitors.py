"""What NVML tells only to those who wait for it: PCIe throughput, and the driver's errors. Each on its own thread."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pynvml

from nbgpu_agent.accelerators.nvml_words import xid_in_words
from nbgpu_agent.model import Xid

PCIE_INTERVAL_S = 1.0
FRESH_S = 5.0
"""A throughput that is older is unknown: its GPU does not answer any more."""
EVENT_WAIT_MS = 500
_CLOSE_WITHIN_S = 1.5
_RETRY_S = 1.0


@dataclass(frozen=True)
class PcieThroughput:
    """Over some 20 ms, as NVML measures it."""

    tx_bytes_per_s: float | None
    rx_bytes_per_s: float | None
    read_s: float
    """When, by the monotonic clock."""


class _Monitor:
    """A daemon thread that works until it is closed."""

    def __init__(self, name: str) -> None:
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, and goes on without it where the driver does not return. Idempotent."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_WITHIN_S)

    def _run(self) -> None:
        raise NotImplementedError


class PcieMonitor(_Monitor):
    """Reads the PCIe throughput of GPUs in turn: each reading takes NVML some 20 ms.

    Args:
        handles: NVML's, by the GPUs' UUIDs.
    """

    def __init__(self, handles: Mapping[str, Any]) -> None:
        super().__init__("nvml-pcie")
        self._handles = dict(handles)
        self._newest: dict[str, PcieThroughput] = {}

    def newest(self, uuid: str) -> PcieThroughput | None:
        """Returns the newest reading; None where there is none, or none that is fresh. From any thread."""
        found = self._newest.get(uuid)
        return found if found is not None and time.monotonic() - found.read_s <= FRESH_S else None

    def _run(self) -> None:
        while self._handles and not self._closing.is_set():
            for uuid, handle in list(self._handles.items()):
                if self._closing.is_set():
                    return
                self._read(uuid, handle)
            self._closing.wait(PCIE_INTERVAL_S)

    def _read(self, uuid: str, handle: Any) -> None:
        values: list[float | None] = []
        for counter in (pynvml.NVML_PCIE_UTIL_TX_BYTES, pynvml.NVML_PCIE_UTIL_RX_BYTES):
            try:
                values.append(1000.0 * pynvml.nvmlDeviceGetPcieThroughput(handle, counter))  # it says KB/s
            except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
                del self._handles[uuid]  # nor ever will be
                return
            except pynvml.NVMLError:
                values.append(None)
        self._newest[uuid] = PcieThroughput(values[0], values[1], time.monotonic())


class XidMonitor(_Monitor):
    """Waits for the errors that the driver reports, and remembers the last one of each GPU.

    Args:
        handles: NVML's, by the GPUs' UUIDs.
        now: The time, in seconds since the epoch.
    """

    def __init__(self, handles: Mapping[str, Any], now: Callable[[], float] = time.time) -> None:
        super().__init__("nvml-xid")
        self._now = now
        self._handles = dict(handles)
        self._last: dict[str, Xid] = {}

    def last(self, uuid: str) -> Xid | None:
        """Returns the last error of a GPU since the start; None where there was none. From any thread."""
        return self._last.get(uuid)

    def _run(self) -> None:
        try:
            events = pynvml.nvmlEventSetCreate()
        except pynvml.NVMLError:  # an old driver, or a container that is not told
            return
        try:
            registered = [uuid for uuid, handle in self._handles.items() if _register(handle, events)]
            while registered and not self._closing.is_set():
                self._wait(events)
        finally:
            _free(events)

    def _wait(self, events: Any) -> None:
        try:
            event = pynvml.nvmlEventSetWait_v2(events, EVENT_WAIT_MS)
        except pynvml.NVMLError_Timeout:
            return
        except pynvml.NVMLError:  # a lost GPU ends every wait, until it is back
            self._closing.wait(_RETRY_S)
            return
        if event.eventType & pynvml.nvmlEventTypeXidCriticalError:
            code = int(event.eventData)
            xid = Xid(code, self._now(), xid_in_words(code))
            for uuid, handle in self._handles.items():
                if _address(handle) == _address(event.device):  # one that is lost does not tell its UUID any more
                    self._last[uuid] = xid


def _register(handle: Any, events: Any) -> bool:
    try:
        pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    except pynvml.NVMLError:
        return False
    return True


def _free(events: Any) -> None:
    try:
        pynvml.nvmlEventSetFree(events)
    except pynvml.NVMLError:
        return


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
