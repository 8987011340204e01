"""Two machines with a cable between them: network namespaces of Linux, for the length of a with statement."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

ADDRESSES = ("198.18.7.1", "198.18.7.2")
"""Of the range that is set aside for tests of networks; nobody else is in these namespaces."""


@contextmanager
def two_namespaces(lay_cable: Callable[[tuple[str, str]], object] | None = None) -> Iterator[tuple[str, str]]:
    """Yields the names of two namespaces, whose addresses are ADDRESSES; they reach each other and nothing else.

    Args:
        lay_cable: Makes a device `cable` in each; None: an ordinary pair.
    """
    names = (f"nbgpu-a-{os.getpid()}", f"nbgpu-b-{os.getpid()}")
    refuse_without_namespaces()
    made = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
        if lay_cable is not None:
            lay_cable(names)
        else:
            _ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/30", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in made:
            _ip("netns", "delete", name)


def inside(namespace: str) -> tuple[str, ...]:
    """Returns what to put before a command that is to run there."""
    return ("ip", "netns", "exec", namespace)


def refuse_without_namespaces() -> None:
    """Fails the test in CI, and skips it elsewhere, where there can be no namespaces."""
    if why := why_no_namespaces():
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)


def why_no_namespaces() -> str:
    """Returns why there can be none here; empty: there can."""
    if shutil.which("ip") is None:
        return "there is no `ip`: apt-get install iproute2"
    return "only root makes network namespaces" if os.getuid() != 0 else ""


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
