"""What a session is given before its first kernel and afterwards, and that it is given back when it is closed."""

from __future__ import annotations

import platform
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.environments.materialising import Materialiser
from nbgpu_agent.environments.session_environments import SessionEnvironments
from nbgpu_agent.environments.store import EnvironmentStore
from nbgpu_agent.environments.uv import Uv
from nbgpu_agent.errors import EnvironmentImpossibleError, InvalidRequestError
from nbgpu_agent.model import KernelSetting
from nbgpu_protocol.snapshot import Distribution, Snapshot, digest_of_bytes
from wheels import make_wheel

SNAPSHOT = Snapshot(
    python_version=platform.python_version(),
    implementation="cpython",
    platform=sys.platform,
    machine=platform.machine(),
    distributions=(Distribution("cloudpickle", "3.1"), Distribution("ipykernel", "7.4")),
)


class FakeSession:
    """Keeps what it is told."""

    id = "s1"
    owner = ""
    os_user = None
    confined = False

    def __init__(self, folder: Path) -> None:
        self.setting = KernelSetting()
        self.python_version = ""
        self._folder = folder

    def side_file(self, name: str) -> None:
        """Nothing is kept."""

    def info(self) -> Any:
        return SimpleNamespace(python_version=self.python_version)

    def make_working_folder(self) -> Path:
        return self._folder

    def update(self, setting: KernelSetting, changed_files: Any = ()) -> None:
        self.setting = setting


class Node:
    def __init__(self, root: Path) -> None:
        for distribution in SNAPSHOT.distributions:
            make_wheel(root / "links", distribution.name, distribution.version)
        variables = {
            "PATH": str(Path(sys.executable).parent),
            "HOME": str(root),
            "UV_CACHE_DIR": str(root / "cache"),
            "UV_FIND_LINKS": str(root / "links"),
            "UV_OFFLINE": "1",
        }
        self.blobs = BlobStore(root / "blobs")
        self.folder = root / "environments"
        self.store = EnvironmentStore(self.folder, limit_bytes=0)
        self.environments = SessionEnvironments(Materialiser(self.store, self.blobs, Uv(variables), None), self.blobs)
        self.session: Any = FakeSession(root / "session")

    async def prepare(self, snapshot: Snapshot) -> str:
        content = snapshot.to_bytes()

        async def chunks() -> AsyncIterator[bytes]:
            yield content

        await self.blobs.put(digest_of_bytes(content), chunks())
        return await self.environments.prepare(self.session, snapshot.digest(), lambda progress: None)


@pytest.mark.asyncio
async def test_an_environment_stays_until_the_session_that_has_it_is_closed(tmp_path: Path) -> None:
    node = Node(tmp_path)
    first = await node.prepare(SNAPSHOT)
    make_wheel(tmp_path / "links", "more", "1.0")
    more = (*SNAPSHOT.distributions, Distribution("more", "1.0"))
    second = await node.prepare(replace(SNAPSHOT, distributions=more))
    assert node.session.setting.environment == str(tmp_path / "environments" / second)
    assert node.store.find(first) is not None  # what was imported from it may need it
    node.environments.forget("s1")
    node.environments.forget("s1")
    third = await node.prepare(replace(SNAPSHOT, distributions=SNAPSHOT.distributions))
    assert third == first
    assert node.store.find(first) is not None


@pytest.mark.asyncio
async def test_a_running_kernel_does_not_change_its_python(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.session.python_version = "3.1.5"
    with pytest.raises(EnvironmentImpossibleError, match=r"runs Python 3\.1\.5"):
        await node.prepare(SNAPSHOT)
    assert node.session.setting == KernelSetting()


@pytest.mark.asyncio
async def test_a_kernel_of_another_python_gets_what_changes_where_any_python_will_do(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.session.python_version = platform.python_version()
    other = replace(SNAPSHOT, python_version="3.99.1")
    with pytest.raises(EnvironmentImpossibleError, match=r"the notebook's by now 3\.99\.1"):
        await node.prepare(other)
    await node.prepare(replace(other, any_python=True))
    python = Path(node.session.setting.python)
    assert python.is_relative_to(tmp_path / "environments")


@pytest.mark.asyncio
async def test_a_session_that_is_closed_while_its_environment_is_built_holds_none(tmp_path: Path) -> None:
    node = Node(tmp_path)
    first = await node.prepare(SNAPSHOT)
    make_wheel(tmp_path / "links", "more", "1.0")
    more = replace(SNAPSHOT, distributions=(*SNAPSHOT.distributions, Distribution("more", "1.0")))
    content = more.to_bytes()

    async def chunks() -> AsyncIterator[bytes]:
        yield content

    await node.blobs.put(digest_of_bytes(content), chunks())
    before = node.session.setting
    with pytest.raises(InvalidRequestError, match="the session was closed"):
        await node.environments.prepare(
            node.session, more.digest(), lambda progress: node.environments.forget(node.session.id)
        )
    assert node.session.setting == before
    make_wheel(tmp_path / "links", "last", "1.0")
    last = await node.prepare(replace(SNAPSHOT, distributions=(*SNAPSHOT.distributions, Distribution("last", "1.0"))))
    # The limit is 0 bytes: whatever nobody holds has gone.
    assert {path.name for path in node.folder.iterdir() if not path.name.startswith(".")} == {last}
    assert last != first
