"""Watches what sessions take of the node: memory of their processes, and disk of their folders.

Watching, rather than limits of the operating system's: RLIMIT_AS counts the address space, of which CUDA reserves
terabytes, RLIMIT_DATA is of each process alone, and both end in a MemoryError anywhere; and without root or delegation
there is no cgroup. A session that takes more in a second than the node has is ended by the system, as without a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from nbgpu_agent.isolation.os_user import OsUser, acting
from nbgpu_agent.model import Phase
from nbgpu_agent.registry import SessionRegistry
from nbgpu_agent.sessions import Session

logger = logging.getLogger(__name__)

WARN_SHARE = 0.9
END_SHARE = 1.1
"""Of the disk: a cell that writes on after its interrupt is ended with its kernel."""
_GB = 10**9
_DISK_INTERVAL_S = 5.0
_PRECISE_SHARE = 0.8
"""From this part of the limit on, shared pages are counted once: that costs milliseconds where the sum costs none."""


@dataclass(frozen=True)
class HostLimits:
    """What each session may take of the node. None: no bound."""

    memory_bytes: int | None = None
    disk_bytes: int | None = None
    """Of its own folder and its temporary files."""


class Verdict(enum.Enum):
    FINE = "fine"
    NEAR = "near"
    OVER = "over"
    FAR_OVER = "far over"


def judge(used_bytes: int, limit_bytes: int) -> Verdict:
    """Says how a session stands with a limit."""
    if used_bytes > limit_bytes * END_SHARE:
        return Verdict.FAR_OVER
    if used_bytes > limit_bytes:
        return Verdict.OVER
    return Verdict.NEAR if used_bytes > limit_bytes * WARN_SHARE else Verdict.FINE


def memory_of(processes: Iterable[psutil.Process], limit_bytes: int, os_user: OsUser | None = None) -> int:
    """Returns what processes hold in the node's memory. What they share counts once, where it matters.

    Args:
        os_user: As whom they run, which in a container root may have to be to look at them; None: as the agent.
    """
    living = []
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
            living.append(process)
    if total < limit_bytes * _PRECISE_SHARE:
        return total
    total = 0
    for process in living:
        with contextlib.suppress(psutil.Error), acting(os_user):
            info = process.memory_full_info()
            total += getattr(info, "pss", info.uss)
    return total


def disk_of(folders: Iterable[Path], os_user: OsUser | None = None) -> int:
    """Returns what folders take on the disk. Links are not followed, and what goes away meanwhile is passed over.

    Args:
        os_user: Whose they are, with whose rights they are looked at; None: the agent's.
    """
    with acting(os_user):
        return _disk_of(folders)


def _disk_of(folders: Iterable[Path]) -> int:
    total = 0
    waiting = [str(folder) for folder in folders]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    total += getattr(entry.stat(follow_symlinks=False), "st_blocks", 0) * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return total


@dataclass
class _Told:
    memory: Verdict = Verdict.FINE
    disk: Verdict = Verdict.FINE


class HostKeeper:
    """Holds sessions to what they may take. For one event loop; it looks on a thread of its own.

    Args:
        registry: Of the sessions.
        limits: Of each session.
    """

    def __init__(self, registry: SessionRegistry, limits: HostLimits) -> None:
        self._registry = registry
        self._limits = limits
        self._thread = ThreadPoolExecutor(1, "host limits")
        self._told: dict[str, _Told] = {}
        self._looking: asyncio.Task[None] | None = None
        self._disk_due_s = 0.0

    def look(self) -> None:
        """Begins to look, unless it still does; to be called about once a second."""
        bounded = self._limits.memory_bytes is not None or self._limits.disk_bytes is not None
        if bounded and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self.look_once(), name="host limits")

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def look_once(self) -> None:
        """Looks at all sessions, and does what is due."""
        loop = asyncio.get_running_loop()
        look_at_disk = loop.time() >= self._disk_due_s
        if look_at_disk:
            self._disk_due_s = loop.time() + _DISK_INTERVAL_S
        sessions = [each for each in self._registry.sessions() if each.info().phase is Phase.READY]
        self._told = {each.id: self._told.get(each.id, _Told()) for each in sessions}
        for session in sessions:
            try:
                if self._limits.memory_bytes is not None:
                    await self._look_at_memory(session, self._limits.memory_bytes)
                if self._limits.disk_bytes is not None and look_at_disk:
                    await self._look_at_disk(session, self._limits.disk_bytes)
            except Exception:
                logger.exception("what session %s takes of the node is not known", session.id)

    async def _look_at_memory(self, session: Session, limit: int) -> None:
        used = await self._in_thread(lambda: memory_of(session.processes(), limit, session.os_user))
        verdict = judge(used, limit)
        told = self._told[session.id]
        if verdict in (Verdict.OVER, Verdict.FAR_OVER):
            logger.info("the kernel of session %s is ended: %d bytes of memory", session.id, used)
            await session.kernels.end(f"at its memory limit of {gb_in_words(limit)}, as it used {gb_in_words(used)}")
        elif verdict is Verdict.NEAR and told.memory is not Verdict.NEAR:
            session.tell(
                f"this session uses {gb_in_words(used)} of its {gb_in_words(limit)} of memory, beyond which its kernel"
                " is ended"
            )
        told.memory = verdict

    async def _look_at_disk(self, session: Session, limit: int) -> None:
        folders: Sequence[Path] = session.kernels.folders()
        used = await self._in_thread(lambda: disk_of(folders, session.os_user))
        verdict = judge(used, limit)
        told = self._told[session.id]
        said = f"this session's files take {gb_in_words(used)} of the {gb_in_words(limit)} that they may"
        if verdict is Verdict.FAR_OVER:
            logger.info("the kernel of session %s is ended: %d bytes of disk", session.id, used)
            await session.kernels.end(
                f"at its disk limit of {gb_in_words(limit)}, as its files took {gb_in_words(used)}"
            )
        elif verdict is Verdict.OVER and told.disk is not Verdict.OVER:
            session.tell(f"{said}: the cell is interrupted; remove some, or the kernel is ended at 110 %")
            await session.interrupt("", escalate=False)
        elif verdict is Verdict.NEAR and told.disk is Verdict.FINE:
            session.tell(said)
        told.disk = verdict

    async def _in_thread(self, work: Callable[[], int]) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def gb_in_words(size_bytes: int) -> str:
    """Returns "64 GB", "1.5 GB" or "200 MB"."""
    if size_bytes < _GB:
        return f"{size_bytes / 10**6:.0f} MB"
    return f"{round(size_bytes / _GB, 1):g} GB"
