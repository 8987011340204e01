"""NVML on a real GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from nbgpu_agent.accelerators.nvml import NvmlSource
from nbgpu_agent.accelerators.source import Holder

pytestmark = pytest.mark.gpu


@pytest.fixture
def source() -> Iterator[NvmlSource]:
    source = NvmlSource()
    yield source
    source.close()


def test_what_is_found(source: NvmlSource) -> None:
    assert source.driver_version
    assert source.accelerators
    for accelerator in source.accelerators:
        assert accelerator.id.startswith(("GPU-", "MIG-"))
        assert accelerator.type
        assert "NVIDIA" not in accelerator.type
        assert accelerator.memory_bytes % 10**9 == 0
        assert not accelerator.simulated


def test_samples_are_plausible(source: NvmlSource) -> None:
    accelerator = source.accelerators[0]
    samples = {each.accelerator_id: each for each in source.sample(time.time(), [Holder("s", (accelerator,), ())])}
    sample = samples[accelerator.id]
    assert sample.session_id == "s"
    assert sample.memory_total_bytes is not None
    assert sample.memory_used_bytes is not None
    assert 0 <= sample.memory_used_bytes <= sample.memory_total_bytes
    assert abs(sample.memory_total_bytes - accelerator.memory_bytes) < 0.12 * accelerator.memory_bytes
    if accelerator.id.startswith("GPU-"):
        assert sample.utilisation_percent is not None
        assert 0 <= sample.utilisation_percent <= 100
        assert sample.temperature_celsius is not None
        assert 0 < sample.temperature_celsius < 120
        assert sample.sm_clock_mhz


def test_memory_that_is_taken_shows(source: NvmlSource) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA here")
    before = sum(each.memory_used_bytes or 0 for each in source.sample(time.time(), []))
    held = torch.ones(1 << 30, dtype=torch.uint8, device="cuda")
    after = sum(each.memory_used_bytes or 0 for each in source.sample(time.time(), []))
    assert after - before >= held.numel()
