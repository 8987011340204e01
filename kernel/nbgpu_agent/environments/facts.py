"""Looks at what the node has: interpreters, its platform, and what lies in uv's cache."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import sys
from pathlib import Path

from nbgpu_agent.environments.base import BaseReader
from nbgpu_agent.environments.plan import NodeFacts, Python
from nbgpu_agent.environments.uv import Uv
from nbgpu_agent.isolation.os_user import acting
from nbgpu_protocol.snapshot import normalised_name

_PYTHONS_GOOD_FOR_S = 60.0


class NodeSurvey:
    """Finds the facts; what takes long and changes seldom is kept for a minute.

    Args:
        folder: In which uv may run.
        driver_version: NVIDIA's; None without a GPU.
        base: Reads the environment that the node's owner provides; None if there is none.
    """

    def __init__(self, uv: Uv, folder: Path, driver_version: str | None, base: BaseReader | None = None) -> None:
        self._uv = uv
        self._base = base
        self._folder = folder
        self._driver_version = driver_version
        self._pythons: tuple[Python, ...] = ()
        self._looked_s = float("-inf")

    async def facts(self, python_minor: str) -> NodeFacts:
        """Returns the facts as they are now.

        Args:
            python_minor: Such as "3.11". Other interpreters than the agent's own are looked for only if that is of
                another version: uv starts all that there are, which takes up to some seconds.

        Raises:
            BuildFailedError: uv cannot be run.
            InvalidRequestError: The base environment cannot be read.
        """
        base = await self._base.read() if self._base is not None else None
        own = Python(platform.python_version(), Path(sys.executable), sys.implementation.name)
        pythons: tuple[Python, ...] = (own, base.python) if base is not None else (own,)
        now_s = asyncio.get_running_loop().time()
        if not any(each.minor == python_minor for each in pythons):
            if now_s - self._looked_s > _PYTHONS_GOOD_FOR_S:
                self._pythons, self._looked_s = await self._uv.pythons(self._folder), now_s
            pythons = (*pythons, *self._pythons)
        cached = await asyncio.to_thread(self._cached, await self._uv.cache_folder(self._folder))
        return NodeFacts(sys.platform, platform.machine(), pythons, self._driver_version, frozenset(cached), base=base)

    def _cached(self, cache_folder: Path) -> set[tuple[str, str]]:
        with acting(self._uv.os_user):
            return cached_distributions(cache_folder)


def cached_distributions(cache_folder: Path) -> set[tuple[str, str]]:
    """Returns names and versions of the wheels that uv has unpacked. A few µs each."""
    found = set()
    with contextlib.suppress(OSError):
        for archive in os.scandir(cache_folder / "archive-v0"):
            with contextlib.suppress(OSError):
                for entry in os.scandir(archive.path):
                    if entry.name.endswith(".dist-info"):
                        name, _, version = entry.name.removesuffix(".dist-info").partition("-")
                        found.add((normalised_name(name), version))
    return found
