"""A session's folder as clients look at it: what is listed and read, what is not, and what is remembered of a sync."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.errors import InvalidRequestError, NoSuchSessionError
from nbgpu_agent.workspace.changes import Change
from nbgpu_agent.workspace.session_workspace import SessionWorkspace
from nbgpu_protocol import workspace as protocol
from nbgpu_protocol.workspace import Choice

pytestmark = pytest.mark.asyncio
EVERYTHING = Choice(("",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "session").mkdir()
    (tmp_path / "outside").write_text("secret")
    return tmp_path / "session"


@pytest.fixture
def workspace(folder: Path, tmp_path: Path) -> SessionWorkspace:
    return SessionWorkspace(folder, BlobStore(tmp_path / "blobs"))


async def test_what_is_listed(workspace: SessionWorkspace, folder: Path) -> None:
    for name in ("x", "a/y", ".git/config", "a/__pycache__/z", "venv/pyvenv.cfg", "venv/lib", ".nbgpu/incoming/p"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("a")
    (folder / "leak").symlink_to("../outside")
    (folder / os.fsdecode(b"odd\xff")).write_text("1")
    found = {
        each.path: (each.size_bytes, each.version, each.special) for each in await workspace.list_files(EVERYTHING)
    }
    assert found == {
        "x": (1, "", False),
        "a/y": (3, "", False),
        "pipe": (0, "", True),
        "link": (0, "link:a", False),
        "leak": (0, "link:../outside", False),
    }
    assert [each.path for each in await workspace.list_files(Choice(("a", "x?")))] == ["a/y"]


async def test_what_is_read_is_in_the_folder(workspace: SessionWorkspace, folder: Path) -> None:
    (folder / "x").write_text("0123")
    os.mkfifo(folder / "pipe")
    (folder / "leak").symlink_to("../outside")
    (folder / "out").symlink_to("..")
    assert b"".join([chunk async for chunk in workspace.read("x", 1)]) == b"123"
    refused = ["../outside", "leak", "out/outside", "pipe", "nowhere", "/etc/passwd", ".nbgpu/x", ""]
    for path in refused:
        with pytest.raises(InvalidRequestError):
            [chunk async for chunk in workspace.read(path, 0)]
    inspected = dict([each async for each in workspace.inspect(["x", *refused])])
    assert [path for path, found in inspected.items() if found is not None] == ["x"]


async def test_too_many_files(workspace: SessionWorkspace, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (folder / f"{number}").write_text("1")
    monkeypatch.setattr("nbgpu_agent.workspace.session_folder.MAX_FILES", 3)
    with pytest.raises(InvalidRequestError, match="more than 3 files"):
        await workspace.list_files(EVERYTHING)


async def test_what_a_folder_has_synced_is_its_own(workspace: SessionWorkspace) -> None:
    workspace.note("one", {"a/x": "1", "y": "2", "z": "3"}, ["a", "y"])
    workspace.note("one", {"z": ""}, ())
    assert await workspace.noted("one", EVERYTHING) == {"a/x": "1", "y": "2"}
    assert await workspace.noted("one", Choice(("a",))) == {"a/x": "1"}
    assert workspace.patterns("one", ()) == ("a", "y")
    assert await workspace.noted("two", EVERYTHING) == {}
    assert workspace.patterns("two", ()) == ()


async def test_requests_that_are_none(workspace: SessionWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for patterns in (["../x"], ["/x"], ["a\0"], ["x"] * (protocol.MAX_PATTERNS + 1)):
        with pytest.raises(InvalidRequestError):
            workspace.patterns("one", patterns)
    with pytest.raises(InvalidRequestError):
        workspace.patterns("x" * 1000, ())
    for number in range(99):
        workspace.patterns(f"{number}", ())
    with pytest.raises(InvalidRequestError, match="at most"):
        [workspace.patterns(f"more {number}", ()) for number in range(2)]
    monkeypatch.setattr("nbgpu_agent.workspace.session_workspace.MAX_FILES", 2)
    with pytest.raises(InvalidRequestError, match="more than 2 files"):
        workspace.note("1", {"a": "1", "b": "1", "c": "1"}, ())


async def test_a_client_that_leaves_stops_the_reading(workspace: SessionWorkspace, folder: Path) -> None:
    (folder / "large").touch()
    os.truncate(folder / "large", 1 << 40)  # holes, which take longer to read than a test may
    reading = asyncio.ensure_future(read_to_the_end(workspace))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert [each.path for each in await workspace.list_files(EVERYTHING)] == ["large"]


async def read_to_the_end(workspace: SessionWorkspace) -> None:
    async for _ in workspace.inspect(["large"]):
        raise AssertionError("it was read to its end")


async def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    workspace = SessionWorkspace(tmp_path / "gone", BlobStore(tmp_path / "blobs"))
    with pytest.raises(NoSuchSessionError):
        await workspace.list_files(EVERYTHING)


async def test_a_link_in_the_place_of_the_folder_leads_nowhere(
    workspace: SessionWorkspace, folder: Path, tmp_path: Path
) -> None:
    os.mkdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "x").write_text("secret")
    os.rmdir(folder)
    os.symlink("elsewhere", folder)
    with pytest.raises(NoSuchSessionError, match="folder is gone"):
        await workspace.list_files(EVERYTHING)
    with pytest.raises(InvalidRequestError):
        [chunk async for chunk in workspace.read("x", 0)]
    with pytest.raises(NoSuchSessionError, match="folder is gone"):
        await workspace.apply("one", [Change("y", "", link_target="x"), Change("x", "")])
    assert os.listdir(tmp_path / "elsewhere") == ["x"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", "", ".", "a\0b", ".nbgpu/x", "a" * 256])
async def test_what_is_no_path_is_not_noted(workspace: SessionWorkspace, path: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not noted"):
        workspace.note("one", {"fine": "1", path: "2"}, ())
    with pytest.raises(InvalidRequestError, match="a version of 5001 characters"):
        workspace.note("one", {"fine": "v" * 5001}, ())
    assert await workspace.noted("one", EVERYTHING) == {}


async def test_what_is_noted_is_chosen_beside_the_loop(workspace: SessionWorkspace) -> None:
    workspace.note("one", {f"f{number}": "1" for number in range(1000)}, ())
    threads = set()

    class Watched(Choice):
        def chooses(self, path: str) -> bool:
            threads.add(threading.get_ident())
            return True

    assert len(await workspace.noted("one", Watched(("",)))) == 1000
    assert threading.get_ident() not in threads
