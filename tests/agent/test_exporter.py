"""What Prometheus gets of an agent: DCGM's names, what is unknown left out, and nothing of notebooks."""

from __future__ import annotations

import asyncio
import re
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from agent_processes import Client, Workplace, workplace
from fakes.nvml.library import MIB, FakeGpu, build_library, with_library, write_state
from nbgpu_agent.errors import AddressRefusedError
from nbgpu_agent.model import Accelerator, Node, Offer, Sample, Xid
from nbgpu_agent.service.exporter import AgentCollector, Exporter, Snapshot
from nbgpu_protocol.v1 import pool_pb2

NODE = Node("n", 'lab "1"', "linux", 8, 10**9, None)
H100 = Accelerator("GPU-1", 3, "H100", "NVIDIA H100 80GB HBM3", 80 * 10**9)
CPU = Accelerator("cpu", 0, "CPU", "8 × x86_64", 0, shared=True)


@pytest.fixture
def place() -> Iterator[Workplace]:
    with workplace() as place:
        yield place


@pytest_asyncio.fixture
async def samples() -> list[Sample]:
    return []


@pytest_asyncio.fixture
async def exporter(samples: list[Sample]) -> AsyncGenerator[Exporter, None]:
    def snapshot() -> Snapshot:
        return Snapshot(samples, [Offer("H100", 80 * 10**9, 8, 2, 3, False, False)], [])

    exporter = Exporter(AgentCollector(NODE, [H100, CPU], snapshot, asyncio.get_running_loop()), 0)
    yield exporter
    await asyncio.to_thread(exporter.close)


def read(address: str) -> dict[str, float]:
    """Returns what is served: each value by its name and labels."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    return {
        found["series"]: float(found["value"])
        for line in text.splitlines()
        if (found := re.fullmatch(r"(?P<series>[^#].*) (?P<value>\S+)", line))
    }


def of_gpu(values: dict[str, float], name: str) -> float | None:
    labels = 'Hostname="lab \\"1\\"",UUID="GPU-1",gpu="3",modelName="NVIDIA H100 80GB HBM3"'
    return values.get(f"{name}{{{labels}}}")


@pytest.mark.asyncio
async def test_known_values_have_dcgms_names_and_units(exporter: Exporter, samples: list[Sample]) -> None:
    samples += [
        Sample(
            "GPU-1",
            1.0,
            False,
            utilisation_percent=0.0,
            memory_used_bytes=3 * MIB,
            memory_total_bytes=10 * MIB,
            power_watts=70.5,
            pcie_tx_bytes_per_s=5e6,
            ecc_errors_uncorrected=2,
            xid=Xid(79, 1.0, ""),
            throttle_reasons=("thermal limit",),
            session_id="s",
        ),
        Sample("cpu", 1.0, False, utilisation_percent=50.0),
    ]
    values = await asyncio.to_thread(read, exporter.address)
    assert of_gpu(values, "DCGM_FI_DEV_GPU_UTIL") == 0
    assert (of_gpu(values, "DCGM_FI_DEV_FB_USED"), of_gpu(values, "DCGM_FI_DEV_FB_FREE")) == (3, 7)
    assert of_gpu(values, "DCGM_FI_DEV_POWER_USAGE") == 70.5
    assert of_gpu(values, "DCGM_FI_DEV_PCIE_TX_THROUGHPUT") == 5000
    assert of_gpu(values, "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL") == 2
    assert of_gpu(values, "DCGM_FI_DEV_XID_ERRORS") == 79
    assert of_gpu(values, "nbgpu_accelerator_leased") == 1
    assert [value for series, value in values.items() if 'reason="thermal limit"' in series] == [1]
    queue = 'nbgpu_queue_length{Hostname="lab \\"1\\"",memory_bytes="80000000000",type="H100"}'
    assert values[queue] == 3
    assert not any("cpu" in series for series in values)


@pytest.mark.asyncio
async def test_what_is_unknown_is_left_out(exporter: Exporter, samples: list[Sample]) -> None:
    samples.append(Sample("GPU-1", 1.0, False))
    values = await asyncio.to_thread(read, exporter.address)
    assert {series.partition("{")[0] for series in values} == {
        "nbgpu_accelerator_leased",
        "nbgpu_queue_length",
        "nbgpu_accelerators",
        "nbgpu_accelerators_free",
    }


@pytest.mark.asyncio
async def test_a_port_that_is_taken_is_refused(exporter: Exporter) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(AddressRefusedError, match="cannot serve metrics"):
            Exporter(exporter_collector(), taken.getsockname()[1])


def exporter_collector() -> AgentCollector:
    return AgentCollector(NODE, [], lambda: Snapshot([], [], []), asyncio.get_running_loop())


def test_an_agent_serves_them_on_loopback_when_asked_to(place: Workplace, tmp_path: Path) -> None:
    library, state = build_library(tmp_path), tmp_path / "state"
    write_state(state, [FakeGpu(f"GPU-{index}", utilisation_percent=10 * index) for index in range(8)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {**with_library({}, library, state), "NBGPU_SIMULATE": ""}
    process, address, token = place.start_listening(f"--metrics-port={port}", **variables)
    with Client(address, token) as client:
        session = client.open(2)
        next(iter(client.WatchSamples(pool_pb2.WatchSamplesRequest(history_s=60))))
        values = read(f"http://127.0.0.1:{port}/metrics")
        client.CloseSession(pool_pb2.CloseSessionRequest(session_id=session.id))
    busy = {
        re.search('UUID="(GPU-[0-9])"', series)[1]: value  # type: ignore[index]
        for series, value in values.items()
        if series.startswith("DCGM_FI_DEV_GPU_UTIL{")
    }
    assert busy == {f"GPU-{index}": 10.0 * index for index in range(8)}
    assert [value for series, value in values.items() if series.startswith("nbgpu_accelerators_free")] == [6]
    assert place.end(process) == 0
    with pytest.raises(urllib.error.URLError):
        read(f"http://127.0.0.1:{port}/metrics")


def test_by_default_there_are_none(place: Workplace) -> None:
    process, _, _ = place.start_listening()
    assert "metrics for Prometheus" not in place.log()
    assert place.end(process) == 0
