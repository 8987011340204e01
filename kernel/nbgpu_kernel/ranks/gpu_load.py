"""How busy the GPUs of a call are, by the driver's own program: asked only while ranks hang, as it takes a moment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

_WITHIN_S = 2.0
_QUERY = ("--query-gpu=index,uuid,utilization.gpu,memory.used", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class GpuLoad:
    """What one GPU did in the last moment."""

    utilisation_percent: float | None
    memory_used_mib: float | None


def read_gpu_loads(environ: Mapping[str, str] = os.environ) -> dict[int, GpuLoad]:
    """Returns the load by local rank: rank 0 has the first of the visible devices. Empty where there is no such GPU.

    Args:
        environ: Says which devices are visible, and where the program is.
    """
    devices = [each for each in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    if not devices:
        return {}
    try:
        finished = subprocess.run(
            ["nvidia-smi", *_QUERY],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_WITHIN_S, check=True, env=dict(environ),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    loads = {}
    for line in finished.stdout.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4:
            load = GpuLoad(_number(fields[2]), _number(fields[3]))
            loads[fields[0]] = loads[fields[1]] = load
    return {rank: loads[device] for rank, device in enumerate(devices) if device in loads}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return None
