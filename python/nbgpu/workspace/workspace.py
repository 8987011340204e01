"""This notebook's folder in step with the folders of its sessions."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import socket
from collections.abc import Sequence

from nbgpu.client.workspace import WorkspaceClient
from nbgpu.notebook import this_notebook
from nbgpu.session_client import SessionClient
from nbgpu.workspace.local_tree import LocalTree
from nbgpu.workspace.plan import Direction
from nbgpu.workspace.report import SyncReport
from nbgpu.workspace.sync import Sync


class Workspace:
    """The notebook's folder. Its coroutines run on the background loop, and wait for each other."""

    def __init__(self) -> None:
        self.tree = LocalTree(this_notebook().attachment.folder)
        self._lock = asyncio.Lock()

    @property
    def id(self) -> str:
        """Tells this folder from others that sync with the same session, also when the notebook's kernel restarts."""
        return hashlib.sha256(f"{socket.gethostname()}:{self.tree.folder}".encode(errors="replace")).hexdigest()[:32]

    async def sync(
        self, session: SessionClient, paths: Sequence[str], *, direction: Direction, dry_run: bool
    ) -> SyncReport | None:
        """Brings the folder and the session's in step, see `Sync.run`; None where they are the same folder."""
        if is_shared(session):
            return None
        client = WorkspaceClient(session.pool, session.id, self.id)
        async with self._lock:
            return await Sync(self.tree, client, direction).run(paths, dry_run=dry_run)


def is_shared(session: SessionClient) -> bool:
    """Says whether the session works in a folder of this machine, where it finds the notebook's files by itself."""
    if not session.info.working_folder or not this_notebook().works_here(session):
        return False
    folder = this_notebook().attachment.folder
    try:
        return os.path.samefile(session.info.working_folder, folder)
    except OSError:
        return False


@functools.cache
def this_workspace() -> Workspace:
    """Returns the process's one Workspace."""
    return Workspace()
