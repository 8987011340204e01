"""Takes over the sessions of an agent that was killed, or that left them: what it wrote down, and their kernels.

What cannot be taken over is ended, and whoever asks for it is told why.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from nbgpu_agent.journal_store import JournalStore, Stored
from nbgpu_agent.kernel_records import KernelRecord, read_kernel_record
from nbgpu_agent.model import Accelerator, Lease
from nbgpu_agent.session_state import SessionState, state_from_json

if TYPE_CHECKING:
    from nbgpu_agent.kernel_launcher import KernelLauncher
    from nbgpu_agent.registry import SessionRegistry
    from nbgpu_agent.sessions import Session

logger = logging.getLogger(__name__)

PATIENCE_S = 3.0
"""How long the agent waits, before it serves, for what kernels said meanwhile; one that is stuck comes later."""


@dataclass(frozen=True)
class LeftSession:
    """A session as an earlier agent left it."""

    state: SessionState
    stored: Stored
    store: JournalStore
    kernel: KernelRecord | None
    """None: it had none, or nothing of it is left."""

    @property
    def folders(self) -> set[str]:
        """Names, in the folder of kernels, of what is the session's."""
        return {f"session-{self.state.id}", *([self.kernel.id] if self.kernel is not None else ())}


@dataclass(frozen=True)
class Leftovers:
    """What an earlier agent left in a folder."""

    sessions: Sequence[LeftSession]
    lost: dict[str, str]
    """Why each of the others could not be taken over, by their ids."""

    @property
    def folders(self) -> set[str]:
        return {name for each in self.sessions for name in each.folders}


RestoreSession: TypeAlias = "Callable[[LeftSession, Lease, Callable[[], None]], Session]"
"""Makes a session as it was left, from its lease, and what to call when it changes."""


def find_sessions(sessions_folder: Path, kernels_folder: Path) -> Leftovers:
    """Reads what an earlier agent wrote down. What cannot be used is removed. Blocks."""
    found, lost = [], {}
    for folder in sorted(sessions_folder.iterdir()) if sessions_folder.is_dir() else ():
        store = JournalStore(folder)
        stored = store.load()
        if stored.problem:
            logger.warning("session %s: %s; it was moved aside", folder.name, stored.problem)
        try:
            content = stored.state or store.read_spare_state()
            state = state_from_json(content)
            if state.id != folder.name:
                raise ValueError(f"it is of session {state.id}")
            if not state.settled and not state.request.notebook_id:
                raise ValueError("nobody had it yet")
        except (OSError, ValueError, KeyError, TypeError) as error:
            lost[folder.name] = f"what was written down of it cannot be used ({error})"
            logger.warning("session %s is not taken over: %s", folder.name, lost[folder.name])
            store.remove()
            continue
        kernel = read_kernel_record(kernels_folder, state.kernel_id) if state.kernel_id else None
        found.append(LeftSession(state, stored, store, kernel if kernel is not None and kernel.pid else None))
    return Leftovers(found, lost)


async def adopt_sessions(
    leftovers: Leftovers,
    registry: SessionRegistry,
    launcher: KernelLauncher,
    accelerators: Sequence[Accelerator],
    restore: RestoreSession,
) -> None:
    """Takes over all sessions that can be, and ends the others. Before the agent serves."""
    registry.note_lost(leftovers.lost)
    await asyncio.gather(*(_adopt(each, registry, launcher, accelerators, restore) for each in leftovers.sessions))


async def _adopt(
    left: LeftSession,
    registry: SessionRegistry,
    launcher: KernelLauncher,
    accelerators: Iterable[Accelerator],
    restore: RestoreSession,
) -> None:
    state = left.state
    kernel = None
    try:
        if left.kernel is not None:
            kernel = launcher.adopt(left.kernel, state.setting.python)
            launcher.check_os_user(kernel, state.request.owner)
        lease = state.lease.lease(tuple(accelerators)) if state.lease is not None else None
        if lease is None:
            raise LookupError("not all of its accelerators are here any more")
        session = restore(left, lease, registry.changes.notify)
        registry.adopt(session, lease)
        await session.resume(kernel, had_kernel=bool(state.kernel_id), patience_s=PATIENCE_S)
    except Exception as error:
        logger.warning("session %s is not taken over", state.id, exc_info=error)
        registry.note_lost({state.id: f"it could not be taken over ({error})"}, state.request.owner)
        if kernel is not None:
            await kernel.end(grace_s=0.0)
        await asyncio.to_thread(left.store.remove)
        launcher.remove_folder(state.id)
        return
    logger.info("session %s is taken over%s", state.id, "" if kernel is None else f", with kernel {kernel.id}")


def remove_sessions(sessions_folder: Path, spared: Iterable[str] = ()) -> None:
    """Removes what is written down of all sessions but these."""
    kept = set(spared)
    for folder in sessions_folder.iterdir() if sessions_folder.is_dir() else ():
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)
