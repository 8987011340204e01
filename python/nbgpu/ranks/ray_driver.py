"""What runs beside Ray's driver in the ranks of a call: starts Ray, and stops it. Imports little of nbgpu."""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from nbgpu.ranks.errors import LaunchError
from nbgpu.runtime import get_global_rank, get_world_size
from nbgpu_kernel.ranks.call_folder import short_folder

_ATTEMPTS = 3
_OF_THE_RANK = frozenset((
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "NODE_RANK", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT",
))  # fmt: skip
"""torchrun's, of which Ray's processes must not hear: a trainer's workers would wait for the ranks' store for ever."""


def ray_init(**options: Any) -> Any:
    """Connects to the Ray that `ray_launch` started, or starts one with the accelerators that this process sees.

    Args:
        options: For `ray.init`.

    Raises:
        LaunchError: Ray is not installed.
    """
    require_ray()
    import ray

    if ray.is_initialized():
        return ray.get_runtime_context()
    return ray.init(include_dashboard=False, **options)


def require_ray() -> None:
    """Raises LaunchError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise LaunchError(
            "ray_launch needs Ray, which is not installed in this notebook's environment", "pip install ray"
        )


def drive(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs in every rank: the first one starts Ray, runs the driver and stops Ray; the others have nothing to do."""
    if get_global_rank() != 0:
        return None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray keeps one in a file that everybody can read
    options = _resources(get_world_size(), os.environ.get("NBGPU_ACCELERATORS", "").split(","))
    for name in [each for each in os.environ if each in _OF_THE_RANK or each.startswith("TORCHELASTIC_")]:
        del os.environ[name]
    _start(options)
    try:
        return function(*args, **kwargs)
    finally:
        import ray

        ray.shutdown()


def _start(options: dict[str, Any]) -> None:
    """Starts Ray, again where it was not there in time: it gives itself 30 s, and a busy machine may need more."""
    import ray

    # Of a folder's name Ray's sockets leave little, and the call's own is too long. The session removes both, and ends
    # what a start that has failed may have left.
    folder = short_folder(os.environ["NBGPU_CALL_ID"])
    folder.mkdir(mode=0o700, exist_ok=True)
    for attempt in range(_ATTEMPTS):
        temporary = folder / f"ray{attempt}"
        temporary.mkdir()
        try:
            ray_init(**options, _temp_dir=str(temporary))
        except Exception:  # of no type of its own
            ray.shutdown()
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _resources(count: int, accelerators: Sequence[str]) -> dict[str, Any]:
    """Returns what Ray is told that there is, as options of `ray.init`. Names simulated accelerators to Ray as GPUs.

    Args:
        count: How many accelerators the call has asked for.
        accelerators: The session's.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES"):
        return {"num_gpus": count}
    # Ray's CPUs are numbers for its scheduler. A trainer with a worker for each rank, and one for itself, would wait
    # for ever where the simulated accelerators are more than the cores.
    cpus = {"num_cpus": max(2 * count, os.cpu_count() or 1)}
    if accelerators in (["cpu"], [""]):
        return {**cpus, "num_gpus": 0}
    # Ray refuses more GPUs than this variable names. No CUDA device has such a name, so that none is seen.
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(accelerators)
    return {**cpus, "num_gpus": count}
