"""GPUs for the notebook that you already have open.

`%load_ext nbgpu` gives `%%gpu` cells; `nbgpu.attach("H100x8")` is the same from Python.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from typing import TYPE_CHECKING, Any

# Once gRPC's threads run, every fork in the notebook (`!shell`, multiprocessing, a DataLoader's workers) would print
# "Other threads are currently calling into gRPC, skipping fork() handlers". Nothing here uses gRPC after a fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

try:
    __version__ = importlib.metadata.version("nbgpu")
except importlib.metadata.PackageNotFoundError:  # imported from a checkout that is not installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from nbgpu import runtime
    from nbgpu.async_session import AsyncSession, attach_async
    from nbgpu.errors import Error, RemoteError
    from nbgpu.live_metrics.widget import metrics
    from nbgpu.output import RemoteResult
    from nbgpu.ranks.call import Call, find_call
    from nbgpu.ranks.function import distributed
    from nbgpu.ranks.ray import ray_launch
    from nbgpu.session import Session, attach

__all__ = [
    "AsyncSession",
    "Call",
    "Error",
    "RemoteError",
    "RemoteResult",
    "Session",
    "__version__",
    "attach",
    "attach_async",
    "distributed",
    "find_call",
    "load_ipython_extension",
    "metrics",
    "ray_launch",
    "runtime",
    "unload_ipython_extension",
]

# Imported when first used: the Jupyter server and the command line need neither IPython nor a kernel.
_HOMES = {
    "AsyncSession": "nbgpu.async_session",
    "Call": "nbgpu.ranks.call",
    "Error": "nbgpu.errors",
    "RemoteError": "nbgpu.errors",
    "RemoteResult": "nbgpu.output",
    "Session": "nbgpu.session",
    "attach": "nbgpu.session",
    "attach_async": "nbgpu.async_session",
    "distributed": "nbgpu.ranks.function",
    "find_call": "nbgpu.ranks.call",
    "metrics": "nbgpu.live_metrics.widget",
    "ray_launch": "nbgpu.ranks.ray",
    "runtime": "nbgpu.runtime",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'nbgpu' has no attribute {name!r}")
    module = importlib.import_module(home)
    return module if home == f"nbgpu.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(shell: Any) -> None:
    """Called by `%load_ext nbgpu`."""
    from nbgpu.extension import extension_of

    extension_of(shell).load()


def unload_ipython_extension(shell: Any) -> None:
    """Called by `%unload_ext nbgpu`."""
    from nbgpu.extension import extension_of

    extension_of(shell).unload()
