"""Changes of a session's files: whole or not at all, only where nothing else is, and never outside of the folder."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.errors import DiskFullError, InvalidRequestError, NoSuchBlobError
from nbgpu_agent.workspace.changes import Change, Changes, Outcome, Part, Result
from nbgpu_agent.workspace.session_folder import SessionFolder
from nbgpu_protocol import file_versions
from nbgpu_protocol.file_versions import FileVersions, version_of_file
from nbgpu_protocol.workspace import version_of_link

PIECE_BYTES = 16
TIME_NS = 1_600_000_000_000_000_000


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Place:
    """A session's folder, what is outside of it, and a node's blobs."""

    def __init__(self, root: Path) -> None:
        self.folder, self.outside = root / "session", root / "outside"
        self.folder.mkdir()
        self.outside.mkdir()
        self.blobs = BlobStore(root / "blobs")
        self.changes = Changes(SessionFolder(self.folder), FileVersions(), self.blobs)

    async def part(self, content: bytes, *, executable: bool = False, sent: bool = True) -> Part:
        pieces = [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]
        for piece in pieces if sent else ():
            await self.blobs.put(digest_of(piece), _one(piece))
        digests = tuple(map(digest_of, pieces))
        return Part(version_of_file(digests, executable=executable), len(content), 0, digests, TIME_NS)

    async def write(self, path: str, content: bytes, *, over: bytes | None = None, **options: bool) -> Outcome:
        keep = options.pop("keep", False)
        expected = (await self.part(over)).version if over is not None else ""
        [outcome] = self.changes.apply([Change(path, expected, await self.part(content, **options), keep_present=keep)])
        return outcome

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        }


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(file_versions, "PIECE_BYTES", PIECE_BYTES)
    return Place(tmp_path)


@pytest.mark.asyncio
async def test_a_file_has_its_content_time_and_permission(place: Place) -> None:
    outcome = await place.write("data/deep/run.sh", b"#!/bin/sh\nthis is more than one piece\n", executable=True)
    assert outcome.result is Result.DONE
    written = place.folder / "data/deep/run.sh"
    assert written.read_bytes().startswith(b"#!/bin/sh\nthis is more")
    assert written.stat().st_mode & 0o777 == 0o755
    assert written.stat().st_mtime_ns == TIME_NS
    await place.write("empty", b"")
    assert (place.folder / "empty").read_bytes() == b""
    assert place.files().keys() == {"data/deep/run.sh", "empty"}  # nothing is left of what was on its way


@pytest.mark.asyncio
async def test_what_was_not_expected_stays(place: Place) -> None:
    (place.folder / "x").write_bytes(b"a cell's")
    for over in (None, b"something else"):
        assert (await place.write("x", b"new", over=over)).result is Result.CHANGED
    part = await place.part(b"gone")
    [outcome] = place.changes.apply([Change("x", part.version)])
    assert outcome.result is Result.CHANGED
    assert place.files() == {"x": b"a cell's"}
    assert (await place.write("x", b"new", over=b"a cell's")).result is Result.DONE
    assert (await place.write("x", b"new", over=b"a cell's")).result is Result.DONE  # once more, after a cut
    assert place.files() == {"x": b"new"}


@pytest.mark.asyncio
async def test_what_a_cell_writes_while_a_file_is_put_together_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = await place.part(b"new")
    copy = shutil.copyfileobj

    def copy_late(*arguments: Any) -> None:
        (place.folder / "x").write_bytes(b"a cell's")
        copy(*arguments)

    monkeypatch.setattr("nbgpu_agent.workspace.changes.shutil.copyfileobj", copy_late)
    assert place.changes.apply([Change("x", "", part)])[0].result is Result.CHANGED
    assert place.files() == {"x": b"a cell's"}


@pytest.mark.asyncio
async def test_what_is_kept_has_a_name_of_its_own(place: Place) -> None:
    for content in (b"first", b"second"):
        (place.folder / "x.csv").write_bytes(content)
        outcome = await place.write("x.csv", b"the notebook's", over=content, keep=True)
        assert outcome.kept_path.startswith("x.session-")
        assert (place.folder / outcome.kept_path).read_bytes() == content
    assert len(place.files()) == 3
    longest = "ü" * 120 + ".csv"
    (place.folder / longest).write_bytes(b"long")
    outcome = await place.write(longest, b"new", over=b"long", keep=True)
    assert (place.folder / outcome.kept_path).read_bytes() == b"long"


@pytest.mark.asyncio
async def test_a_removal_and_a_link(place: Place) -> None:
    await place.write("a/x", b"1")
    part = await place.part(b"1")
    [removed, again] = place.changes.apply([Change("a/x", part.version), Change("a/x", part.version)])
    assert (removed.result, again.result) == (Result.DONE, Result.DONE)
    assert place.files() == {}
    await place.write("a/y", b"2")
    [linked] = place.changes.apply([Change("a/latest", "", link_target="y")])
    assert linked.result is Result.DONE
    assert (place.folder / "a/latest").read_bytes() == b"2"
    assert place.changes.present_version("a/latest") == version_of_link("y")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/x", "", ".", "a//x", "a/.", "x\0", ".nbgpu/x", ".git/x", "a/" * 1600 + "x", "x" * 300],
)
async def test_a_path_that_is_none_is_refused(place: Place, path: str) -> None:
    assert (await place.write(path, b"evil")).result is Result.REFUSED
    assert place.files() == {}


@pytest.mark.asyncio
async def test_no_link_leads_out(place: Place) -> None:
    (place.folder / "out").symlink_to(place.outside)
    (place.folder / "deep").mkdir()
    (place.folder / "deep/out").symlink_to("../../outside")
    (place.outside / "x").write_bytes(b"untouched")
    for path in ("out/x", "out/new/x", "deep/out/x"):
        outcome = await place.write(path, b"evil")
        assert outcome.result is Result.REFUSED, outcome
        assert "no folder" in outcome.why
        part = await place.part(b"untouched")
        assert place.changes.apply([Change(path, part.version)])[0].result is Result.REFUSED
    assert {path.name: path.read_bytes() for path in place.outside.iterdir()} == {"x": b"untouched"}
    # A link that is in a file's place is replaced, and what it leads to is not.
    (place.folder / "file").symlink_to(place.outside / "x")
    [outcome] = place.changes.apply(
        [Change("file", version_of_link(str(place.outside / "x")), await place.part(b"new"))]
    )
    assert outcome.result is Result.DONE
    assert (place.outside / "x").read_bytes() == b"untouched"


@pytest.mark.asyncio
async def test_nothing_is_staged_outside(place: Place) -> None:
    (place.folder / ".nbgpu").symlink_to(place.outside)
    assert (await place.write("x", b"evil")).result is Result.REFUSED
    assert list(place.outside.iterdir()) == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "a/../../x", "a/../x", "", ".git/x"])
def test_a_link_that_could_lead_out_is_not_made(place: Place, target: str) -> None:
    [outcome] = place.changes.apply([Change("link", "", link_target=target)])
    assert outcome.result is Result.REFUSED
    assert not (place.folder / "link").is_symlink()


@pytest.mark.asyncio
async def test_folders_and_special_files_are_not_changed(place: Place) -> None:
    (place.folder / "folder").mkdir()
    os.mkfifo(place.folder / "pipe")
    assert "folder" in (await place.write("folder", b"x")).why
    assert (await place.write("pipe", b"x")).result is Result.REFUSED  # and does not wait for a writer
    await place.write("file", b"x")
    assert (await place.write("file/below", b"x")).result is Result.REFUSED


@pytest.mark.asyncio
async def test_a_large_file_comes_in_parts_and_goes_on_after_a_cut(place: Place) -> None:
    content = os.urandom(5 * PIECE_BYTES + 3)
    part = await place.part(content)
    pieces = part.piece_digests

    def send(first: int, last: int) -> Outcome:
        some = replace(part, offset_bytes=first * PIECE_BYTES, piece_digests=pieces[first:last])
        return place.changes.apply([Change("large", "", some)])[0]

    assert send(0, 0) == Outcome("large", Result.STAGED, 0)
    assert send(0, 2) == Outcome("large", Result.STAGED, 2 * PIECE_BYTES)
    assert send(0, 0) == Outcome("large", Result.STAGED, 2 * PIECE_BYTES)  # what a client asks that comes back
    assert send(4, 6) == Outcome("large", Result.STAGED, 2 * PIECE_BYTES)  # a gap
    assert send(0, 1) == Outcome("large", Result.STAGED, 2 * PIECE_BYTES)  # another client, behind
    [partial] = (place.folder / ".nbgpu/incoming").iterdir()
    with partial.open("ab") as file:
        file.write(b"cut in the middle")  # more than a piece, and then a part of one
    partial.write_bytes(partial.read_bytes()[: 2 * PIECE_BYTES + 5])
    assert send(2, 4).staged_bytes == 4 * PIECE_BYTES
    assert not (place.folder / "large").exists()
    assert send(4, 6).result is Result.DONE
    assert place.files() == {"large": content}


@pytest.mark.asyncio
async def test_a_part_for_another_version_removes_what_is_staged(place: Place) -> None:
    for content in (os.urandom(40), os.urandom(50)):
        part = await place.part(content)
        place.changes.apply([Change("large", "", replace(part, piece_digests=part.piece_digests[:1]))])
    assert len(list((place.folder / ".nbgpu/incoming").iterdir())) == 1


@pytest.mark.asyncio
async def test_without_a_piece_nothing_is_changed(place: Place) -> None:
    there, missing = await place.part(b"there"), await place.part(b"not sent", sent=False)
    with pytest.raises(NoSuchBlobError):
        place.changes.apply([Change("a", "", there), Change("b", "", missing)])
    assert place.files() == {}


@pytest.mark.asyncio
async def test_more_pieces_than_bytes(place: Place) -> None:
    part = await place.part(b"some content")
    with pytest.raises(InvalidRequestError):
        place.changes.apply([Change("a", "", replace(part, size_bytes=3))])
    assert place.files() == {}


@pytest.mark.asyncio
async def test_a_full_disk_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    part = await place.part(os.urandom(40))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nbgpu_agent.workspace.changes.shutil.copyfileobj", fail)
    with pytest.raises(DiskFullError):
        place.changes.apply([Change("a", "", part)])
    with pytest.raises(DiskFullError):
        place.changes.apply([Change("a", "", replace(part, piece_digests=part.piece_digests[:1]))])
    assert place.files() == {}
