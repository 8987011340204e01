"""The public API: what is in it, that all of it is there, and that importing it is cheap."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import nbgpu

PUBLIC = {
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
}
"""Frozen: taking a name away breaks notebooks, adding one is a promise."""

METHODS = {
    "accelerators", "close", "detach", "execute", "id", "info", "interrupt", "logs", "pull", "push", "restart",
    "samples", "stacks", "sync",
}  # fmt: skip


def test_public_names_are_frozen() -> None:
    assert set(nbgpu.__all__) == PUBLIC
    assert list(nbgpu.__all__) == sorted(nbgpu.__all__)
    assert set(dir(nbgpu)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(nbgpu, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__


def test_a_name_that_is_not_there_is_missed_as_usual() -> None:
    with pytest.raises(AttributeError, match="module 'nbgpu' has no attribute 'atach'"):
        nbgpu.atach  # noqa: B018


@pytest.mark.parametrize("kind", ["Session", "AsyncSession"])
def test_a_session_has_these_methods(kind: str) -> None:
    assert {name for name in dir(getattr(nbgpu, kind)) if not name.startswith("_")} == METHODS


def test_a_session_and_its_async_twin_take_the_same() -> None:
    for name in METHODS - {"accelerators", "id"}:
        one, other = getattr(nbgpu.Session, name), getattr(nbgpu.AsyncSession, name)
        assert list(inspect.signature(one).parameters) == list(inspect.signature(other).parameters)
        assert inspect.iscoroutinefunction(other)
        assert not inspect.iscoroutinefunction(one)


def test_importing_it_loads_nothing_heavy() -> None:
    program = "import sys, nbgpu; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert not {"IPython", "grpc", "zmq", "ipykernel", "torch", "numpy"} & set(loaded.stdout.split())
