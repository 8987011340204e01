"""The environment variables and the folder that a kernel starts with: an allow-list, and nothing of the agent's own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from nbgpu_agent.isolation.os_user import OsUser
from nbgpu_agent.model import Lease

ALLOWED_NAMES = frozenset(
    {
        "CUDA_HOME", "CUDA_PATH", "HOME", "IPYTHONDIR", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME",
        "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_VISIBLE_DEVICES", "PATH", "SHELL", "SSL_CERT_DIR", "SSL_CERT_FILE",
        "SYSTEMROOT", "TERM", "TZ", "USER",
    }
)  # fmt: skip
ALLOWED_PREFIXES = ("LC_", "XDG_")
_OF_THE_AGENTS_USER = ("IPYTHONDIR", "XDG_")


def base_variables(
    agent_variables: Mapping[str, str], additional_names: Iterable[str], python: Path, os_user: OsUser | None = None
) -> dict[str, str]:
    """Returns what every kernel of the interpreter gets.

    Args:
        agent_variables: What the agent itself was started with.
        additional_names: Passed on as well, if they are set.
        python: The kernel's interpreter, as it was asked for: the link in a virtual environment, not what it links to.
        os_user: As whom it runs; None: as the agent.
    """
    allowed = ALLOWED_NAMES | set(additional_names)
    variables = {
        name: value for name, value in agent_variables.items() if name in allowed or name.startswith(ALLOWED_PREFIXES)
    }
    if os_user is not None:
        variables = {name: value for name, value in variables.items() if not name.startswith(_OF_THE_AGENTS_USER)}
        variables |= os_user.variables()
    folder = python.parent
    path = variables.get("PATH") or os.defpath
    variables["PATH"] = path if path.split(os.pathsep)[0] == str(folder) else f"{folder}{os.pathsep}{path}"
    if (folder.parent / "pyvenv.cfg").is_file():
        variables["VIRTUAL_ENV"] = str(folder.parent)
    elif (folder.parent / "conda-meta").is_dir():
        variables["CONDA_PREFIX"] = str(folder.parent)
    return variables


def lease_variables(session_id: str, lease: Lease | None) -> dict[str, str]:
    """Returns what tells a session's processes which accelerators are theirs."""
    accelerators = lease.accelerators if lease is not None else ()
    devices = [accelerator.id for accelerator in accelerators if not accelerator.simulated and not accelerator.shared]
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(devices),
        "NBGPU_ACCELERATORS": ",".join(accelerator.id for accelerator in accelerators),
        "NBGPU_SESSION_ID": session_id,
    }
