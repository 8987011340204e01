"""`/metrics` for Prometheus: what the accelerators do, by the names of NVIDIA's DCGM exporter, and what waits for them.

Served on loopback and without the agent's token, as such exporters are; so it says nothing of notebooks and people.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nbgpu_agent.errors import AddressRefusedError
from nbgpu_agent.model import Accelerator, Node, Offer, Sample, SessionInfo

HOST = "127.0.0.1"
_SNAPSHOT_TIMEOUT_S = 5.0
_MIB = 1 << 20
_LABELS = ("gpu", "UUID", "modelName", "Hostname")

Read = Callable[[Sample], float | None]


@dataclass(frozen=True)
class _Gauge:
    name: str
    what: str
    read: Read


_OF_ACCELERATORS = (
    _Gauge("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %)", lambda each: each.utilisation_percent),
    _Gauge("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB)", lambda each: _mib(each.memory_used_bytes)),
    _Gauge(
        "DCGM_FI_DEV_FB_FREE",
        "Framebuffer memory free (in MiB)",
        lambda each: (
            None
            if each.memory_total_bytes is None or each.memory_used_bytes is None
            else _mib(each.memory_total_bytes - each.memory_used_bytes)
        ),
    ),
    _Gauge("DCGM_FI_DEV_FB_TOTAL", "Framebuffer memory in all (in MiB)", lambda each: _mib(each.memory_total_bytes)),
    _Gauge("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W)", lambda each: each.power_watts),
    _Gauge("DCGM_FI_DEV_POWER_MGMT_LIMIT", "Power limit (in W)", lambda each: each.power_limit_watts),
    _Gauge("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C)", lambda each: each.temperature_celsius),
    _Gauge("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz)", lambda each: each.sm_clock_mhz),
    _Gauge("DCGM_FI_DEV_MEM_CLOCK", "Memory clock frequency (in MHz)", lambda each: each.memory_clock_mhz),
    _Gauge("DCGM_FI_DEV_PCIE_TX_THROUGHPUT", "PCIe, sent (in KB/s)", lambda each: _kb(each.pcie_tx_bytes_per_s)),
    _Gauge("DCGM_FI_DEV_PCIE_RX_THROUGHPUT", "PCIe, received (in KB/s)", lambda each: _kb(each.pcie_rx_bytes_per_s)),
    _Gauge("DCGM_FI_DEV_XID_ERRORS", "Code of the last XID error", lambda each: each.xid.code if each.xid else None),
    _Gauge(
        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
        "Corrected ECC errors since the driver was loaded",
        lambda each: each.ecc_errors_corrected,
    ),
    _Gauge(
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        "Uncorrected ECC errors since the driver was loaded",
        lambda each: each.ecc_errors_uncorrected,
    ),
    _Gauge("nbgpu_nvlink_tx_bytes_per_second", "NVLink, sent, all links", lambda each: each.nvlink_tx_bytes_per_s),
    _Gauge("nbgpu_nvlink_rx_bytes_per_second", "NVLink, received, all links", lambda each: each.nvlink_rx_bytes_per_s),
    _Gauge("nbgpu_accelerator_leased", "1 while a session holds it", lambda each: float(each.session_id is not None)),
)


@dataclass(frozen=True)
class Snapshot:
    """What is exported, as it is at one time."""

    samples: Sequence[Sample]
    offers: Sequence[Offer]
    sessions: Sequence[SessionInfo]


class AgentFacts(Protocol):
    """Asked on the agent's event loop."""

    def __call__(self) -> Snapshot: ...


class AgentCollector(Collector):
    """Makes Prometheus' metrics of what the agent knows; called on the HTTP server's thread.

    Args:
        node: Named in the labels.
        accelerators: All of the node's.
        snapshot: Returns what there is now; asked on the event loop.
        loop: On which.
    """

    def __init__(
        self,
        node: Node,
        accelerators: Sequence[Accelerator],
        snapshot: AgentFacts,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._node = node
        self._accelerators = {each.id: each for each in accelerators if not each.shared}
        self._snapshot = snapshot
        self._loop = loop

    def collect(self) -> Iterator[Metric]:
        async def take() -> Snapshot:
            return self._snapshot()

        now = asyncio.run_coroutine_threadsafe(take(), self._loop).result(_SNAPSHOT_TIMEOUT_S)
        samples = [each for each in now.samples if each.accelerator_id in self._accelerators]
        for each in _OF_ACCELERATORS:
            # Gauges also where DCGM has counters: as counters the names would have to end in _total, and DCGM's do not.
            family = GaugeMetricFamily(each.name, each.what, labels=_LABELS)
            for sample in samples:
                value = each.read(sample)
                if value is not None:  # what is unknown is left out, and never 0
                    family.add_metric(self._labels(sample), value)
            yield family
        yield self._throttling(samples)
        yield from self._of_the_pool(now)

    def _labels(self, sample: Sample) -> list[str]:
        accelerator = self._accelerators[sample.accelerator_id]
        return [str(accelerator.index), accelerator.id, accelerator.product_name, self._node.hostname]

    def _throttling(self, samples: Sequence[Sample]) -> Metric:
        family = GaugeMetricFamily("nbgpu_throttled", "1 while clocks are held down", labels=(*_LABELS, "reason"))
        for sample in samples:
            for reason in sample.throttle_reasons:
                family.add_metric([*self._labels(sample), reason], 1)
        return family

    def _of_the_pool(self, now: Snapshot) -> Iterator[Metric]:
        hostname = self._node.hostname
        sessions = GaugeMetricFamily("nbgpu_sessions", "Sessions", labels=("phase", "kernel", "Hostname"))
        counts: dict[tuple[str, str], int] = {}
        for session in now.sessions:
            key = (session.phase.value, session.kernel_state.value)
            counts[key] = counts.get(key, 0) + 1
        for (phase, kernel), count in counts.items():
            sessions.add_metric([phase, kernel, hostname], count)
        yield sessions
        labels = ("type", "memory_bytes", "Hostname")
        queued = GaugeMetricFamily("nbgpu_queue_length", "Requests that wait for accelerators", labels=labels)
        total = GaugeMetricFamily("nbgpu_accelerators", "Accelerators", labels=labels)
        free = GaugeMetricFamily("nbgpu_accelerators_free", "Accelerators that no session holds", labels=labels)
        for offer in now.offers:
            if offer.shared:
                continue
            values = [offer.type, str(offer.memory_bytes), hostname]
            queued.add_metric(values, offer.queued)
            total.add_metric(values, offer.total)
            free.add_metric(values, offer.free)
        yield from (queued, total, free)


class Exporter:
    """Serves `/metrics` on loopback, on threads of its own, until it is closed.

    Args:
        collector: What is served.
        port: 0: one that is free.

    Raises:
        AddressRefusedError: The port is taken.
    """

    def __init__(self, collector: Collector, port: int) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        try:
            started: Any = start_http_server(port, addr=HOST, registry=registry)
        except OSError as error:
            raise AddressRefusedError(
                f"cannot serve metrics on {HOST}:{port}: {error.strerror}", "choose another with --metrics-port"
            ) from error
        self._server: WSGIServer = started[0]
        self._thread: threading.Thread = started[1]

    @property
    def address(self) -> str:
        """Returns the URL."""
        return f"http://{HOST}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Ends serving, and waits for that. May block."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _mib(value: int | None) -> float | None:
    return None if value is None else value / _MIB


def _kb(value: float | None) -> float | None:
    return None if value is None else value / 1000
