"""The end of the agent: whenever it is asked for, by whom, and whatever hangs; and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent_processes import DEADLINE_S, Workplace, client_of, is_guardian, request_for, until, workplace
from fakes.nvml.library import FakeGpu, build_library, with_library, write_state
from nbgpu_agent.app import EXIT_FORCED
from nbgpu_protocol.discovery import read_record
from nbgpu_protocol.v1 import pool_pb2

PREPARED = """
import functools, importlib, os, signal, sys, time

def wrap(owner, name, when, do):
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*arguments, **options):
        if when == "before":
            do(*arguments)
        result = original(*arguments, **options)
        if when == "after":
            do(*arguments)
        return result

    setattr(owner, name, wrapped)

{preparation}
from nbgpu_agent.app import main
main()
"""

LONG = "f" * 100
"""A name that makes an agent put its socket, and its kernels theirs, into folders elsewhere."""


@pytest.fixture
def place() -> Iterator[Workplace]:
    with workplace() as place:
        yield place


def signalled(owner: str, name: str, when: str) -> str:
    """Returns a program that runs an agent which gets SIGTERM as it calls the function of the module or class."""
    module, _, kind = owner.partition(":")
    return PREPARED.format(
        preparation=f"""
owner = importlib.import_module({module!r})
wrap(getattr(owner, {kind!r}) if {kind!r} else owner, {name!r}, {when!r}, lambda *_: os.kill(os.getpid(), 15))
"""
    )


MOMENTS = [
    ("nbgpu_agent.folders", "_lock", "after"),
    ("nbgpu_agent.kernel_records", "reap_leftovers", "before"),
    ("nbgpu_agent.folders:AgentFolders", "make_socket_path", "after"),
    ("nbgpu_agent.accelerators.inventory", "find_accelerators", "before"),
    ("nbgpu_agent.service.server", "bind", "after"),
    ("nbgpu_agent.app", "write_record", "after"),
    ("nbgpu_agent.kernels:Kernel", "_start_process", "after"),
    ("nbgpu_agent.folders:AgentFolders", "remove_record", "before"),
    ("nbgpu_agent.folders", "_remove_socket_folder", "before"),
    ("nbgpu_agent.app", "_exit_process", "before"),
]
"""From the first thing that an agent makes to the last that it removes; an agent that starts calls all of these."""


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: f"{moment[1]}-{moment[2]}")
def test_a_signal_at_any_moment_leaves_nothing(place: Workplace, moment: tuple[str, str, str]) -> None:
    folder = place.root / LONG
    process = place.start("--embedded", f"--folder={folder}", program=signalled(*moment))
    # Those moments that come with the end only want to be asked for it.
    until(lambda: process.poll() is not None or read_record(folder) is not None)
    if process.poll() is None and moment[1] in ("remove_record", "_exit_process"):
        process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0, place.log()
    place.assert_nothing_left(folder)
    assert "Traceback" not in place.log()


KILLED_AFTER = {
    "the socket's folder is made": "wrap(Path, 'mkdir', 'after', lambda path, *_: die('nbgpu-agent-' in path.name))",
    "a kernel's folder is made": "wrap(Path, 'mkdir', 'after', lambda path, *_: die(path.parent.name == 'kernels'))",
    "a kernel's short folder is made": (
        "wrap(Path, 'mkdir', 'after', lambda path, *_: die(re.fullmatch('nbgpu-[0-9a-f]{16}', path.name)))"
    ),
    "a kernel is written down": "wrap(Path, 'replace', 'before', lambda path, *_: die(path.name == 'kernel.json.new'))",
    "a kernel's process is started": "wrap(subprocess.Popen, '__init__', 'after', lambda *_: die(True))",
}


@pytest.mark.parametrize("moment", KILLED_AFTER)
def test_a_kill_at_any_moment_leaves_nothing_that_the_next_agent_does_not_remove(place: Workplace, moment: str) -> None:
    folder = place.root / LONG
    preparation = f"""
import re, subprocess
from pathlib import Path

def die(now):
    if now:
        os.kill(os.getpid(), signal.SIGKILL)

{KILLED_AFTER[moment]}
"""
    killed = place.start("--embedded", f"--folder={folder}", program=PREPARED.format(preparation=preparation))
    assert killed.wait(DEADLINE_S) == -signal.SIGKILL, place.log()
    process, record = place.start_embedded("--AgentApp.spare_kernels=0", folder=folder)
    with client_of(record) as client:
        client.handshake()
        until(lambda: [each.pid for each in place.stragglers() if not is_guardian(each)] == [process.pid])
    assert place.end(process) == 0
    place.assert_nothing_left(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_whoever_started_it_had_blocked_end_it_all_the_same(place: Workplace, number: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])  # and so in what this thread starts
    try:
        process, _ = place.start_embedded()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    assert place.end(process, number) == 0
    place.assert_nothing_left()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "Shutdown"])
def test_it_ends_while_it_is_in_use_in_every_way(place: Workplace, how: str) -> None:
    process, record = place.start_embedded()
    with client_of(record) as client, client_of(record) as idle:
        idle.handshake()
        next(client.WatchPool(pool_pb2.WatchPoolRequest(), timeout=None))
        samples = client.WatchSamples(pool_pb2.WatchSamplesRequest(history_s=10), timeout=None)
        next(samples)
        computing, flooding, asking, forked, held = (client.open(count).id for count in (1, 1, 0, 0, 2))
        streams = [
            client.connect(held),
            client.connect(computing, "print('runs')\nwhile True: pass"),
            client.connect(flooding, "while True: print('x' * 1000)"),
            client.connect(asking, "print('runs')\ninput('?')"),
            client.connect(
                forked,
                "import os, signal, time\n"
                "for _ in range(3):\n"
                "    if os.fork() == 0:\n"
                "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                "        os.setsid()\n"
                "        print('runs', flush=True)\n"
                "        time.sleep(3600)\n"
                "print('runs')\n"
                "os.wait()\n",
            ),
        ]
        for stream in streams[1:]:  # from here on nobody reads them
            until(lambda stream=stream: any(b"stream" in each for each in payloads(next(stream))))
        queued = client.OpenSession(request_for(4), timeout=None)
        assert next(queued).phase == pool_pb2.QUEUED
        starting = client.OpenSession(request_for(0), timeout=None)
        next(starting)
        if how == "Shutdown":
            client.Shutdown(pool_pb2.ShutdownRequest(close_sessions=True))
        else:
            process.send_signal(signal.Signals[how])
        assert process.wait(DEADLINE_S) == 0, place.log()
        for call in (queued, starting):
            assert_ended_in_words(call)
    place.assert_nothing_left()
    assert "did not end" not in place.log()


def payloads(frame: Any) -> list[bytes]:
    return [entry.message.payload for entry in frame.entries.entries]


def assert_ended_in_words(call: Any) -> None:
    """Looks that who waited for a session was told that the agent ends, or was given one before that."""
    try:
        assert [update.phase for update in call][-1:] in ([], [pool_pb2.READY])
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE  # noqa: PT017
        assert "is ending" in str(error.details())  # noqa: PT017


HANGS = """
import nbgpu_agent.app, nbgpu_agent.ending, nbgpu_agent.registry
nbgpu_agent.app.END_WITHIN_S = 1.0
nbgpu_agent.ending.Ending.__init__.__defaults__ = (1.0,)

def hang(*_):
    time.sleep(3600)

nbgpu_agent.{name} = hang
"""


@pytest.mark.parametrize("hanging", ["registry.SessionRegistry.close_all", "app.asyncio.run"])
def test_an_agent_that_hangs_is_ended_by_force(place: Workplace, hanging: str) -> None:
    folder = place.root / LONG
    program = PREPARED.format(preparation=HANGS.format(name=hanging))
    process = place.start("--embedded", f"--folder={folder}", program=program)
    if hanging.startswith("registry"):
        with client_of(until(lambda: read_record(folder))) as client:
            client.open(1)
    else:
        until(lambda: (folder / "socket-folder").exists())
    assert place.end(process) == EXIT_FORCED
    assert "did not end within 1 s" in place.log()
    assert " in hang" in place.log()
    place.assert_nothing_left(folder)


def test_a_server_that_does_not_stop_is_not_waited_for(place: Workplace) -> None:
    preparation = """
import asyncio
import grpc.aio._server

async def hang(*_):
    await asyncio.sleep(3600)

grpc.aio._server.Server.stop = hang
"""
    process, _ = place.start_embedded(program=PREPARED.format(preparation=preparation))
    assert place.end(process) == 0
    assert "serving did not end within" in place.log()
    place.assert_nothing_left()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.fail("no C compiler to build the fake NVML library with")
    return build_library(tmp_path_factory.mktemp("nvml"))


def readers(process: subprocess.Popen[str], fifo: Path) -> int:
    """Returns how many threads of the process have the pipe open."""
    found = 0
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found += descriptor.readlink() == fifo
    return found


@contextmanager
def hanging(fifo: Path) -> Iterator[None]:
    """Waits until the agent's driver reads the pipe, and lets it wait for what never comes."""

    def opened() -> int | None:
        with suppress(OSError):  # nobody reads yet
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        return None

    writer = until(opened)
    try:
        yield
    finally:
        os.close(writer)


def test_a_driver_that_hangs_at_the_start_does_not_keep_it(place: Workplace, library: Path) -> None:
    state = place.root / "state"
    os.mkfifo(state)
    variables = with_library({"NBGPU_SIMULATE": ""}, library, state)
    process = place.start("--embedded", f"--folder={place.folder}", **variables)
    with hanging(state):
        assert place.end(process) == 0
    assert "asked to end before the accelerators were found" in place.log()
    place.assert_nothing_left()


def test_a_driver_that_hangs_later_keeps_neither_clients_nor_the_end(place: Workplace, library: Path) -> None:
    state = place.root / "state"
    write_state(state, [FakeGpu("GPU-1")])
    process, record = place.start_embedded(**with_library({"NBGPU_SIMULATE": ""}, library, state))
    with client_of(record) as client:
        os.mkfifo(place.root / "pipe")
        (place.root / "pipe").rename(state)
        with hanging(state):
            # The sampler and both monitors: were one of the monitors alone to hang, the driver might end in time.
            until(lambda: readers(process, state) == 3)
            offers = client.ListOffers(pool_pb2.ListOffersRequest()).offers
            assert [offer.type for offer in offers] == ["H100", "CPU"]
            assert place.end(process) == 0
    assert "the accelerators' driver did not end within" in place.log()
    place.assert_nothing_left()
