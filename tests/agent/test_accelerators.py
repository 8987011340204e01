"""Types and memory, simulated accelerators and the true load of their workers, the CPU."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

import nbgpu_protocol.accelerator_types
from nbgpu_agent.accelerators.cpu import CpuSource
from nbgpu_agent.accelerators.inventory import find_accelerators
from nbgpu_agent.accelerators.simulated import SimulatedSource, parse_simulated
from nbgpu_agent.accelerators.source import Holder
from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.model import Sample
from nbgpu_protocol.accelerator_types import canonical_type, nominal_memory_bytes

MIB = 1 << 20
SPIN = "print('up', flush=True)\nwhile True: pass"
SLEEP = "held = bytearray(200 << 20)\nprint('up', flush=True)\nimport time; time.sleep(600)"


def test_examples_of_types_hold() -> None:
    assert doctest.testmod(nbgpu_protocol.accelerator_types).failed == 0


@pytest.mark.parametrize(
    ("name", "reported_mib", "expected_type", "expected_gb"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, "H100", 80),
        ("NVIDIA H100 NVL", 95830, "H100", 94),
        ("NVIDIA H200", 143771, "H200", 141),
        ("NVIDIA A10", 23028, "A10", 24),
        ("NVIDIA A100-SXM4-80GB", 81920, "A100", 80),
        ("NVIDIA GH200 480GB", 97871, "GH200", 96),  # 480 GB are its CPU's
        ("Tesla T4", 15109, "T4", 16),
        ("NVIDIA GeForce RTX 4090", 24564, "RTX-4090", 24),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4864, "A100-MIG-1G.5GB", 5),
        ("NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb", 40448, "H100-MIG-1C.3G.40GB", 40),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", 9856, "H100-MIG-1G.10GB+ME", 10),
        ("An Unknown 9000", 20475, "AN-UNKNOWN-9000", 20),
    ],
)
def test_types_and_nominal_memory(name: str, reported_mib: int, expected_type: str, expected_gb: int) -> None:
    assert canonical_type(name)[0] == expected_type
    assert canonical_type(expected_type)[0] == expected_type
    assert nominal_memory_bytes(name, reported_mib * MIB) == expected_gb * 10**9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("H100x8,A10x2", ["H100"] * 8 + ["A10"] * 2),
        ("h100:2", ["H100"] * 2),
        ("RTX4090", ["RTX-4090"]),
        ("rtx-4090 x 2", ["RTX-4090"] * 2),
        ("L4", ["L4"]),
        ("A100-80GBx1,A100x1", ["A100"] * 2),
    ],
)
def test_what_to_simulate_is_read(text: str, expected: list[str]) -> None:
    accelerators = parse_simulated(text)
    assert [each.type for each in accelerators] == expected
    assert all(each.simulated for each in accelerators)
    assert len({each.id for each in accelerators}) == len(expected)
    assert [each.index for each in accelerators] == list(range(len(expected)))


@pytest.mark.parametrize("text", ["H100x0", "x8", "CPU", "8", "H100x8,,A10", "H100x8;A10", "Nonesuch", "H100x65", "-"])
def test_nonsense_to_simulate_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="NBGPU_SIMULATE="):
        parse_simulated(text)


def test_the_cpu_is_always_offered() -> None:
    inventory = find_accelerators({"NBGPU_SIMULATE": "H100x2"})
    assert [(each.id, each.shared) for each in inventory.accelerators] == [
        ("sim-h100-0", False),
        ("sim-h100-1", False),
        ("cpu", True),
    ]
    inventory.close()


@pytest.fixture
def workers() -> Iterator[list[psutil.Process]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            env={**os.environ, **({"LOCAL_RANK": rank} if rank else {})},
        )
        for code, rank in ((SLEEP, ""), (SPIN, "1"))
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    yield [psutil.Process(process.pid) for process in processes]
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_samples_are_the_true_load_of_a_sessions_processes(workers: list[psutil.Process]) -> None:
    source = SimulatedSource(parse_simulated("H100x3"))
    holder = Holder("s1", source.accelerators[:2], tuple(workers))
    first = {each.accelerator_id: each for each in source.sample(time.time(), [holder])}
    assert first["sim-h100-0"].utilisation_percent is None, "nothing can be said after one reading"
    begin_s = sum(workers[1].cpu_times()[:2])
    start_s = time.monotonic()
    while sum(workers[1].cpu_times()[:2]) < begin_s + 0.5:
        assert time.monotonic() < start_s + 60
        time.sleep(0.05)
    samples = {each.accelerator_id: each for each in source.sample(time.time(), [holder])}
    idle, busy, unheld = (samples[f"sim-h100-{index}"] for index in range(3))
    assert (idle.session_id, busy.session_id, unheld.session_id) == ("s1", "s1", None)
    assert busy.utilisation_percent is not None
    assert idle.utilisation_percent is not None
    assert 0 < busy.utilisation_percent <= 100
    assert idle.utilisation_percent < busy.utilisation_percent
    assert idle.memory_used_bytes is not None
    assert 200 * MIB < idle.memory_used_bytes < 400 * MIB
    assert (unheld.utilisation_percent, unheld.memory_used_bytes) == (0, 0)
    assert idle.memory_total_bytes == psutil.virtual_memory().total
    assert idle.power_watts is None, "a number that nobody measured is not invented"


def test_utilisation_is_the_share_of_all_the_nodes_cpus(workers: list[psutil.Process]) -> None:
    source = SimulatedSource(parse_simulated("H100"))
    holder = Holder("s1", source.accelerators, tuple(workers))
    source.sample(1000.0, [holder])
    before_s = sum(sum(each.cpu_times()[:2]) for each in workers)
    time.sleep(0.2)
    sample: Sample = source.sample(1010.0, [holder])[0]  # as if ten seconds had passed
    after_s = sum(sum(each.cpu_times()[:2]) for each in workers)
    assert sample.utilisation_percent is not None
    most = 100 * (after_s - before_s + 1) / (10 * (psutil.cpu_count() or 1))
    assert 0 < sample.utilisation_percent <= most


def test_processes_that_end_are_no_load(workers: list[psutil.Process]) -> None:
    source = SimulatedSource(parse_simulated("H100"))
    holder = Holder("s1", source.accelerators, tuple(workers))
    source.sample(1000.0, [holder])
    for worker in workers:
        worker.kill()
        worker.wait(60)
    sample = source.sample(1001.0, [holder])[0]
    assert (sample.utilisation_percent, sample.memory_used_bytes) == (0, 0)


def test_the_cpus_load_is_the_nodes(workers: list[psutil.Process]) -> None:
    source = CpuSource()
    deadline_s = time.monotonic() + 60
    busiest = 0.0
    while busiest < 100 / (psutil.cpu_count() or 1) / 4:  # one worker spins
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
        (sample,) = source.sample(time.time(), [])
        assert sample.utilisation_percent is not None
        assert 0 <= sample.utilisation_percent <= 100
        busiest = max(busiest, sample.utilisation_percent)
    assert sample.memory_used_bytes is not None
    assert 0 < sample.memory_used_bytes < psutil.virtual_memory().total
