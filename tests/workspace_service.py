"""Two folders, the notebook's and a session's, with a Workspace service in the process between them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import grpc.aio

from as_owner import AsOwner
from fakes.link import Link, link_to
from nbgpu.client.pool import Pool
from nbgpu.client.workspace import WorkspaceClient
from nbgpu.workspace.local_tree import LocalTree
from nbgpu.workspace.plan import Direction
from nbgpu.workspace.report import SyncReport
from nbgpu.workspace.sync import Sync
from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.ends import RecentEnds
from nbgpu_agent.errors import NoSuchSessionError
from nbgpu_agent.model import SessionRequest
from nbgpu_agent.service.session import add_session_service
from nbgpu_agent.service.workspace import add_workspace_service


@dataclass(eq=False)
class FakeSession:
    """As much of a session as files need."""

    folder: Path
    request: SessionRequest = field(default_factory=lambda: SessionRequest(spec=None))
    os_user: None = None

    def make_working_folder(self) -> Path:
        return self.folder

    def info(self) -> FakeSession:
        return self

    def side_file(self, name: str) -> Path | None:
        return None


class FakeRegistry:
    def __init__(self) -> None:
        self.sessions: dict[str, FakeSession] = {}
        self.ends = RecentEnds()

    def get(self, session_id: str) -> FakeSession:
        if session_id not in self.sessions:
            raise NoSuchSessionError(f"no session {session_id!r} here")
        return self.sessions[session_id]


@dataclass
class TwoFolders:
    here: Path
    there: Path
    tree: LocalTree
    pool: Pool
    registry: FakeRegistry
    link: Link

    def client(self, workspace_id: str = "one") -> WorkspaceClient:
        return WorkspaceClient(self.pool, "s", workspace_id)

    async def sync(
        self,
        *paths: str,
        only: Literal["to", "from"] | None = None,
        dry_run: bool = False,
        tree: LocalTree | None = None,
    ) -> SyncReport:
        sync = Sync(tree or self.tree, self.client(), Direction(only or "both"))
        return await sync.run(paths, dry_run=dry_run)


@contextlib.asynccontextmanager
async def two_folders(root: Path, **store: Any) -> AsyncIterator[TwoFolders]:
    """Serves the session's folder on loopback, over a link that a test can cut."""
    here, there = root / "here", root / "there"
    here.mkdir()
    there.mkdir()
    registry = FakeRegistry()
    registry.sessions["s"] = FakeSession(there)
    blobs = BlobStore(root / "blobs", **store)
    server = grpc.aio.server(interceptors=[AsOwner()], options=[("grpc.so_reuseport", 0)])
    add_session_service(server, registry, blobs)  # type: ignore[arg-type]
    add_workspace_service(server, registry, blobs)  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with link_to(port) as link, Pool(link.target, "token") as pool:
            yield TwoFolders(here, there, LocalTree(here), pool, registry, link)
    finally:
        await server.stop(0)


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder, without what is on its way."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and ".nbgpu" not in path.parts
    }


def write(folder: Path, **files: str) -> None:
    """Writes files; `__` in a name stands for `/`, and a `_` after it for `.`."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
