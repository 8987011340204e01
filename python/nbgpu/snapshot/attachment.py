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
from nbgpu_protocol.snapshot import digest_of_bytes
from nbgpu_protocol.v1 import environment_pb2

SWITCH_VARIABLE = "NBGPU_SNAPSHOT"
"""Set to 0, sessions elsewhere run in their agent's own environment."""
CAPABILITY = "environments"


@dataclass
class _Sent:
    snapshot_digest: str = ""
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
        async with self._lock:
            captured: Captured = await asyncio.to_thread(self._capture.capture, cell=cell, variables=self._names)
        for note in captured.notes:
            if note not in self._told:
                self._told.add(note)
                print(f"nbgpu: {note}", file=sys.stderr, flush=True)
        content = replace(captured.snapshot, any_python=self.takes_any_python).to_bytes()
        digest = digest_of_bytes(content)
        if any(sent.snapshot_digest == digest for sent in self._sent.values()):
            return digest
        await environments.send_missing(pool, {**captured.contents, digest: content})
        return digest

    def note_opened(self, session_id: str, snapshot_digest: str) -> None:
        """Notes that a session was opened with the snapshot."""
        self._sent[session_id] = _Sent(snapshot_digest)

    async def bring_up_to_date(
        self,
        pool: Pool,
        session_id: str,
        *,
        cell: str = "",
        with_snapshot: bool,
        on_update: Callable[[str], None] | None = None,
    ) -> None:
        """Gives the session what has changed here since it was last told, before a cell runs in it."""
        sent = self._sent.setdefault(session_id, _Sent())
        digest = await self.snapshot_for(pool, cell) if with_snapshot else ""
        variables = {name: os.environ[name] for name in self._names if name in os.environ} | self._secrets
        if digest == sent.snapshot_digest:
            digest = ""
        variables = {name: value for name, value in variables.items() if sent.variables.get(name) != value}
        if not digest and not variables:
            return
        async for update in environments.update_session(pool, session_id, digest, variables):
            if on_update is not None and not update.environment_id:
                on_update(progress_in_words(update))
        sent.snapshot_digest = digest or sent.snapshot_digest
        sent.variables.update(variables)

    def forget(self, session_id: str) -> None:
        self._sent.pop(session_id, None)


def is_wanted() -> bool:
    """Says whether sessions elsewhere are to have the notebook's environment."""
    return os.environ.get(SWITCH_VARIABLE, "1").lower() not in ("0", "no", "off", "false")


def progress_in_words(update: environment_pb2.MaterialiseUpdate) -> str:
    if not update.total:
        return update.current or "Building the environment"
    return f"Installing {update.done} of {update.total}" + (f": {update.current}" if update.current else "")
