"""`ray_launch`: a function that drives a Ray which spans the accelerators of a session. Ray is optional."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from nbgpu.ranks.function import distributed
from nbgpu.ranks.ray_driver import drive, ray_init, require_ray

__all__ = ["RayFunction", "ray_init", "ray_launch"]


class RayFunction:
    """A function with `.distributed(...)`, which runs once, as the driver. Made by `ray_launch`.

    Args:
        function: The driver.
        options: As `distributed` takes them.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options
        self._call = distributed(**options)(drive)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def with_overrides(self, **options: Any) -> RayFunction:
        """Returns the same function with other options; what is not given stays. See `distributed`."""
        return RayFunction(self._function, {**self._options, **options})

    def distributed(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the function with Ray started on the session's accelerators, and stopped afterwards.

        Returns:
            What the function returned.

        Raises:
            LaunchError: Ray is not installed.
            BaseException: As `DistributedFunction.distributed`.
        """
        require_ray()
        return self._call.distributed(self._function, args, kwargs)[0]


def ray_launch(
    num_accelerators: Any = None,
    accelerator_type: Any = None,
    remote: bool = False,
    timeout: float | None = None,
    *,
    gpus: int | None = None,
    gpu_type: Any = None,
    all_ranks: bool = False,
) -> Any:
    """Decorates a function that is the driver of a Ray on the accelerators of a session.

    ::

        @ray_launch(gpus=8, gpu_type="H100")
        def tune():
            import ray
            return ray.get([task.remote() for task in tasks])

        tune.distributed()

    Ray is started in a fresh process, with as many GPUs as the call has accelerators, and `ray.init` has been called
    when the function begins. Simulated accelerators are GPUs for Ray's scheduler, and for no CUDA program. The
    arguments are those of `distributed`.
    """
    if callable(num_accelerators):
        return RayFunction(num_accelerators, {})
    given = {
        "num_accelerators": num_accelerators,
        "accelerator_type": accelerator_type,
        "remote": remote,
        "timeout": timeout,
        "gpus": gpus,
        "gpu_type": gpu_type,
        "all_ranks": all_ranks,
    }
    return lambda function: RayFunction(function, given)
