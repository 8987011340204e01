"""The notebook's files in a session's folder: laid out, changed with the notebook's, and nobody else's touched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.environments.session_files import SessionFiles
from nbgpu_agent.errors import NoSuchBlobError
from nbgpu_protocol.snapshot import LocalFile, Snapshot, SnapshotFormatError, digest_of_bytes, snapshot_from_bytes


async def file_of(blobs: BlobStore, path: str, content: bytes, *, executable: bool = False) -> LocalFile:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    digest = digest_of_bytes(content)
    await blobs.put(digest, chunks())
    return LocalFile(path, digest, len(content), executable)


@pytest.mark.asyncio
async def test_files_are_laid_out_changed_and_removed(tmp_path: Path) -> None:
    blobs, folder = BlobStore(tmp_path / "blobs"), tmp_path / "session"
    files = SessionFiles(folder, blobs)
    one = await file_of(blobs, "workspace/one.py", b"1")
    two = await file_of(blobs, "workspace/pkg/two.py", b"2", executable=True)
    tool = await file_of(blobs, "editables/tool/tool.py", b"3")
    assert files.lay_out([one, two, tool]) == []
    assert (folder / "one.py").read_bytes() == b"1"
    assert (folder / "pkg/two.py").stat().st_mode & 0o111
    assert (folder / ".nbgpu/editables/tool/tool.py").is_file()
    (folder / "result.txt").write_text("of a cell")
    changed = await file_of(blobs, "workspace/one.py", b"one")
    assert set(files.lay_out([changed, tool])) == {str(folder / "one.py"), str(folder / "pkg/two.py")}
    assert (folder / "one.py").read_bytes() == b"one"
    assert not (folder / "pkg/two.py").exists()
    assert (folder / "result.txt").exists()
    assert files.lay_out([changed, tool]) == []


@pytest.mark.asyncio
async def test_what_a_session_writes_into_a_file_stays_its_own(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    file = await file_of(blobs, "workspace/one.py", b"1")
    first, second = SessionFiles(tmp_path / "a", blobs), SessionFiles(tmp_path / "b", blobs)
    first.lay_out([file])
    (tmp_path / "a/one.py").write_bytes(b"spoiled")
    second.lay_out([file])
    assert (tmp_path / "b/one.py").read_bytes() == b"1"


def test_a_file_that_was_not_sent(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path / "session", BlobStore(tmp_path / "blobs"))
    with pytest.raises(NoSuchBlobError):
        files.lay_out([LocalFile("workspace/one.py", digest_of_bytes(b"1"), 1)])


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "workspace/../x", "workspace", "other/x", "workspace//x", "workspace/./x", "workspace/a\0"]
)
def test_a_snapshot_names_no_path_outside_of_its_folders(path: str) -> None:
    snapshot = Snapshot("3.11.7", "cpython", "linux", "x86_64", files=(LocalFile(path, digest_of_bytes(b""), 0),))
    with pytest.raises(SnapshotFormatError):
        snapshot_from_bytes(snapshot.to_bytes())
