"""Sessions of different users as different users of the operating system: what they cannot do to each other.

Most of it takes root, which a machine of a team's agent has, and a build machine.
"""

from __future__ import annotations

import os
import platform
import re
import runpy
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_processes import until, workplace
from isolated_agents import (
    HAS_THINGS,
    SECRET,
    TRIES,
    Isolating,
    facts,
    isolating_agent,
    notebook,
    stacks,
    stacks_while_written,
)
from nbgpu import errors
from nbgpu.client.environments import Content, missing, send_missing, update_session
from nbgpu.client.workspace import WorkspaceClient
from nbgpu_agent.isolation.device_cgroups import PREFIX, DeviceCgroups
from nbgpu_protocol.snapshot import Distribution, LocalFile, Snapshot, digest_of_bytes
from nbgpu_protocol.v1 import pool_pb2, workspace_pb2
from reachable_python import reachable_python
from recorded_sessions import until as until_true

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes as other users"),
]


@pytest.fixture(scope="module")
def agent() -> Iterator[Isolating]:
    with workplace() as place:
        place.root.chmod(0o711)
        with isolating_agent(place, reachable_python(place.root / "python"), "--isolation=users") as agent:
            yield agent


async def test_users_do_not_reach_what_is_anothers(agent: Isolating) -> None:
    async with notebook(agent, "bob") as bob, notebook(agent, "ada") as ada:
        his = await facts(bob, HAS_THINGS)
        hers = await facts(ada, f"bob, agent = {his!r}, {str(agent.folder)!r}{TRIES}")
        assert hers == dict.fromkeys(hers, "PermissionError"), hers
        own = await facts(ada, HAS_THINGS)
        assert len({own["uid"], his["uid"], 0}) == 3
        assert (his["user"], his["gids"], his["umask"]) == ("bob", [], 0o077)
        status = os.stat(his["home"])
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (his["uid"], 0o700)
        handshake = await ada.direct.handshake()
        assert (handshake.isolation, handshake.isolation_problem) == (pool_pb2.ISOLATION_OS_USERS, "")


async def test_a_session_cannot_have_the_agent_read_what_is_not_its_own(agent: Isolating) -> None:
    place = agent.secured.place.root
    secret = place / "of-root"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    async with notebook(agent, "ada") as ada:
        own = await facts(ada, HAS_THINGS)
        folder = Path(own["folder"])
        # Links of all kinds, of which root itself makes the one that only an old system would let a user make.
        os.link(secret, folder / "hard")
        await ada.run(f"os.symlink({str(secret)!r}, 'soft'); os.symlink({str(place)!r}, 'above'); os.mkfifo('pipe')")
        workspace = WorkspaceClient(ada.direct, ada.client.id, "here")
        for path in ("hard", "soft", "above/of-root", "pipe"):
            with pytest.raises(errors.Error, match="cannot be read in the session"):
                async for _ in workspace.read(path, 0):
                    pass
        assert dict([each async for each in workspace.inspect(["hard", "soft", "notes.txt"])]).keys() == {
            "hard", "soft", "notes.txt"
        }  # fmt: skip
        assert [each async for each in workspace.inspect(["hard", "soft"])] == [("hard", None), ("soft", None)]

        # A blob that is a link, a file of what was said that is one, and stacks that are somebody else's.
        digest = "sha256:" + "0" * 64
        blob = agent.folder / "blobs-of-users" / "ada" / digest.replace(":", "-")
        await ada.run(f"os.symlink({str(secret)!r}, {str(blob)!r})")
        with pytest.raises(errors.Error, match="there is no blob"):
            await anext(aiter(ada.direct.get_blob(digest)))
        for path, is_hers in ((secret, False), (folder / "notes.txt", True)):
            assert (SECRET in await stacks_while_written(ada, path, int(own["pid"]))) is is_hers


OPENS = """
facts["cgroups"] = open("/proc/self/cgroup").read()
facts["reached"] = {}
for path in devices:
    try:
        os.close(os.open(path, os.O_RDONLY))
        facts["reached"][path] = True
    except PermissionError:
        facts["reached"][path] = False
"""


async def test_a_session_reaches_no_gpu_that_it_does_not_hold(agent: Isolating) -> None:
    if not DeviceCgroups().is_there:
        pytest.skip("Linux has no devices controller of cgroup v1 here")
    held = f"/dev/nvidia{os.getpid()}"  # another's, as no GPU has this number
    os.mknod(held, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    try:
        os.chmod(held, 0o666)
        async with notebook(agent, "bob") as bob:
            devices = [held, "/dev/null"]
            found = await facts(bob, f"devices = {devices!r}{OPENS}")
            assert found["reached"] == {held: False, "/dev/null": True}
        assert os.close(os.open(held, os.O_RDONLY)) is None
    finally:
        os.unlink(held)
    (group,) = re.findall(rf":devices:(/.*{PREFIX}.*)", found["cgroups"])
    until(lambda: not os.path.exists(f"/sys/fs/cgroup/devices{group}"))


CHANGES = """
import pathlib
kernel = pathlib.Path(tempfile.gettempdir()).parent
def attempt(name, function):
    try:
        facts[name] = "did " + repr(function())[:200]
    except Exception as error:
        facts[name] = type(error).__name__
for name in ("s", "tmp"):
    attempt("move " + name, lambda: (kernel / name).rename(kernel / "moved"))
attempt("replace a socket", lambda: (kernel / "s" / "k-1").unlink())
attempt("make a socket", lambda: (kernel / "s" / "k-9").touch())
attempt("replace its folder", lambda: os.rename(os.getcwd(), os.getcwd() + "-moved"))
own = pathlib.Path(acknowledged).parent
attempt("move its own", lambda: own.rename(own.with_name("moved")))
attempt("replace the log", lambda: own.with_name("log").unlink())
attempt("change what was taken", lambda: open(acknowledged, "r+b"))
attempt("cut what was taken", lambda: os.truncate(acknowledged, 0))
attempt("replace the record", lambda: own.with_name("kernel.json").write_text("{}"))
"""


async def test_a_session_cannot_change_what_the_agent_believes(agent: Isolating) -> None:
    async with notebook(agent, "ada") as ada:
        own = await facts(ada, HAS_THINGS)
        (acknowledged,) = agent.folder.glob("kernels/*/own/acknowledged")
        tried = await facts(ada, f"acknowledged = {str(acknowledged)!r}{CHANGES}")
        assert tried == dict.fromkeys(tried, "PermissionError"), tried
        # What the agent makes in its folder is the user's.
        change = workspace_pb2.Change(path="a/link", link_target="notes.txt")
        (made,) = await WorkspaceClient(ada.direct, ada.client.id, "here").apply([change])
        assert made.result == workspace_pb2.Outcome.DONE, made.why
        for path in ("a", "a/link"):
            assert (Path(own["folder"]) / path).lstat().st_uid == own["uid"]


async def test_such_a_session_is_interrupted_adopted_restarted_and_ended(agent: Isolating) -> None:
    async with notebook(agent, "bob") as bob:
        his = await facts(bob, HAS_THINGS)
        agent.restart()
        again = await facts(bob, "facts = dict(pid=os.getpid(), uid=os.getuid(), memory=memory.name)")
        assert again == {name: his[name] for name in again}
        request, recorder = await bob.send("print('begins', flush=True)\nimport time; time.sleep(600)")
        await until_true(lambda: recorder.text)
        assert "<module>" in (await stacks(bob)).processes[0].dump
        assert await bob.direct.interrupt(bob.client.id, request.id)
        with pytest.raises(KeyboardInterrupt):
            await bob.answer(request)
        await bob.direct.restart(bob.client.id)
        new = await facts(bob, "import sys; facts = dict(uid=os.getuid(), pid=os.getpid(), folder=os.getcwd())")
        assert (new["uid"], new["folder"]) == (his["uid"], his["folder"])
        assert new["pid"] != his["pid"]
        wish = {"ranks": [0, 1], "world_size": 2, "view": "full"}
        await bob.run("import os; open('of-rank-' + os.environ['RANK'], 'w').write(str(os.getuid()))", spmd=wish)
        uids = "facts = {name: open(name).read() for name in os.listdir() if name.startswith('of-rank')}"
        assert await facts(bob, uids) == {"of-rank-0": str(his["uid"]), "of-rank-1": str(his["uid"])}
        child = "import subprocess, sys; child = subprocess.Popen(['sleep', '600'], start_new_session=True)"
        found = await facts(bob, f"{child}; facts = dict(child=child.pid)")
    until(lambda: not psutil.pid_exists(int(found["child"])) and not psutil.pid_exists(int(new["pid"])))
    assert_removed(agent, his)


async def test_a_package_that_runs_code_when_it_is_built_runs_it_as_its_user(agent: Isolating) -> None:
    module = b"mine = 1"
    snapshot = Snapshot(
        python_version=platform.python_version(),
        implementation=sys.implementation.name,
        platform=sys.platform,
        machine=platform.machine(),
        distributions=tuple(Distribution(name, "1.0") for name in ("cloudpickle", "curious", "ipykernel")),
        files=(LocalFile("workspace/pkg/module.py", digest_of_bytes(module), len(module)),),
    )
    content = snapshot.to_bytes()
    contents: dict[str, Content] = {digest_of_bytes(each): each for each in (content, module)}
    async with notebook(agent, "ada") as ada, agent.pool("bob") as bob:
        own = await facts(ada, HAS_THINGS)
        assert await send_missing(ada.direct, contents) == 2
        digest = digest_of_bytes(content)
        *_, built = [each async for each in update_session(ada.direct, ada.client.id, digest, {})]
        environment = agent.folder / "environments-of-users" / "ada" / built.environment_id
        (curious,) = environment.glob("lib/*/site-packages/curious.py")
        found = runpy.run_path(str(curious))["FOUND"]
        assert found == {"uid": own["uid"], "variable": None, "home": own["home"]}
        for path in (environment, curious, Path(own["folder"]) / "pkg" / "module.py"):
            assert owner_of(path) == own["uid"]
        assert (await ada.run("from pkg.module import mine; print(mine)")).text == "1\n"
        assert await missing(bob, contents) == list(contents)  # another user has put them


def owner_of(path: Path) -> int:
    return path.lstat().st_uid


def assert_removed(agent: Isolating, session: dict[str, Any]) -> None:
    assert not any(os.path.lexists(session[name]) for name in ("folder", "temporary"))
    assert os.listdir(agent.folder / "kernels") == []
