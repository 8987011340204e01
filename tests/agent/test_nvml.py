"""NVML against a library in C that the real loader loads, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_processes import until
from fakes.nvml.library import MIB, FakeGpu, FakeSlice, build_library, with_library, write_state

READER = """
import dataclasses, json, psutil, sys
from nbgpu_agent.accelerators.inventory import find_accelerators
from nbgpu_agent.accelerators.source import Holder
inventory = find_accelerators({})
print(json.dumps({"driver": inventory.driver_version,
                  "accelerators": [dataclasses.asdict(each) for each in inventory.accelerators]}), flush=True)
for line in sys.stdin:
    held = tuple(a for a in inventory.accelerators if a.id in json.loads(line))
    holders = [Holder("s1", held, (psutil.Process(),))]
    print(json.dumps([dataclasses.asdict(each) for each in inventory.sample(12.5, holders)]), flush=True)
inventory.close()
"""


class Node:
    """A process that has found its accelerators, and reads them when asked to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        found = self._receive()
        self.driver_version = found["driver"]
        self.gpus = [each for each in found["accelerators"] if each["id"] != "cpu"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def sample(self, held: Sequence[str] = ()) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(list(held)) + "\n")
        self._process.stdin.flush()
        return {each["accelerator_id"]: each for each in self._receive()}

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process ended with {self._process.wait(10)}"
        return json.loads(line)


@contextmanager
def node(library: Path | None, state: Path, gpus: Sequence[FakeGpu]) -> Iterator[Node]:
    write_state(state, gpus)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", READER],
        env=with_library(environ, library, state) if library else environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Node(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("nvml"))


def eight_h100() -> list[FakeGpu]:
    return [
        FakeGpu(f"GPU-{index}", used_bytes=index * 1000 * MIB, utilisation_percent=10 * index) for index in range(8)
    ]


def test_eight_gpus_are_read_exactly(library: Path, tmp_path: Path) -> None:
    with node(library, tmp_path / "state", eight_h100()) as found:
        assert found.driver_version == "570.86.15"
        assert [each["id"] for each in found.gpus] == [f"GPU-{index}" for index in range(8)]
        assert {each["type"] for each in found.gpus} == {"H100"}
        assert {each["memory_bytes"] for each in found.gpus} == {80 * 10**9}
        assert not any(each["simulated"] for each in found.gpus)
        samples = found.sample(held=["GPU-3"])
        assert samples["GPU-3"] == {
            "accelerator_id": "GPU-3",
            "time_unix_s": 12.5,
            "simulated": False,
            "utilisation_percent": 30.0,
            "memory_used_bytes": 3000 * MIB,
            "memory_total_bytes": 81559 * MIB,
            "power_watts": 70.123,
            "power_limit_watts": 700.0,
            "temperature_celsius": 31.0,
            "sm_clock_mhz": 1980,
            "memory_clock_mhz": 2619,
            "session_id": "s1",
            "pcie_tx_bytes_per_s": samples["GPU-3"]["pcie_tx_bytes_per_s"],  # read on its own time, see below
            "pcie_rx_bytes_per_s": samples["GPU-3"]["pcie_rx_bytes_per_s"],
            "nvlink_tx_bytes_per_s": None,
            "nvlink_rx_bytes_per_s": None,
            "throttle_reasons": [],
            "ecc_errors_corrected": 0,
            "ecc_errors_uncorrected": 0,
            "xid": None,
            "processes": [],
        }
        assert samples["GPU-4"]["session_id"] is None
        assert len(samples) == 9


def test_samples_follow_the_device(library: Path, tmp_path: Path) -> None:
    gpus = eight_h100()
    with node(library, tmp_path / "state", gpus) as found:
        assert found.sample()["GPU-0"]["utilisation_percent"] == 0
        gpus[0] = replace(gpus[0], utilisation_percent=97, power_mw=699_500)
        write_state(tmp_path / "state", gpus)
        sample = found.sample()["GPU-0"]
        assert (sample["utilisation_percent"], sample["power_watts"]) == (97, 699.5)


def test_a_lost_gpu_is_unknown_and_the_others_go_on(library: Path, tmp_path: Path) -> None:
    gpus = eight_h100()
    with node(library, tmp_path / "state", gpus) as found:
        gpus[2] = replace(gpus[2], lost=True)
        write_state(tmp_path / "state", gpus)
        samples = found.sample()
        readings = {key: value for key, value in samples["GPU-2"].items() if key not in ("accelerator_id", "simulated")}
        assert readings.pop("time_unix_s") == 12.5
        assert all(value in (None, []) for value in readings.values())
        assert samples["GPU-7"]["utilisation_percent"] == 70
        gpus[2] = replace(gpus[2], lost=False)
        write_state(tmp_path / "state", gpus)
        assert found.sample()["GPU-2"]["utilisation_percent"] == 20


def test_a_gpu_lost_before_the_start_is_not_offered(library: Path, tmp_path: Path) -> None:
    gpus = eight_h100()
    gpus[0] = replace(gpus[0], lost=True)
    with node(library, tmp_path / "state", gpus) as found:
        assert [each["index"] for each in found.gpus] == list(range(1, 8))


def test_what_a_gpu_does_not_support_is_unknown(library: Path, tmp_path: Path) -> None:
    gpu = FakeGpu("GPU-0", "NVIDIA A10", 23028 * MIB, power_mw=None, utilisation_percent=None, mig=None)
    with node(library, tmp_path / "state", [gpu]) as found:
        assert (found.gpus[0]["type"], found.gpus[0]["memory_bytes"]) == ("A10", 24 * 10**9)
        sample = found.sample()["GPU-0"]
        assert (sample["power_watts"], sample["utilisation_percent"]) == (None, None)
        assert sample["temperature_celsius"] == 31


def test_symbols_that_an_old_driver_lacks(tmp_path: Path) -> None:
    library = build_library(tmp_path, without=["MEMORY_V2", "CLOCKS"])
    with node(library, tmp_path / "state", [FakeGpu("GPU-0", used_bytes=1000 * MIB)]) as found:
        sample = found.sample()["GPU-0"]
        assert sample["memory_used_bytes"] == 1500 * MIB  # version 1 counts what the driver reserves
        assert (sample["sm_clock_mhz"], sample["memory_clock_mhz"]) == (None, None)
        assert sample["power_watts"] == 70.123


def test_mig_slices_are_accelerators_of_their_own(library: Path, tmp_path: Path) -> None:
    name = "NVIDIA H100 80GB HBM3 MIG"
    slices = (
        FakeSlice("MIG-a", f"{name} 3g.40gb", 40448 * MIB, 7 * MIB),
        FakeSlice(""),
        FakeSlice("MIG-b", f"{name} 1g.10gb", 9856 * MIB, 8 * MIB),
    )
    with node(library, tmp_path / "state", [FakeGpu("GPU-0", mig=True, slices=slices), FakeGpu("GPU-1")]) as found:
        assert [(each["id"], each["type"], each["memory_bytes"] // 10**9) for each in found.gpus] == [
            ("MIG-a", "H100-MIG-3G.40GB", 40),
            ("MIG-b", "H100-MIG-1G.10GB", 10),
            ("GPU-1", "H100", 80),
        ]
        assert len({each["index"] for each in found.gpus}) == 3
        assert [each["parent_id"] for each in found.gpus] == ["GPU-0", "GPU-0", ""]
        sample = found.sample(held=["MIG-b"])["MIG-b"]
        assert (sample["memory_used_bytes"], sample["memory_total_bytes"]) == (8 * MIB, 9856 * MIB)
        assert (sample["power_watts"], sample["utilisation_percent"], sample["session_id"]) == (None, None, "s1")


def test_pcie_is_read_beside_the_samples(library: Path, tmp_path: Path) -> None:
    gpus = [
        FakeGpu("GPU-0", pcie_tx_kb_per_s=1500, pcie_rx_kb_per_s=26_000_000),
        FakeGpu("GPU-1", pcie_tx_kb_per_s=None),
    ]
    with node(library, tmp_path / "state", gpus) as found:
        until(lambda: found.sample()["GPU-0"]["pcie_rx_bytes_per_s"])
        samples = found.sample()
    assert samples["GPU-0"]["pcie_tx_bytes_per_s"] == 1.5e6
    assert samples["GPU-0"]["pcie_rx_bytes_per_s"] == 26e9
    assert samples["GPU-1"]["pcie_tx_bytes_per_s"] is None
    assert samples["GPU-1"]["pcie_rx_bytes_per_s"] is None


def test_nvlink_is_what_was_carried_since_the_last_sample(library: Path, tmp_path: Path) -> None:
    gpus = [FakeGpu("GPU-0", nvlink_tx_kib=1000, nvlink_rx_kib=50), FakeGpu("GPU-1")]
    with node(library, tmp_path / "state", gpus) as found:
        assert found.sample()["GPU-0"]["nvlink_tx_bytes_per_s"] is None
        gpus[0] = replace(gpus[0], nvlink_tx_kib=3000)
        write_state(tmp_path / "state", gpus)
        samples = found.sample()
        assert samples["GPU-0"]["nvlink_tx_bytes_per_s"] > 0
        assert samples["GPU-0"]["nvlink_rx_bytes_per_s"] == 0
        assert samples["GPU-1"]["nvlink_tx_bytes_per_s"] is None
        gpus[0] = replace(gpus[0], nvlink_tx_kib=0)  # the driver was loaded anew
        write_state(tmp_path / "state", gpus)
        assert found.sample()["GPU-0"]["nvlink_tx_bytes_per_s"] is None


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0x0, []),
        (0x1 | 0x2 | 0x100, []),  # idle, or as set: nothing is held down
        (0x4, ["power limit"]),
        (0x20 | 0x4, ["power limit", "thermal limit"]),
        (0x8 | 0x40, ["thermal slowdown by the hardware"]),
        (0x8, ["slowdown by the hardware"]),
    ],
)
@pytest.mark.parametrize("without", [(), ("REASONS",)])
def test_why_clocks_are_held_down(tmp_path: Path, bits: int, words: list[str], without: Sequence[str]) -> None:
    library = build_library(tmp_path, without=without)
    with node(library, tmp_path / "state", [FakeGpu("GPU-0", clock_reasons=bits)]) as found:
        assert found.sample()["GPU-0"]["throttle_reasons"] == words


def test_ecc_errors_are_counted_and_unknown_where_there_is_no_ecc(library: Path, tmp_path: Path) -> None:
    gpus = [FakeGpu("GPU-0", ecc_corrected=7, ecc_uncorrected=2), FakeGpu("GPU-1", ecc_corrected=None)]
    with node(library, tmp_path / "state", gpus) as found:
        samples = found.sample()
    assert (samples["GPU-0"]["ecc_errors_corrected"], samples["GPU-0"]["ecc_errors_uncorrected"]) == (7, 2)
    assert samples["GPU-1"]["ecc_errors_corrected"] is None


def test_an_xid_is_told_of_its_gpu_alone_and_the_last_one_stays(library: Path, tmp_path: Path) -> None:
    name = "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    gpus = [
        FakeGpu("GPU-0"),
        FakeGpu("GPU-1"),
        FakeGpu("GPU-2", mig=True, slices=[FakeSlice("MIG-a", name, 40448 * MIB)]),
    ]
    with node(library, tmp_path / "state", gpus) as found:
        assert {each["xid"] for each in found.sample().values()} == {None}
        gpus[1] = replace(gpus[1], xids=[(31, 1)])
        gpus[2] = replace(gpus[2], xids=[(99_999, 2)])
        write_state(tmp_path / "state", gpus)
        until(lambda: found.sample()["MIG-a"]["xid"])
        samples = found.sample()
        assert samples["GPU-1"]["xid"]["code"] == 31
        assert samples["GPU-1"]["xid"]["meaning"] == "memory page fault, usually an invalid access by a program"
        assert (samples["MIG-a"]["xid"]["code"], samples["MIG-a"]["xid"]["meaning"]) == (99_999, "")
        assert samples["GPU-0"]["xid"] is None
        gpus[1] = replace(gpus[1], xids=[(31, 1), (79, 3)], lost=True)
        write_state(tmp_path / "state", gpus)
        until(lambda: found.sample()["GPU-1"]["xid"]["code"] == 79)
        assert found.sample()["GPU-1"]["memory_used_bytes"] is None


def test_processes_are_named_with_their_sessions(library: Path, tmp_path: Path) -> None:
    gpu = FakeGpu("GPU-0")
    with node(library, tmp_path / "state", [gpu]) as found:
        elsewhere = 2**22 + 5  # more than Linux gives
        write_state(tmp_path / "state", [replace(gpu, processes=[(found.pid, 5 * MIB), (elsewhere, 6 * MIB)])])
        own, other = found.sample(held=["GPU-0"])["GPU-0"]["processes"]
    assert (own["pid"], own["session_id"], own["memory_bytes"]) == (found.pid, "s1", 5 * MIB)
    assert own["name"].startswith("python")
    assert (other["session_id"], other["memory_bytes"]) == (None, 6 * MIB)
    assert other["name"] == f"container-{elsewhere}"


def test_a_driver_without_any_of_these_symbols(tmp_path: Path) -> None:
    library = build_library(tmp_path, without=["DETAILS"])
    gpu = FakeGpu("GPU-0", nvlink_tx_kib=1, nvlink_rx_kib=1, clock_reasons=4, ecc_corrected=1, xids=[(79, 1)])
    with node(library, tmp_path / "state", [gpu]) as found:
        found.sample()
        sample = found.sample()["GPU-0"]
    unknown = {name for name, value in sample.items() if value in (None, [])}
    assert unknown >= {
        "pcie_tx_bytes_per_s",
        "nvlink_tx_bytes_per_s",
        "throttle_reasons",
        "ecc_errors_corrected",
        "xid",
    }
    assert sample["power_watts"] == 70.123


@pytest.mark.parametrize("names", [("NVIDIA H100 80GB HBM3", "NVIDIA A10"), ("NVIDIA L4",)])
def test_several_types(library: Path, tmp_path: Path, names: Sequence[str]) -> None:
    gpus = [FakeGpu(f"GPU-{name}", name) for name in names]
    with node(library, tmp_path / "state", gpus) as found:
        assert [each["product_name"] for each in found.gpus] == list(names)


def test_no_library_means_no_gpus(tmp_path: Path) -> None:
    with node(None, tmp_path / "state", []) as found:
        assert found.gpus == []
        assert found.driver_version is None
        assert set(found.sample()) == {"cpu"}


def test_a_library_that_does_not_start_means_no_gpus(library: Path, tmp_path: Path) -> None:
    with node(library, tmp_path / "state", []) as found:
        assert found.gpus == []
    state = tmp_path / "not there"
    write_state(state, [])
    state.unlink()
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", READER],
        env=with_library(environ, library, state),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [each["id"] for each in json.loads(result.stdout)["accelerators"]] == ["cpu"]
    assert "no GPUs are offered" in result.stderr
