"""Builds the fake NVML library, and writes the file that it reads."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class FakeSlice:
    uuid: str
    """Empty: a number without a slice."""
    name: str = ""
    total_bytes: int = 0
    used_bytes: int = 0
    processes: Sequence[tuple[int, int]] = ()
    """Of each, its pid and the memory that it uses, in bytes."""

    def lines(self) -> list[str]:
        own = f"mig|{self.uuid}|{self.name}|{self.total_bytes}|{self.used_bytes}"
        return [own, *_process_lines(self.processes)]


@dataclass(frozen=True)
class FakeGpu:
    """One GPU; None is what it does not support."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    total_bytes: int = 81559 * MIB
    used_bytes: int = 0
    utilisation_percent: int | None = 0
    power_mw: int | None = 70_123
    power_limit_mw: int | None = 700_000
    temperature_celsius: int | None = 31
    sm_clock_mhz: int | None = 1980
    memory_clock_mhz: int | None = 2619
    lost: bool = False
    mig: bool | None = False
    slices: Sequence[FakeSlice] = ()
    pcie_tx_kb_per_s: int | None = 0
    pcie_rx_kb_per_s: int | None = 0
    nvlink_tx_kib: int | None = None
    """Carried in all."""
    nvlink_rx_kib: int | None = None
    clock_reasons: int | None = 0
    """NVML's bits."""
    ecc_corrected: int | None = 0
    ecc_uncorrected: int | None = 0
    processes: Sequence[tuple[int, int]] = ()
    """Of each, its pid and the memory that it uses, in bytes."""
    xids: Sequence[tuple[int, int]] = ()
    """Of each, its code and its number among the events of all GPUs, from 1 on."""

    def lines(self) -> list[str]:
        fields = (
            self.uuid,
            self.name,
            self.total_bytes,
            self.used_bytes,
            self.utilisation_percent,
            self.power_mw,
            self.power_limit_mw,
            self.temperature_celsius,
            self.sm_clock_mhz,
            self.memory_clock_mhz,
            int(self.lost),
            None if self.mig is None else int(self.mig),
            self.pcie_tx_kb_per_s,
            self.pcie_rx_kb_per_s,
            self.nvlink_tx_kib,
            self.nvlink_rx_kib,
            self.clock_reasons,
            self.ecc_corrected,
            self.ecc_uncorrected,
        )
        return [
            "gpu|" + "|".join("" if each is None else str(each) for each in fields),
            *_process_lines(self.processes),
            *(f"xid|{code}|{number}" for code, number in self.xids),
            *(line for each in self.slices for line in each.lines()),
        ]


def _process_lines(processes: Sequence[tuple[int, int]]) -> list[str]:
    return [f"process|{pid}|{used}" for pid, used in processes]


def build_library(folder: Path, *, without: Sequence[str] = ()) -> Path:
    """Builds libnvidia-ml.so.1 in the folder; `without` names symbols to leave out, such as MEMORY_V2."""
    source = Path(__file__).with_name("nvml.c")
    soname = "libnvidia-ml.so.1"
    strict = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation"]
    defines = [f"-DWITHOUT_{name}" for name in without]
    target = ["-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", str(folder / soname)]
    subprocess.run(["gcc", *strict, *defines, *target, str(source)], check=True, timeout=60)
    return folder


def write_state(path: Path, gpus: Sequence[FakeGpu]) -> None:
    """Writes what the library says from now on, whole or not at all."""
    temporary = path.with_suffix(".new")
    temporary.write_text("".join(line + "\n" for gpu in gpus for line in gpu.lines()))
    temporary.replace(path)


def with_library(environ: Mapping[str, str], library_folder: Path, state: Path) -> dict[str, str]:
    """Returns the environment of a process whose loader finds the fake."""
    path = os.pathsep.join(filter(None, [str(library_folder), environ.get("LD_LIBRARY_PATH")]))
    return {**environ, "LD_LIBRARY_PATH": path, "NBGPU_FAKE_NVML": str(state)}
