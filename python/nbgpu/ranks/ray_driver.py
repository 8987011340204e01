"""What runs beside Ray's driver in the ranks of a call: starts Ray, and stops it. Imports little of nbgpu."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

from nbgpu.ranks.errors import LaunchError
from nbgpu.runtime import get_global_rank, get_world_size
from nbgpu_kernel.ranks.call_folder import short_folder


def ray_init(**options: Any) -> Any:
    """Connects to the Ray that `ray_launch` started, or starts one with the accelerators that this process sees.

    Args:
        options: For `ray.init`.

    Raises:
        LaunchError: Ray is not installed.
    """
    require_ray()
    import ray  # type: ignore[import-not-found]

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
    # Ray refuses GPUs that CUDA would not see: on simulated accelerators there are none for it.
    count = get_world_size() if os.environ.get("CUDA_VISIBLE_DEVICES") else 0
    # Of a folder's name Ray's sockets leave little, and the call's own is too long. The session removes both.
    temporary = short_folder(os.environ["NBGPU_CALL_ID"]) / "ray"
    temporary.parent.mkdir(mode=0o700, exist_ok=True)
    temporary.mkdir()
    ray_init(num_gpus=count, _temp_dir=str(temporary))
    try:
        return function(*args, **kwargs)
    finally:
        import ray

        ray.shutdown()
