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
    from nbgpu.errors import Error, RemoteError
    from nbgpu.output import RemoteResult
    from nbgpu.session import AsyncSession, Session, attach, attach_async

__all__ = [
    "AsyncSession",
    "Error",
    "RemoteError",
    "RemoteResult",
    "Session",
    "__version__",
    "attach",
    "attach_async",
    "load_ipython_extension",
    "unload_ipython_extension",
]

# Imported when first used: the Jupyter server and the command line need neither IPython nor a kernel.
_HOMES = {
    "AsyncSession": "nbgpu.session",
    "Error": "nbgpu.errors",
    "RemoteError": "nbgpu.errors",
    "RemoteResult": "nbgpu.output",
    "Session": "nbgpu.session",
    "attach": "nbgpu.session",
    "attach_async": "nbgpu.session",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'nbgpu' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


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
