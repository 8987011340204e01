"""The names of Databricks' clients, `serverless_gpu` and `databricks.air`: what they mean is nbgpu's own.

`from serverless_gpu import distributed` becomes `from nbgpu.compat.databricks import distributed`, and
`from serverless_gpu.ray import ray_launch` becomes `from nbgpu.compat.databricks.ray import ray_launch`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbgpu import runtime
    from nbgpu.ranks.call import Call as DistributedFunctionCall
    from nbgpu.ranks.function import DistributedFunction, distributed
    from nbgpu.ranks.ray import ray_init, ray_launch

__all__ = ["DistributedFunction", "DistributedFunctionCall", "distributed", "ray_init", "ray_launch", "runtime"]

# Imported when first used: a rank that imports `runtime` from here needs nothing else.
_HOMES = {
    "DistributedFunction": ("nbgpu.ranks.function", "DistributedFunction"),
    "DistributedFunctionCall": ("nbgpu.ranks.call", "Call"),
    "distributed": ("nbgpu.ranks.function", "distributed"),
    "ray_init": ("nbgpu.ranks.ray_driver", "ray_init"),
    "ray_launch": ("nbgpu.ranks.ray", "ray_launch"),
}


def __getattr__(name: str) -> Any:
    if name == "runtime":
        return importlib.import_module("nbgpu.compat.databricks.runtime")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, its_name = _HOMES[name]
    return getattr(importlib.import_module(home), its_name)
