"""Both folders brought in step, over a real connection: both ways, what is left out, and what goes wrong."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from nbgpu import errors
from nbgpu.client.pool import Pool
from nbgpu.workspace.errors import LocalDiskError, NoSuchPathError, OutsidePathError, UnfitPathError
from nbgpu.workspace.local_tree import LocalTree
from nbgpu_agent.model import SessionRequest
from nbgpu_agent.service.workspace import WorkspaceService
from nbgpu_protocol import file_versions
from nbgpu_protocol.v1 import workspace_pb2
from workspace_service import FakeSession, contents, two_folders, write

pytestmark = pytest.mark.asyncio
MIB = 1 << 20
TIME_NS = 1_600_000_000_000_000_000


async def test_a_folder_goes_there_with_its_permissions_and_times(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, data__x_csv="1,2", data__deep__y="y", other="not chosen", data__empty="")
        (folders.here / "data/süß\nname").write_text("odd")
        (folders.here / "data/x.csv").chmod(0o755)
        os.utime(folders.here / "data/x.csv", ns=(TIME_NS, TIME_NS))
        report = await folders.sync("data")
        assert str(report) == "sent 5 files, 7 B".replace("5", "4")
        assert contents(folders.there) == {
            "data/x.csv": b"1,2",
            "data/deep/y": b"y",
            "data/empty": b"",
            "data/süß\nname": b"odd",
        }
        status = (folders.there / "data/x.csv").stat()
        assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o755, TIME_NS)
        assert (folders.there / "data/deep/y").stat().st_mode & 0o111 == 0
        sent = folders.link.bytes_to_agent
        assert str(await folders.sync()) == "4 files unchanged"
        assert folders.link.bytes_to_agent - sent < 10_000


async def test_each_side_gets_what_changed_on_the_other(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, a="1", b="1", c="1", d="1", run_sh="echo")
        await folders.sync(".")
        write(folders.here, a="changed here")
        write(folders.there, b="changed there", new__e="made there")
        (folders.here / "c").unlink()
        (folders.there / "d").unlink()
        (folders.there / "run.sh").chmod(0o755)
        report = await folders.sync()
        assert str(report).splitlines() == [
            "sent 1 file, 12 B; brought 3 files, 27 B; removed 1 file there",
            "d: deleted in the session, and kept here; `%gpu sync --to` sends it again",
        ]
        everything = {"a": b"changed here", "b": b"changed there", "new/e": b"made there", "run.sh": b"echo"}
        assert contents(folders.there) == everything
        assert contents(folders.here) == {**everything, "d": b"1"}
        assert (folders.here / "run.sh").stat().st_mode & 0o111
        assert (folders.here / "b").stat().st_mtime_ns == (folders.there / "b").stat().st_mtime_ns
        assert "d: deleted" in str(await folders.sync())
        assert str(await folders.sync("d", only="to")) == "sent 1 file, 1 B"
        assert str(await folders.sync(".")) == "5 files unchanged"


async def test_where_both_changed_the_notebooks_wins_and_nothing_is_lost(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, x_csv="1", gone="1")
        await folders.sync(".")
        write(folders.here, x_csv="here")
        write(folders.there, x_csv="there", gone="changed there")
        (folders.here / "gone").unlink()
        [_, *notes] = str(await folders.sync()).splitlines()
        [kept] = [name for name in contents(folders.there) if name.startswith("x.session-")]
        assert (
            f"x.csv: changed on both sides; the notebook's is there now, and the session's is kept there as {kept}"
            in (notes)
        )
        assert "gone: deleted here and changed in the session, so it was brought" in notes
        assert contents(folders.there) == {"x.csv": b"here", kept: b"there", "gone": b"changed there"}
        await folders.sync()
        assert contents(folders.here) == contents(folders.there)


async def test_one_direction(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, a="1", both="1")
        await folders.sync(".")
        write(folders.here, a="2", both="here", new="here")
        write(folders.there, both="there", made="there")
        report = await folders.sync(".", only="from")
        assert "both: changed on both sides, and stays as it is on both" in str(report)
        assert contents(folders.there) == {"a": b"1", "both": b"there", "made": b"there"}
        assert contents(folders.here) == {"a": b"2", "both": b"here", "new": b"here", "made": b"there"}
        write(folders.there, made="again")
        await folders.sync(".", only="to")
        assert contents(folders.here)["made"] == b"there"
        assert contents(folders.there)["a"] == b"2"


async def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, a="1", same="1")
        write(folders.there, b="22", same="1")
        lines = str(await folders.sync(".", dry_run=True)).splitlines()
        assert lines == ["a: send, 1 B", "b: bring, 2 B", "1 file unchanged; nothing was done"]
        assert contents(folders.here).keys() == {"a", "same"}
        assert contents(folders.there).keys() == {"b", "same"}


async def test_globs_choose_on_both_sides(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, a_csv="1", b_txt="1", deep__c_csv="1")
        write(folders.there, z_csv="2", z_txt="2", results__deep__r_csv="3")
        await folders.sync("*.csv")
        assert contents(folders.there).keys() == {"a.csv", "z.csv", "z.txt", "results/deep/r.csv"}
        assert contents(folders.here).keys() == {"a.csv", "b.txt", "deep/c.csv", "z.csv"}
        await folders.sync("**/*.csv", "resul*")
        assert "deep/c.csv" in contents(folders.there)
        assert "results/deep/r.csv" in contents(folders.here)


async def test_ignored_files_stay_unless_they_are_named(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, _gitignore="*.log\nbuild/\n", _nbgpuignore="/secret\n", a_log="1", build__x="1", secret="1")
        write(folders.here, kept="1", _git__config="1", __pycache____m="1", env__pyvenv_cfg="", env__lib="1")
        (folders.here / "__pycache__").mkdir()
        (folders.here / ".nbgpu").mkdir()
        (folders.here / ".nbgpu/on its way").write_text("1")
        (folders.here / "__pycache__/m.pyc").write_text("1")
        write(folders.there, made_log="2", build__y="2", _git__hooks="2", env2__pyvenv_cfg="", env2__lib="2")
        report = await folders.sync(".")
        assert contents(folders.there).keys() == {
            ".gitignore", ".nbgpuignore", "kept", "made.log", "build/y", ".git/hooks", "env2/pyvenv.cfg", "env2/lib",
            *(name for name in contents(folders.there) if name.startswith("/m")),
        }  # fmt: skip
        assert "made.log" not in contents(folders.here)
        assert not (folders.here / "build/y").exists()
        assert not (folders.here / "env2").exists()
        assert not (folders.here / ".git/hooks").exists()
        assert str(report).splitlines()[1:] == ["env: left as it is: it is a virtual environment"]
        await folders.sync("a.log", "build/x", "secret", "made.log")
        assert {"a.log", "build/x", "secret"} <= contents(folders.there).keys()
        assert contents(folders.here)["made.log"] == b"2"
        assert not (folders.here / "build/y").exists()


async def test_what_becomes_ignored_is_not_taken_for_deleted(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, a_log="1", b="1")
        await folders.sync(".")
        write(folders.here, _gitignore="*.log\n")
        await folders.sync(".")
        assert "a.log" in contents(folders.there)
        (folders.here / ".gitignore").unlink()
        write(folders.there, a_log="changed there")
        assert "on both sides" not in str(await folders.sync("."))  # what was in step before is still known
        assert contents(folders.here)["a.log"] == b"changed there"


async def test_links_stay_links_and_take_along_what_they_lead_to(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, data__v2__x_csv="2")
        write(tmp_path, outside="secret")
        (folders.here / "latest").symlink_to("data/v2")
        (folders.here / "leak").symlink_to(tmp_path / "outside")
        (folders.here / "loop").symlink_to("loop")
        report = await folders.sync("latest", "leak", "loop")
        assert os.readlink(folders.there / "latest") == "data/v2"
        assert (folders.there / "latest/x.csv").read_text() == "2"
        assert not (folders.there / "leak").is_symlink()
        assert "leak: left as it is: it is a link that leads out of the notebook's folder" in str(report)
        assert "unchanged" in str(await folders.sync("latest/x.csv"))
        (folders.there / "made").symlink_to("data")
        assert "made: left as it is: links that were made in the session stay there" in str(await folders.sync("made"))
        assert not (folders.here / "made").is_symlink()


async def test_special_files_are_named(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        os.mkfifo(folders.here / "pipe")
        os.mkfifo(folders.there / "pipe there")
        os.mkfifo(folders.there / "both")
        write(folders.here, both="a file")
        text = str(await folders.sync("."))
        assert "pipe: left as it is: it is no file" in text
        assert "pipe there: left as it is: it is no file in the session" in text
        assert "both: left as it is: it is no file in the session" in text


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("../x", OutsidePathError),
        ("/etc/passwd", OutsidePathError),
        ("data/../../x", OutsidePathError),
        ("nowhere.csv", NoSuchPathError),
        ("no*.csv", NoSuchPathError),
        (".git/config", UnfitPathError),
        ("x" * 300, UnfitPathError),
    ],
)
async def test_paths_that_are_refused(tmp_path: Path, path: str, kind: type[Exception]) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, a="1")
        with pytest.raises(kind) as caught:
            await folders.sync("a", path)
        assert "hint" in str(caught.value) or kind is UnfitPathError
        assert contents(folders.there) == {}


async def test_without_a_path_before_any_sync(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        with pytest.raises(NoSuchPathError, match="before"):
            await folders.sync()


async def test_a_file_and_a_folder_of_one_name_are_left_and_named(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, x="a file", y__below="a folder's")
        write(folders.there, x__below="a folder's", y="a file")
        text = str(await folders.sync("."))
        assert "x: left as it is: it was not changed in the session: a folder has that name there" in text
        assert "y: left as it is: it was not brought: a folder has that name here" in text
        assert "x/below: left as it is: it was not brought: x is no folder here" in text
        assert contents(folders.here) == {"x": b"a file", "y/below": b"a folder's"}
        assert contents(folders.there) == {"x/below": b"a folder's", "y": b"a file"}


async def test_a_file_where_a_folder_was(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, x="a file", other="1")
        await folders.sync(".")
        (folders.here / "x").unlink()
        write(folders.here, x__below="a folder's")
        await folders.sync(".")
        assert contents(folders.there) == {"x/below": b"a folder's", "other": b"1"}


def during(pool: Pool, name: str, action: Callable[[], object], *, call_number: int = 1) -> None:
    """Does something on one of the calls of a pool's method, before it."""
    method, calls = getattr(pool, name), itertools.count(1)

    async def call(*arguments: object) -> object:
        if next(calls) == call_number:
            action()
        return await method(*arguments)

    setattr(pool, name, call)


async def test_a_file_that_changes_while_it_is_sent_is_read_again(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, x="before", y="1")
        during(folders.pool, "put_blob", lambda: write(folders.here, x="after!", y="gone?"))
        await folders.sync("x", "y")
        assert contents(folders.there) == {"x": b"after!", "y": b"gone?"}


async def test_what_a_cell_writes_meanwhile_is_not_lost(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, x="1")
        await folders.sync("x")
        write(folders.here, x="here")
        during(folders.pool, "put_blob", lambda: write(folders.there, x="a cell's"))
        report = await folders.sync("x")
        assert "changed on both sides" in str(report)
        assert sorted(contents(folders.there).values()) == [b"a cell's", b"here"]


async def test_what_is_written_here_while_it_comes_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, x="1")
        await folders.sync("x")
        write(folders.there, x="there")
        read = folders.client().read
        waiting = [lambda: write(folders.here, x="here")]

        async def read_late(self: object, path: str, offset_bytes: int) -> AsyncIterator[bytes]:
            while waiting:
                waiting.pop()()
            async for chunk in read(path, offset_bytes):
                yield chunk

        monkeypatch.setattr("nbgpu.client.workspace.WorkspaceClient.read", read_late)
        await folders.sync("x")
        assert contents(folders.here) == {"x": b"here"}
        assert sorted(contents(folders.there).values()) == [b"here", b"there"]


@pytest.mark.parametrize("to_session", [True, False])
async def test_a_large_file_goes_on_where_it_was_cut(tmp_path: Path, to_session: bool) -> None:
    async with two_folders(tmp_path) as folders:
        source, target = (folders.here, folders.there) if to_session else (folders.there, folders.here)
        content = os.urandom(100 * MIB + 17)
        (source / "large").write_bytes(content)
        folders.link.cut_after([80 * MIB], to_client=not to_session)
        with pytest.raises(errors.AgentUnreachableError):
            await folders.sync("large")
        assert contents(target) == {}
        before = folders.link.bytes_to_agent, folders.link.bytes_to_client
        # Another notebook's kernel: nothing is known any more, but for what is on disk.
        report = await folders.sync("large", tree=LocalTree(folders.here))
        assert len([*report.sent, *report.brought]) == 1
        assert (target / "large").read_bytes() == content
        again = folders.link.bytes_to_agent - before[0] + folders.link.bytes_to_client - before[1]
        assert again < 60 * MIB
        assert not (folders.here / ".nbgpu").exists()


async def test_a_sync_that_is_cancelled_leaves_whole_files_or_none(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        for number in range(8):
            (folders.here / f"f{number}").write_bytes(os.urandom(20 * MIB))
        task = asyncio.ensure_future(folders.sync("."))
        during(folders.pool, "put_blob", task.cancel, call_number=12)  # among the pieces of the fourth file
        with pytest.raises(asyncio.CancelledError):
            await task
        here = contents(folders.here)
        assert len(contents(folders.there)) == 3
        assert contents(folders.there).items() <= here.items()
        await folders.sync(".")
        assert contents(folders.there) == here


@pytest.mark.parametrize("size", [3 * MIB, 70 * MIB])
async def test_more_than_the_node_keeps_arrives_all_the_same(tmp_path: Path, size: int) -> None:
    async with two_folders(tmp_path, limit_bytes=1) as folders:
        for name in ("a", "b", "c"):
            (folders.here / name).write_bytes(os.urandom(size if name != "c" else 5))
        await folders.sync(".")
        assert contents(folders.there) == contents(folders.here)


async def test_what_the_node_has_is_not_sent_to_another_session(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        (folders.here / "x").write_bytes(os.urandom(20 * MIB))
        await folders.sync("x")
        (tmp_path / "another").mkdir()
        folders.registry.sessions["s"] = FakeSession(tmp_path / "another")
        before = folders.link.bytes_to_agent
        await folders.sync("x")
        assert contents(tmp_path / "another") == contents(folders.here)
        assert folders.link.bytes_to_agent - before < MIB


async def test_many_files(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        for number in range(1100):
            (folders.here / f"{number}").write_text(str(number))
            (folders.there / f"t{number}").write_text(str(number))
        report = await folders.sync(".")
        assert (len(report.sent), len(report.brought)) == (1100, 1100)
        assert contents(folders.here) == contents(folders.there)
        assert str(await folders.sync()) == "2200 files unchanged"


async def test_two_syncs_at_once(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        for number in range(20):
            (folders.here / f"h{number}").write_bytes(os.urandom(MIB))
            (folders.there / f"t{number}").write_bytes(os.urandom(MIB))
        (folders.here / "large").write_bytes(os.urandom(70 * MIB))
        await asyncio.gather(*(folders.sync(".", tree=LocalTree(folders.here)) for _ in range(2)))
        assert contents(folders.here) == contents(folders.there)
        assert len(contents(folders.here)) == 41


async def test_another_folder_does_not_take_files_of_the_first_for_deleted(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, x="1")
        await folders.sync(".")
        other = tmp_path / "other"
        other.mkdir()
        client = folders.client("two")
        from nbgpu.workspace.plan import Direction
        from nbgpu.workspace.sync import Sync

        await Sync(LocalTree(other), client, Direction.BOTH).run(["."], dry_run=False)
        assert contents(folders.there) == contents(other) == {"x": b"1"}


async def test_no_space_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.there, x="1")

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("nbgpu.workspace.bringing._recheck", fail)
            with pytest.raises(LocalDiskError, match="no space is left here for x"):
                await folders.sync("x")
        assert list(folders.here.iterdir()) == []
        await folders.sync("x")
        assert contents(folders.here) == {"x": b"1"}


async def test_no_space_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, x="1")

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("nbgpu_agent.workspace.changes.shutil.copyfileobj", fail)
        with pytest.raises(errors.DiskFullError, match="no space is left on the node for 'x'"):
            await folders.sync("x")
        assert contents(folders.there) == {}


async def test_a_session_that_is_closed_or_works_here(tmp_path: Path) -> None:
    async with two_folders(tmp_path) as folders:
        write(folders.here, x="1")
        folders.registry.sessions["s"] = FakeSession(
            folders.there, SessionRequest(spec=None, working_folder=str(folders.there))
        )
        with pytest.raises(errors.NotOfferedError, match="itself"):
            await folders.sync("x")
        folders.registry.sessions.clear()
        with pytest.raises(errors.NoSuchSessionError):
            await folders.sync("x")
        folders.registry.sessions["s"] = FakeSession(folders.there)
        during(folders.pool, "put_blob", lambda: folders.there.rmdir())
        with pytest.raises(errors.NoSuchSessionError, match="folder is gone"):
            await folders.sync("x")


@pytest.mark.parametrize(
    "path", ["../evil", "/nowhere-of-nbgpu/evil", ".git/hooks/pre-commit", "out/evil", "a/../../evil"]
)
async def test_a_hostile_session_writes_nothing_elsewhere(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_list, real_inspect = WorkspaceService.List, WorkspaceService.Inspect

    async def hostile_list(
        self: WorkspaceService, request: workspace_pb2.ListRequest, context: object
    ) -> AsyncIterator[workspace_pb2.ListResponse]:
        async for response in real_list(self, request, context):  # type: ignore[arg-type]
            yield response
        yield workspace_pb2.ListResponse(files=[workspace_pb2.ListedFile(path=path, size_bytes=1)])

    async def hostile_inspect(
        self: WorkspaceService, request: workspace_pb2.InspectRequest, context: object
    ) -> AsyncIterator[workspace_pb2.InspectResponse]:
        names = list(request.paths)
        async for response in real_inspect(self, workspace_pb2.InspectRequest(session_id="s", paths=["x"]), context):  # type: ignore[arg-type]
            for name in {*names, path}:
                response.path = name
                yield response

    monkeypatch.setattr(WorkspaceService, "List", hostile_list)
    monkeypatch.setattr(WorkspaceService, "Inspect", hostile_inspect)
    monkeypatch.setattr(WorkspaceService, "read", _always_x)
    async with two_folders(tmp_path) as folders:
        write(folders.there, x="evil")
        outside = tmp_path / "outside"
        outside.mkdir()
        (folders.here / "out").symlink_to(outside)
        (folders.here / ".git/hooks").mkdir(parents=True)
        await folders.sync(".")
        assert contents(folders.here) == {"x": b"evil"}
        assert list(outside.iterdir()) == []
        assert not (folders.here / path).exists()
        assert not (tmp_path / "evil").exists()


async def _always_x(
    self: WorkspaceService, request: workspace_pb2.ReadRequest, context: object
) -> AsyncIterator[bytes]:
    yield b"evil"


async def test_bytes_that_are_not_those_announced_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkspaceService, "read", _always_x)
    async with two_folders(tmp_path) as folders:
        write(folders.there, x="1234")
        report = await folders.sync("x")
        assert "x: left as it is: it kept changing" in str(report)
        assert contents(folders.here) == {}


async def test_one_wrong_piece_of_many_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(self: WorkspaceService, request: workspace_pb2.ReadRequest, context: object) -> AsyncIterator[bytes]:
        yield b"wrong" + b"1" * 11
        yield b"2" * 16

    monkeypatch.setattr(file_versions, "PIECE_BYTES", 16)
    monkeypatch.setattr(WorkspaceService, "read", read)
    async with two_folders(tmp_path) as folders:
        (folders.there / "x").write_bytes(b"1" * 16 + b"2" * 16)
        assert "x: left as it is: it kept changing" in str(await folders.sync("x"))
        assert contents(folders.here) == {}
