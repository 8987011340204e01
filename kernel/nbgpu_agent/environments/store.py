"""The folder of environments: built aside, renamed into place, shared, and removed when they were used longest ago.

It has one owner, the agent that holds the agent's folder. What a killed agent left half built lies in folders of a
name of their own, and is removed when the next one starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nbgpu_agent.isolation.os_user import OsUser, acting, own_folder, read_regular
from nbgpu_agent.processes import end_processes_now

DEFAULT_LIMIT_BYTES = 100 << 30
_BUILDING_PREFIX = ".building-"
_REMOVING_PREFIX = ".removing-"
_WHEELS_FOLDER = ".wheels"
_RECORD_FILE = "nbgpu-environment.json"
_MAX_RECORD_BYTES = 1 << 16
_ID = re.compile(r"[0-9a-f]{8,64}")

Build = Callable[[Path], Awaitable[None]]
"""Builds an environment in the folder, which does not exist yet."""


@dataclass(frozen=True)
class Environment:
    """A built environment."""

    id: str
    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


class EnvironmentStore:
    """Environments by their id. For one event loop.

    Args:
        folder: The store's alone; made when it is needed.
        limit_bytes: Of all environments, counted as if they shared no file. Those in use stay in any case.
        os_user: Who builds in it, with whose rights all is done there; None: the agent.
    """

    def __init__(self, folder: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES, os_user: OsUser | None = None) -> None:
        self._os_user = os_user
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()
        self._users: Counter[str] = Counter()

    @property
    def wheels_folder(self) -> Path:
        """For wheels that came from notebooks; emptied when the next agent starts."""
        return self._folder / _WHEELS_FOLDER

    def find(self, environment_id: str) -> Environment | None:
        """Returns the environment if it is built."""
        folder = self._folder / environment_id
        with acting(self._os_user):
            return Environment(environment_id, folder) if (folder / _RECORD_FILE).is_file() else None

    @contextlib.asynccontextmanager
    async def building(self, environment_id: str) -> AsyncIterator[None]:
        """Keeps others from building the same meanwhile: they wait here, and then find it built."""
        lock = self._locks.setdefault(environment_id, asyncio.Lock())
        self._waiting[environment_id] += 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[environment_id] -= 1
            if not self._waiting[environment_id]:
                del self._waiting[environment_id], self._locks[environment_id]

    async def add(self, environment_id: str, build: Build) -> Environment:
        """Returns the environment, built if it is not there. One that fails, or is cancelled, leaves nothing."""
        assert _ID.fullmatch(environment_id), environment_id
        async with self.building(environment_id):
            if (found := self.find(environment_id)) is not None:
                return found
            with self.temporary_folder() as folder:
                environment = folder / "environment"
                await build(environment)
                final = self._folder / environment_id
                await asyncio.to_thread(self._complete, environment, final)
        with self.in_use(environment_id):
            await asyncio.to_thread(self._evict)
        return Environment(environment_id, final)

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """A folder on the store's file system, removed at the end, by the next agent if by nobody else."""
        folder = self._folder / f"{_BUILDING_PREFIX}{secrets.token_hex(8)}"
        own_folder(self._folder, self._os_user, replace=True)
        with acting(self._os_user):
            folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _complete(self, environment: Path, final: Path) -> None:
        with acting(self._os_user):
            record = {"id": final.name, "size_bytes": _size_bytes(environment)}
            (environment / _RECORD_FILE).write_text(json.dumps(record))
            if final.exists():  # without its record: removed by hand in part
                shutil.rmtree(final)
            os.rename(environment, final)

    def acquire(self, environment_id: str) -> None:
        """Marks the environment as in use once more: it stays until it is released as often."""
        self._users[environment_id] += 1
        with contextlib.suppress(FileNotFoundError), acting(self._os_user):
            os.utime(self._folder / environment_id / _RECORD_FILE)

    def release(self, environment_id: str) -> None:
        self._users[environment_id] -= 1
        if self._users[environment_id] <= 0:
            del self._users[environment_id]

    @contextlib.contextmanager
    def in_use(self, environment_id: str) -> Iterator[None]:
        self.acquire(environment_id)
        try:
            yield
        finally:
            self.release(environment_id)

    def remove_leftovers(self) -> list[str]:
        """Removes what a killed agent left half built or half removed; returns what that was. Blocks.

        What still builds there is ended before: it bears the name of its folder as a marker.
        """
        left = [
            entry
            for entry in (os.scandir(self._folder) if self._folder.is_dir() else ())
            if entry.name.startswith((_BUILDING_PREFIX, _REMOVING_PREFIX, _WHEELS_FOLDER))
        ]
        end_processes_now([entry.name for entry in left])
        for entry in left:
            shutil.rmtree(entry.path, ignore_errors=True)
        return [entry.path for entry in left]

    def _evict(self) -> None:
        with acting(self._os_user):
            self._evict_oldest()

    def _evict_oldest(self) -> None:
        stored = []
        for entry in os.scandir(self._folder):
            record = Path(entry.path) / _RECORD_FILE
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                stored.append(
                    (
                        record.stat().st_mtime_ns,
                        int(json.loads(read_regular(record, _MAX_RECORD_BYTES))["size_bytes"]),
                        entry.name,
                    )
                )
        excess = sum(size for _, size, _ in stored) - self._limit_bytes
        for _, size, name in sorted(stored):
            if excess <= 0:
                return
            if self._users[name] <= 0 and not self._waiting[name]:
                removed = self._folder / f"{_REMOVING_PREFIX}{secrets.token_hex(8)}"
                os.rename(self._folder / name, removed)  # gone at once, in whole
                shutil.rmtree(removed, ignore_errors=True)
                excess -= size


def _size_bytes(folder: Path) -> int:
    total, stack = 0, [str(folder)]
    while stack:
        for entry in os.scandir(stack.pop()):
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                total += entry.stat(follow_symlinks=False).st_size
    return total
