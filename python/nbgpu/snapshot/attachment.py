"""Keeps sessions in step with the notebook: its environment, its local files, and the variables that it names."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from nbgpu import errors
from nbgpu.client import environments
from nbgpu.client.pool import Pool
from nbgpu.snapshot.capture import Capture, Captured
from nbgpu.snapshot.difference import Difference, compare
from nbgpu_protocol.snapshot import Snapshot, digest_of_bytes
from nbgpu_protocol.v1 import environment_pb2

SWITCH_VARIABLE = "NBGPU_SNAPSHOT"
"""Set to 0, sessions elsewhere run in their agent's own environment."""
CAPABILITY = "environments"
_REMEMBERED = 4


@dataclass
class _Sent:
    snapshot_digest: str = ""
    snapshot: Snapshot | None = None
    variables: dict[str, str] = field(default_factory=dict)


class Attachment:
    """What this notebook's sessions are given. Its coroutines run on the background loop."""

    def __init__(self) -> None:
        self._capture = Capture()
        self._lock = asyncio.Lock()
        self._names: set[str] = set()
        self._secrets: dict[str, str] = {}
        self._sent: dict[str, _Sent] = {}
        self._told: set[str] = set()
        self._untold: list[str] = []
        self._recent: dict[str, Snapshot] = {}
        """Snapshots by digest, of which a session may be told that it was opened with them."""
        self.takes_any_python = False
        """Whether sessions may run another minor version of Python, where a node does not have this one."""

    @property
    def folder(self) -> Path:
        """The notebook's."""
        return self._capture.folder

    @property
    def variable_names(self) -> list[str]:
        return sorted(self._names - self._secrets.keys())

    @property
    def secret_names(self) -> list[str]:
        return sorted(self._secrets)

    def add_variables(self, names: list[str]) -> None:
        """Has sessions get these environment variables, with the value that each has here before a cell.

        Raises:
            CommandError: One is not set.
        """
        for name in names:
            if name not in os.environ:
                raise errors.CommandError(
                    f"the environment variable {name} is not set here", f'os.environ["{name}"] = "…" sets it'
                )
        self._names.update(names)

    def add_secret(self, name: str, value: str) -> None:
        """Has sessions get an environment variable that is written nowhere."""
        self._secrets[name] = value

    async def snapshot_for(self, pool: Pool, cell: str = "") -> str:
        """Returns the digest of the notebook's snapshot as it is now, which the node has by then.

        Raises:
            LocalFilesTooLargeError, TooManyLocalFilesError, LocalDistributionError: As `Capture.capture`.
        """
        captured = await self._captured(cell)
        while self._untold:
            note = self._untold.pop(0)
            if note not in self._told:
                self._told.add(note)
                print(f"nbgpu: {note}", file=sys.stderr, flush=True)
        snapshot = replace(captured.snapshot, any_python=self.takes_any_python)
        content = snapshot.to_bytes()
        digest = digest_of_bytes(content)
        self._remember(digest, snapshot)
        if any(sent.snapshot_digest == digest for sent in self._sent.values()):
            return digest
        await environments.send_missing(pool, {**captured.contents, digest: content})
        return digest

    async def _captured(self, cell: str = "") -> Captured:
        async with self._lock:
            captured: Captured = await asyncio.to_thread(self._capture.capture, cell=cell, variables=self._names)
        self._untold += captured.notes
        return captured

    def _remember(self, digest: str, snapshot: Snapshot) -> None:
        self._recent.pop(digest, None)
        self._recent[digest] = snapshot
        while len(self._recent) > _REMEMBERED:
            del self._recent[next(iter(self._recent))]

    def note_opened(self, session_id: str, snapshot_digest: str) -> None:
        """Notes that a session was opened with the snapshot."""
        self._sent[session_id] = _Sent(snapshot_digest, self._recent.get(snapshot_digest))

    async def difference(self, session_id: str, *, with_snapshot: bool) -> Difference | None:
        """Returns what the session would be given before a cell; None where that is not known. Sends nothing.

        Raises:
            LocalFilesTooLargeError, TooManyLocalFilesError, LocalDistributionError: As `Capture.capture`.
        """
        sent = self._sent.get(session_id)
        if sent is None:
            return None
        current = self._variables()
        variables = tuple(sorted(name for name, value in current.items() if sent.variables.get(name) != value))
        if not with_snapshot:
            return Difference(variables=variables)
        if sent.snapshot is None:
            return None
        captured = await self._captured()
        return replace(compare(sent.snapshot, captured.snapshot), variables=variables)

    def _variables(self) -> dict[str, str]:
        return {name: os.environ[name] for name in self._names if name in os.environ} | self._secrets

    async def bring_up_to_date(
        self,
        pool: Pool,
        session_id: str,
        *,
        cell: str = "",
        with_snapshot: bool,
        on_update: Callable[[str], None] | None = None,
    ) -> bool:
        """Gives the session what has changed here since it was last told, before a cell runs in it.

        Returns:
            Whether something had.
        """
        sent = self._sent.setdefault(session_id, _Sent())
        digest = await self.snapshot_for(pool, cell) if with_snapshot else ""
        snapshot = self._recent.get(digest)
        if digest == sent.snapshot_digest:
            digest = ""
        variables = {name: value for name, value in self._variables().items() if sent.variables.get(name) != value}
        if not digest and not variables:
            return False
        async for update in environments.update_session(pool, session_id, digest, variables):
            if on_update is not None and not update.environment_id:
                on_update(progress_in_words(update))
        if digest:
            sent.snapshot_digest, sent.snapshot = digest, snapshot
        sent.variables.update(variables)
        return True

    def forget(self, session_id: str) -> None:
        self._sent.pop(session_id, None)


def is_wanted() -> bool:
    """Says whether sessions elsewhere are to have the notebook's environment."""
    return os.environ.get(SWITCH_VARIABLE, "1").lower() not in ("0", "no", "off", "false")


def progress_in_words(update: environment_pb2.MaterialiseUpdate) -> str:
    if not update.total:
        return update.current or "Building the environment"
    return f"Installing {update.done} of {update.total}" + (f": {update.current}" if update.current else "")
