"""Agents that keep their users from each other, notebooks of these users, and what one tries to have of another's."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import stat
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from agent_processes import Workplace, until
from nbgpu import errors
from nbgpu.client.pool import Pool
from nbgpu.client.trust import Trust, fetch_trust
from nbgpu_protocol.v1 import pool_pb2, session_pb2
from reachable_python import ReachablePython
from recorded_sessions import Notebook, RecordedClient, Recorder
from secured_agents import Machine, SecuredAgent, start_secured
from wheels import make_source_distribution, make_wheel

SECRET = "the secret of somebody else"

CURIOUS = """
import os, zipfile
def build_wheel(folder, settings=None, metadata=None):
    found = {"uid": os.getuid(), "variable": os.environ.get("OF_THE_AGENT"), "home": os.path.expanduser("~")}
    with zipfile.ZipFile(os.path.join(folder, "curious-1.0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("curious.py", f"FOUND = {found!r}")
        info = "curious-1.0.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: curious\\nVersion: 1.0\\n")
        tags = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(info + "WHEEL", tags)
        wheel.writestr(info + "RECORD", "")
    return "curious-1.0-py3-none-any.whl"
"""


@dataclass
class Isolating:
    """An agent that isolates its users, and their tokens."""

    secured: SecuredAgent
    options: tuple[str, ...]
    variables: dict[str, str]
    tokens: dict[str, str]
    trust: Trust
    mode: int = 0o711
    """Of the agent's folder."""

    @property
    def folder(self) -> Path:
        return self.secured.place.folder

    def pool(self, user: str) -> Pool:
        return Pool(self.secured.address, self.tokens[user], self.trust)

    def restart(self) -> None:
        """Kills the agent, and starts the next one at its address."""
        place = self.secured.place
        place.end(self.secured.process, signal.SIGKILL)
        listen = f"--listen={self.secured.address.removeprefix('grpcs://')}"
        assert stat.S_IMODE(place.folder.stat().st_mode) == self.mode
        self.secured.process = place.start(listen, "--tls", *self.options, **self.variables)
        assert self.secured.process.stdout is not None
        assert self.secured.process.stdout.readline(), place.log()


@contextlib.contextmanager
def isolating_agent(
    place: Workplace, python: ReachablePython, *options: str, mode: int = 0o711, **variables: str
) -> Iterator[Isolating]:
    """An agent with the users ada and bob, for whom it finds the packages that are in `links`."""
    place.python = python.path
    (place.root / "index").mkdir()  # which has nothing
    links = place.root / "links"
    for name in ("cloudpickle", "ipykernel"):
        make_wheel(links, name, "1.0")
    make_source_distribution(links, "curious", "1.0", setup=CURIOUS)
    index = {"UV_FIND_LINKS": str(links), "UV_DEFAULT_INDEX": (place.root / "index").as_uri()}
    variables = {**python.variables, **index, "OF_THE_AGENT": SECRET, **variables}
    secured = start_secured(place, *options, **variables)
    tokens = {}
    for user in ("ada", "bob"):
        machine = Machine(place.root / user)
        added = machine.paste(secured.invite(user))
        assert added.returncode == 0, added.stderr
        (pool,) = json.loads((machine.home / "config" / "nbgpu" / "pools.json").read_text())["pools"]
        tokens[user] = pool["token"]
    folders = (f"--folder={place.folder}", f"--identity-folder={place.root / 'identity'}")
    trust = fetch_trust(secured.address, secured.pin)
    agent = Isolating(secured, (*folders, *options), variables, tokens, trust, mode)
    yield agent
    assert place.end(agent.secured.process) == 0
    for stays in ("environments", "environments-of-users", "homes-of-users"):
        shutil.rmtree(place.folder / stays, ignore_errors=True)
    place.assert_nothing_left()
    until(lambda: not any(is_of(each, place.root) for each in psutil.process_iter()))


def is_of(process: psutil.Process, place: Path) -> bool:
    """Says whether its home is in the place."""
    with contextlib.suppress(psutil.Error):
        return process.environ().get("HOME", "").startswith(str(place))
    return False


@contextlib.asynccontextmanager
async def notebook(agent: Isolating, user: str) -> AsyncIterator[Notebook]:
    """A notebook of a user's with a session, which is closed at the end."""
    async with agent.pool(user) as pool:
        spec = pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="H100", count=2)], text="H100x2")
        request = pool_pb2.OpenSessionRequest(spec=spec, notebook_id=uuid.uuid4().hex)
        async with contextlib.aclosing(pool.open_session(request)) as updates:
            *_, ready = [update async for update in updates]
        client = RecordedClient(pool, ready.session, lambda: False, Recorder, None)
        try:
            await client.connect()
            yield Notebook(None, client, pool)  # type: ignore[arg-type] # there is no link that a test would act on
            await pool.close_session(client.id)
        finally:
            await client.disconnect()


async def facts(one: Notebook, code: str) -> dict[str, Any]:
    """Runs code that fills `facts`."""
    ran = await one.run(f"import json, os\nfacts = {{}}\n{code}\nprint(json.dumps(facts))")
    found: dict[str, Any] = json.loads(ran.text)
    return found


HAS_THINGS = f"""
import socket, tempfile
from multiprocessing.shared_memory import SharedMemory
open("notes.txt", "w").write({SECRET!r})
os.chmod("notes.txt", 0o644)
os.environ["TOKEN_OF_MINE"] = {SECRET!r}
memory = SharedMemory(create=True, size=64)
listening = socket.socket(socket.AF_UNIX)
listening.bind(tempfile.gettempdir() + "/s")
listening.listen()
facts = dict(folder=os.getcwd(), pid=os.getpid(), memory=memory.name, socket=tempfile.gettempdir() + "/s",
             uid=os.getuid(), gids=os.getgroups(), home=os.path.expanduser("~"), user=os.environ["USER"],
             temporary=tempfile.gettempdir(), umask=os.umask(0o077))
"""
TRIES = """
import signal, socket
from multiprocessing.shared_memory import SharedMemory
def attempt(name, function):
    try:
        facts[name] = "read " + repr(function())[:200]
    except Exception as error:
        facts[name] = type(error).__name__
attempt("list its folder", lambda: os.listdir(bob["folder"]))
attempt("read its file", lambda: open(bob["folder"] + "/notes.txt").read())
attempt("write its file", lambda: open(bob["folder"] + "/notes.txt", "a"))
attempt("list its home", lambda: os.listdir(bob["home"]))
attempt("list its temporary files", lambda: os.listdir(bob["temporary"]))
attempt("read its variables", lambda: open(f"/proc/{bob['pid']}/environ").read())
attempt("read its memory", lambda: open(f"/proc/{bob['pid']}/mem", "rb"))
attempt("look into its folder", lambda: os.listdir(f"/proc/{bob['pid']}/cwd"))
attempt("end it", lambda: os.kill(bob["pid"], signal.SIGKILL))
attempt("attach its memory", lambda: SharedMemory(bob["memory"]))
attempt("connect to its socket", lambda: socket.socket(socket.AF_UNIX).connect(bob["socket"]))
kernel = os.path.dirname(bob["temporary"]) + "/s/k-1"
attempt("connect to its kernel", lambda: socket.socket(socket.AF_UNIX).connect(kernel))
attempt("read its blobs", lambda: os.listdir(agent + "/blobs-of-users/bob"))
attempt("list all kernels", lambda: os.listdir(agent + "/kernels"))
attempt("list the agent's folder", lambda: os.listdir(agent))
for name in ("audit.jsonl", "agent.json", "guardian"):
    attempt("read " + name, lambda: open(agent + "/" + name).read())
attempt("list all sessions", lambda: os.listdir(agent + "/sessions"))
attempt("become root", lambda: os.setuid(0))
"""


async def stacks(one: Notebook) -> session_pb2.StacksResponse:
    """Asks until the kernel answers within the time that it has, which it may not on a machine that is busy."""
    for _ in range(20):
        with contextlib.suppress(errors.KernelDiedError):
            return await one.direct.stacks(one.client.id)
    raise AssertionError("the kernel does not show its stacks")


async def stacks_while_written(one: Notebook, path: Path, pid: int) -> str:
    """Asks for stacks, while a file is written to of which the session says that its rank's stacks are in it."""
    group = {"id": "a", "world_size": 1, "cells": {}, "ranks": [{"rank": 0, "pid": pid, "stacks": str(path)}]}
    await one.run(
        "from nbgpu_kernel import whereabouts; import pathlib\n"
        f"pathlib.Path(whereabouts.folder(), 'a.group').write_text({json.dumps(group)!r})"
    )
    over = threading.Event()

    def write() -> None:
        while not over.wait(0.001):
            with path.open("a") as file:
                file.write(f"{SECRET}\n")

    writing = threading.Thread(target=write)
    writing.start()
    try:
        return str(await stacks(one))
    finally:
        over.set()
        writing.join()
