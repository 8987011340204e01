"""Sessions of different users in sandboxes, by an agent that is not root: what they cannot do to each other.

Where the tests run as root, the agent is another user, as whom alone it uses bwrap.
"""

from __future__ import annotations

import json
import os
import platform
import pwd
import runpy
import sys
import sysconfig
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
from nbgpu.client.discovery import PoolAddress
from nbgpu.client.environments import Content, send_missing, update_session
from nbgpu.client.workspace import WorkspaceClient
from nbgpu.doctor.findings import Level
from nbgpu.doctor.pools import look_at_pool
from nbgpu_protocol.snapshot import Distribution, LocalFile, Snapshot, digest_of_bytes
from nbgpu_protocol.v1 import pool_pb2
from reachable_python import reachable_python
from recorded_sessions import until as until_true

pytestmark = pytest.mark.asyncio
OF_THE_OWNER = "of-the-owner-of-this-agent"
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(scope="module")
def agent() -> Iterator[Isolating]:
    with workplace() as place:
        python = reachable_python(place.root / "python")
        links, index = place.root / "links", place.root / "index"
        visible = [str(links), str(index), sysconfig.get_path("purelib")]
        if os.geteuid() == 0:
            numbers = (f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups")
            place.prefix = ("setpriv", *numbers, "--")
            os.chown(place.root, NOBODY.pw_uid, NOBODY.pw_gid)
            for folder in ("tmp", "owner"):
                (place.root / folder).mkdir()
                os.chown(place.root / folder, NOBODY.pw_uid, NOBODY.pw_gid)
        place.root.chmod(0o711)
        options = ("--isolation=bubblewrap", f"--AgentApp.visible_folders={visible!r}")
        own = {"NBGPU_AGENT_TOKEN": OF_THE_OWNER, "USER": NOBODY.pw_name}
        with isolating_agent(place, python, *options, mode=0o700, **own) as agent:
            agent.tokens["owner"] = OF_THE_OWNER
            yield agent


def kernel_pid(agent: Isolating, session: dict[str, Any]) -> int:
    """Returns the kernel's process as it is numbered outside of its sandbox."""
    record = Path(session["temporary"]).with_name("kernel.json")
    found = json.loads((agent.folder / "kernels" / record.parent.name / record.name).read_text())
    assert isinstance(found["pid"], int)
    return int(found["pid"])


MORE_TRIES = """
attempt("trace it", lambda: os.open(f"/proc/{bob['pid']}/mem", os.O_RDWR))
attempt("reach its root", lambda: os.listdir(f"/proc/{bob['pid']}/root" + bob["folder"]))
attempt("list its session's folder by /proc", lambda: os.listdir(f"/proc/{bob['pid']}/root/"))
attempt("read a key", lambda: open(identity + "/key.pem").read())
attempt("list the owner's home", lambda: os.listdir(identity))
attempt("list other homes", lambda: os.listdir(os.path.dirname(bob["home"]) + "/bob"))
attempt("change the system", lambda: open("/etc/nbgpu-was-here", "w"))
attempt("change its environment", lambda: open(environments + "/x", "w"))
attempt("open a device", lambda: os.open("/dev/nvidia0", os.O_RDWR))
attempt("make a device", lambda: os.mknod("/dev/shm/null", 0o20666, os.makedev(1, 3)))
attempt("mount", lambda: subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True))
attempt("end all", lambda: [os.kill(pid, signal.SIGKILL) for pid in pids if not os.path.exists(f"/proc/{pid}")])
"""


async def test_users_do_not_reach_what_is_anothers(agent: Isolating) -> None:
    async with notebook(agent, "bob") as bob, notebook(agent, "ada") as ada:
        his, own = await facts(bob, HAS_THINGS), await facts(ada, HAS_THINGS)
        told = {**his, "pid": kernel_pid(agent, his)}
        begin = (
            f"bob, agent = {told!r}, {str(agent.folder)!r}\nidentity = {str(agent.secured.place.root / 'identity')!r}\n"
        )
        environments = agent.folder / "environments-of-users" / "ada"
        processes = [each.pid for each in psutil.process_iter()]
        more = f"environments, pids = {str(environments)!r}, {processes!r}\nimport subprocess\n{MORE_TRIES}"
        hers = await facts(ada, begin + TRIES + more)
        allowed = {
            "FileNotFoundError", "PermissionError", "ProcessLookupError", "OSError", "CalledProcessError"
        }  # fmt: skip
        for name in ("list all kernels", "list the agent's folder"):  # of which there is what is hers, see below
            assert hers.pop(name).startswith("read [")
        assert hers.pop("list the owner's home") == "read []"
        assert {name: said for name, said in hers.items() if said not in allowed} == {}
        assert [hers[name] for name in ("end it", "read its memory")] == ["ProcessLookupError", "FileNotFoundError"]
        assert psutil.pid_exists(told["pid"])
        # She is alone: sees her own processes, folders and shared memory.
        seen = await facts(
            ada,
            "facts = dict(processes=[each for each in os.listdir('/proc') if each.isdigit()],"
            f" kernels=os.listdir({str(agent.folder / 'kernels')!r}), agent=os.listdir({str(agent.folder)!r}),"
            " shared=os.listdir('/dev/shm'), user=os.environ['USER'])",
        )
        assert len(seen["processes"]) <= 6, seen
        assert len(seen["kernels"]) == 2, seen
        assert set(seen["agent"]) == {"kernels", "blobs-of-users", "environments-of-users", "homes-of-users"}
        assert (seen["shared"], seen["user"]) == ([own["memory"]], "ada")
        assert (await facts(bob, "facts['memory'] = bytes(memory.buf[:1]).hex()")) == {"memory": "00"}
        handshake = await ada.direct.handshake()
        assert (handshake.isolation, handshake.isolation_problem) == (pool_pb2.ISOLATION_BUBBLEWRAP, "")


async def test_the_owner_keeps_their_home_and_is_kept_from_users(agent: Isolating) -> None:
    home = agent.secured.place.root
    (home / "of-mine").touch()
    async with notebook(agent, "owner") as owner, notebook(agent, "ada") as ada:
        hers = await facts(ada, HAS_THINGS)
        own = await facts(owner, HAS_THINGS)
        told = {**hers, "pid": kernel_pid(agent, hers)}
        tried = await facts(owner, f"bob, agent = {told!r}, {str(agent.folder)!r}\n{TRIES}")
        reads = {name for name, said in tried.items() if said.startswith("read ")}
        assert reads == {"list all kernels", "list the agent's folder"}
        assert tried["end it"] == "ProcessLookupError"
        code = "open(os.path.expanduser('~/made'), 'w').close(); facts['home'] = os.listdir(os.path.expanduser('~'))"
        assert {"of-mine", "made"} <= set((await facts(owner, code))["home"])
        assert (own["home"], (home / "made").exists()) == (str(home), True)
        seen = await facts(ada, f"facts['home'] = os.listdir({str(home)!r})")
        assert not {"of-mine", "made"} & set(seen["home"]), seen
        assert OF_THE_OWNER not in (await owner.run("import os; print(os.environ)")).text
        found = await look_at_pool("lab", PoolAddress(agent.secured.address, OF_THE_OWNER, trust=agent.trust))
        assert (found.level, found.text.endswith("; sessions of its users run in sandboxes of bubblewrap's")) == (
            Level.OK,
            True,
        )


async def test_a_session_cannot_have_the_agent_read_what_is_not_its_own(agent: Isolating) -> None:
    secret = agent.folder / "audit.jsonl"
    async with notebook(agent, "ada") as ada:
        own = await facts(ada, HAS_THINGS)
        folder = Path(own["folder"])
        await ada.run(f"os.symlink({str(secret)!r}, 'soft'); os.symlink({str(agent.folder)!r}, 'above')")
        workspace = WorkspaceClient(ada.direct, ada.client.id, "here")
        for path in ("soft", "above/audit.jsonl"):
            with pytest.raises(errors.Error, match="cannot be read in the session"):
                async for _ in workspace.read(path, 0):
                    pass
        assert [each async for each in workspace.inspect(["soft"])] == [("soft", None)]
        digest = "sha256:" + "0" * 64
        blob = agent.folder / "blobs-of-users" / "ada" / digest.replace(":", "-")
        await ada.run(f"os.symlink({str(secret)!r}, {str(blob)!r})")
        with pytest.raises(errors.Error, match="there is no blob"):
            await anext(aiter(ada.direct.get_blob(digest)))
        # Stacks that are said to be in a file of the agent's, in one of her own, and behind a link of hers.
        elsewhere = agent.folder / "written"
        elsewhere.touch()
        await ada.run(f"os.symlink({str(elsewhere)!r}, 'stacks')")
        for path, is_hers in ((elsewhere, False), (folder / "stacks", False), (folder / "notes.txt", True)):
            assert (SECRET in await stacks_while_written(ada, path, int(own["pid"]))) is is_hers
        elsewhere.unlink()


SWAPS = """
import pathlib
kernel = pathlib.Path(tempfile.gettempdir()).parent
def attempt(name, function):
    try:
        facts[name] = "did " + repr(function())[:200]
    except Exception as error:
        facts[name] = type(error).__name__
for name in ("s", "tmp", "own"):
    attempt("move " + name, lambda: (kernel / name).rename(kernel / "moved"))
attempt("replace its folder", lambda: os.rename(os.getcwd(), os.getcwd() + "-moved"))
attempt("replace the log", lambda: (kernel / "log").unlink())
attempt("change what was taken", lambda: open(kernel / "acknowledged", "r+b"))
attempt("replace the record", lambda: (kernel / "kernel.json").write_text("{}"))
attempt("list what is talked to", lambda: os.listdir(kernel / "c"))
for each in (kernel / "s").iterdir():
    each.unlink()
    each.symlink_to("/nowhere")
"""


async def test_a_session_cannot_change_what_the_agent_believes(agent: Isolating) -> None:
    async with notebook(agent, "ada") as ada:
        await facts(ada, HAS_THINGS)
        tried = await facts(ada, SWAPS)
        assert set(tried.values()) <= {"OSError", "PermissionError", "FileNotFoundError"}, tried
        agent.restart()  # whose next connects anew, to the kernel and not to what is in its place
        assert (await ada.run("print(len(facts))")).text == f"{len(tried)}\n"


async def test_such_a_session_is_interrupted_adopted_restarted_and_ended(agent: Isolating) -> None:
    async with notebook(agent, "bob") as bob:
        his = await facts(bob, HAS_THINGS)
        agent.restart()
        again = await facts(bob, "facts = dict(pid=os.getpid(), memory=memory.name)")
        assert again == {name: his[name] for name in again}
        request, recorder = await bob.send("print('begins', flush=True)\nimport time; time.sleep(600)")
        await until_true(lambda: recorder.text)
        assert "<module>" in (await stacks(bob)).processes[0].dump
        assert await bob.direct.interrupt(bob.client.id, request.id)
        with pytest.raises(KeyboardInterrupt):
            await bob.answer(request)
        assert (await bob.run("print(memory.name)")).text == f"{his['memory']}\n"  # which it survived
        before = kernel_pid(agent, his)
        await bob.direct.restart(bob.client.id)
        new = await facts(bob, HAS_THINGS)
        assert new["folder"] == his["folder"]
        pid = kernel_pid(agent, new)
        assert not psutil.pid_exists(before)
        child = "import subprocess; child = subprocess.Popen(['sleep', '600'], start_new_session=True, env={})"
        await bob.run(child)  # which bears no mark
        below = [each.pid for each in psutil.Process(pid).children() if each.name() == "sleep"]
        assert below
    until(lambda: not any(psutil.pid_exists(each) for each in (pid, *below)))
    assert_removed(agent, his)


def assert_removed(agent: Isolating, session: dict[str, Any]) -> None:
    assert not any(os.path.lexists(session[name]) for name in ("folder", "temporary"))
    assert os.listdir(agent.folder / "kernels") == []


async def test_ranks_share_memory_and_show_where_they_are(agent: Isolating) -> None:
    async with notebook(agent, "bob") as bob:
        wish = {"ranks": [0, 1], "world_size": 2, "view": "full"}
        cell = "import os; open('/dev/shm/of-rank-' + os.environ['RANK'], 'w').write('here')"
        await bob.run(cell, spmd=wish)
        found = await facts(bob, "facts = sorted(each for each in os.listdir('/dev/shm') if 'of-rank' in each)")
        assert found == ["of-rank-0", "of-rank-1"]
        waits = "import time\nprint('begins', flush=True)\ntime.sleep(600)"
        request, recorder = await bob.send(waits, spmd=wish)
        await until_true(lambda: recorder.text.count("begins") == 2)
        for _ in range(30):  # until both answer within the time that they have
            ranks = {each.rank for each in (await stacks(bob)).processes if each.dump and each.world_size == 2}
            if 1 in ranks:
                break
        assert 1 in ranks
        assert await bob.direct.interrupt(bob.client.id, request.id)
        with pytest.raises((KeyboardInterrupt, errors.Error)):
            await bob.answer(request)
        assert (await bob.run("print('goes on')")).text == "goes on\n"


async def test_how_a_kernel_ended_is_known(agent: Isolating) -> None:
    async with notebook(agent, "ada") as ada:
        for dies, said in (("os.kill(os.getpid(), 9)", "SIGKILL"), ("os.abort()", "SIGABRT"), ("os._exit(3)", "3")):
            with pytest.raises(errors.KernelDiedError, match=said):
                await ada.run(f"import os; {dies}")
            await ada.direct.restart(ada.client.id)
        assert (await ada.run("print('a new one')")).text == "a new one\n"


async def test_a_package_that_runs_code_when_it_is_built_runs_it_in_the_sandbox(agent: Isolating) -> None:
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
    async with notebook(agent, "ada") as ada:
        own = await facts(ada, HAS_THINGS)
        await send_missing(ada.direct, contents)
        # Files do not go where a link of hers leads out.
        outside = agent.folder / "outside"
        outside.mkdir()
        await ada.run(f"os.symlink({str(outside)!r}, 'pkg')")
        digest = digest_of_bytes(content)
        with pytest.raises(errors.Error):
            async for _ in update_session(ada.direct, ada.client.id, digest, {}):
                pass
        assert os.listdir(outside) == []
        outside.rmdir()
        await ada.run("os.unlink('pkg')")
        *_, built = [each async for each in update_session(ada.direct, ada.client.id, digest, {})]
        environment = agent.folder / "environments-of-users" / "ada" / built.environment_id
        (curious,) = environment.glob("lib/*/site-packages/curious.py")
        found = runpy.run_path(str(curious))["FOUND"]
        assert found == {"uid": own["uid"], "variable": None, "home": own["home"]}
        assert (await ada.run("from pkg.module import mine; print(mine)")).text == "1\n"
