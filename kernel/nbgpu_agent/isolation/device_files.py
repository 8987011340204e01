"""The files of /dev by which a session reaches the GPUs that it holds, and those of no other GPU."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from nbgpu_agent.isolation.os_user import IsolationError
from nbgpu_agent.model import Accelerator

_OF_ALL = (
    "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps-imex-channels", "gdrdrv", "infiniband"
)  # fmt: skip
"""What every program with CUDA opens, and what NCCL reaches other nodes and GPUs by: no GPU's own."""
_SLICES = "nvidia-caps"
_UUID = re.compile(r"^GPU UUID:\s*(\S+)", re.MULTILINE)
_MINOR = re.compile(r"^Device Minor:\s*(\d+)", re.MULTILINE)


def device_files(accelerators: Iterable[Accelerator], root: Path = Path("/")) -> list[Path]:
    """Returns the device files, and folders of them, of these accelerators; none where they are no GPUs.

    Of a GPU that is sliced, those of all its slices.

    Args:
        root: Below which `dev` and `proc` are.

    Raises:
        IsolationError: The driver does not tell which file is a GPU's.
    """
    wanted = [each for each in accelerators if not each.simulated and not each.shared]
    if not wanted:
        return []
    minors = _minors(root / "proc/driver/nvidia/gpus")
    names = list(_OF_ALL)
    for each in wanted:
        uuid = each.parent_id or each.id
        if uuid not in minors:
            raise IsolationError(
                f"{root / 'proc/driver/nvidia/gpus'} does not tell which device file is that of {each.type} ({uuid})",
                "a container gets these files with its GPUs by `--gpus`; `--isolation none` shows sessions all devices",
            )
        names.append(f"nvidia{minors[uuid]}")
        if each.parent_id:
            names.append(_SLICES)
    return [path for name in dict.fromkeys(names) if (path := root / "dev" / name).exists()]


def _minors(gpus: Path) -> Mapping[str, int]:
    """Returns the numbers of device files, by the UUIDs of GPUs, as the driver lists them."""
    found = {}
    with contextlib.suppress(OSError):
        for folder in gpus.iterdir():
            with contextlib.suppress(OSError):
                text = (folder / "information").read_text(errors="replace")
                uuid, minor = _UUID.search(text), _MINOR.search(text)
                if uuid is not None and minor is not None:
                    found[uuid[1]] = int(minor[1])
    return found
