"""One cell, one fault at a chosen moment of its output, and what came of both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from agent_processes import Workplace
from fakes.link import Link, link_to
from nbgpu import errors
from nbgpu.client.pool import Pool
from nbgpu_protocol.v1 import pool_pb2
from recorded_sessions import DEADLINE_S, Notebook, RecordedClient, Recorder, until

TOKEN = "a-token-of-the-faults"
CELL = """
import sys, time
from IPython.display import display
for i in range(600):
    print("line", i)
    if i % 7 == 0:
        print("on the other stream", i, file=sys.stderr)
    if i % 200 == 150:
        display({"text/plain": f"{i:x}" * 300_000, "x/raw": str(i)}, raw=True)
    if i % 6 == 0:
        time.sleep(0.01)
"the last line"
"""
STDOUT = "".join(f"line {i}\n" for i in range(600))


@dataclass
class Place:
    """An agent on a port of its own, which can be killed and started again."""

    workplace: Workplace
    process: Any = None
    port: int = 0
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    program: str = ""
    """Runs the agent in a way of its own; empty: as people run it."""

    def start(self) -> None:
        self.process = self.workplace.start(
            f"--listen=127.0.0.1:{self.port}",
            f"--folder={self.workplace.folder}",
            *self.options,
            program=self.program,
            **{"NBGPU_AGENT_TOKEN": TOKEN, **self.environment},
        )
        line = self.process.stdout.readline()
        assert line, self.workplace.log()
        self.port = int(line.strip().rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> list[str]:
        """Ends the agent in order; returns what is left in words."""
        self.workplace.end(self.process)
        deadline = time.monotonic() + DEADLINE_S
        while self.workplace.stragglers() and time.monotonic() < deadline:
            time.sleep(0.05)  # what watched over an agent that was killed ends when it has seen the next one
        left = [f"process {each.pid} {each.name()}" for each in self.workplace.stragglers()]
        left += sorted(self.workplace.left_in(self.workplace.folder))
        return left + sorted(each.name for each in (self.workplace.root / "tmp").iterdir())


@dataclass
class Scene:
    """What a fault may act on."""

    place: Place
    notebook: Notebook
    link: Link
    moments: random.Random
    """Chooses what else there is to choose."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    output: tuple[Any, ...]
    """Everything that answered the cell, neighbouring pieces of a stream as one."""
    error: str = ""
    """Name of the exception, if the cell ended with one."""
    dropped: int = field(default=0, compare=False)
    """Messages of which it was said that they are not held any more."""


Fault = Callable[[Scene], Awaitable[None]]


class HasNotebook(Protocol):
    """In which a cell runs."""

    @property
    def notebook(self) -> Notebook: ...


S = TypeVar("S", bound=HasNotebook)


async def cut_link(scene: Scene) -> None:
    """Ends the connection, and refuses others until several were tried."""
    refused = scene.link.refused
    scene.link.take_down()
    await until(lambda: scene.link.refused >= refused + 3)
    scene.link.restore()


async def half_open(scene: Scene) -> None:
    """Has the connection carry nothing, until the cell is over; then ends it."""
    scene.link.stall()
    await scene.notebook.agent_is(lambda session: session.kernel_state == pool_pb2.KERNEL_IDLE)
    scene.link.cut()


async def slow_link(scene: Scene) -> None:
    """Delays everything from now on."""
    scene.link.delay_s = 0.05


async def kill_agent(scene: Scene) -> None:
    """Kills the agent, and starts another."""
    scene.place.kill()
    scene.place.start()


async def kill_agent_twice(scene: Scene) -> None:
    """Kills the agent, and the next one as soon as it serves."""
    scene.place.kill()
    scene.place.start()
    scene.place.kill()
    scene.place.start()


async def kill_agent_for_long(scene: Scene) -> None:
    """Kills the agent, and starts another when the cell has long been over."""
    scene.place.kill()
    await asyncio.sleep(4.0)  # longer than the cell takes: nobody is there to say that it is over
    scene.place.start()


async def kill_kernel(scene: Scene) -> None:
    """Kills the session's kernel."""
    session = next(each for each in await scene.notebook.direct.list_sessions() if each.id == scene.notebook.client.id)
    assert session.kernel_state == pool_pb2.KERNEL_EXECUTING
    for process in scene.place.workplace.stragglers():
        with contextlib.suppress(Exception):
            if process.environ().get("NBGPU_KERNEL_ID") and os.path.basename(process.cwd()).startswith("session-"):
                process.send_signal(signal.SIGKILL)


@contextlib.asynccontextmanager
async def scene_in(place: Place, moments: random.Random | None = None) -> AsyncIterator[Scene]:
    """A session of the place's agent, over a link."""
    async with (
        link_to(place.port) as link,
        Pool(link.target, TOKEN) as pool,
        Pool(f"127.0.0.1:{place.port}", TOKEN) as direct,
        session_of(pool, direct, link) as notebook,
    ):
        yield Scene(place, notebook, link, moments or random.Random())


@contextlib.asynccontextmanager
async def session_of(pool: Pool, direct: Pool, link: Link) -> AsyncIterator[Notebook]:
    """A session whose client uses a pool, and is watched over another connection to it."""
    spec = pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="H100", count=1)], text="H100")
    request = pool_pb2.OpenSessionRequest(spec=spec, notebook_id=os.urandom(4).hex())
    async with contextlib.aclosing(direct.open_session(request)) as updates:
        *_, ready = [update async for update in updates]
    client = RecordedClient(pool, ready.session, lambda: False, Recorder, None)
    try:
        await client.connect()
        yield Notebook(link, client, direct)
    finally:
        await client.disconnect()
        await direct.close_session(ready.session.id)


async def run_cell(
    scene: S, fault: Callable[[S], Awaitable[None]] | None = None, after_characters: int = 0, code: str = CELL
) -> Outcome:
    """Runs the cell, with the fault once so much of its output has come."""
    notebook = scene.notebook
    first = len(notebook.client.messages)
    request, recorder = await notebook.send(code)
    answering = asyncio.create_task(notebook.answer(request))
    if fault is not None:
        await until(lambda: len(recorder.text) >= after_characters or answering.done())
        await fault(scene)
    error = ""
    try:
        await answering
    except errors.Error as failure:
        error = type(failure).__name__
    messages = notebook.client.messages[first:]
    if code != CELL:  # one that waits, which is to say nothing else
        messages = [each for each in messages if each[1]["msg_type"] != "execute_input"]
    return Outcome(tuple(normalised(messages)), error, notebook.client.dropped)


def without_code(outcome: Outcome) -> Outcome:
    """Returns what came but for the code, to be compared with what came of a cell that waits."""
    return replace(outcome, output=tuple(each for each in outcome.output if each[1] != "execute_input"))


def lost(found: Outcome, undisturbed: Outcome) -> str:
    """Returns what is missing or other than in an undisturbed run, in words; empty: nothing is."""
    if found == undisturbed:
        return ""
    if found.error != undisturbed.error:
        return f"ended with {found.error or 'no error'}"
    for index, (here, there) in enumerate(zip(found.output, undisturbed.output, strict=False)):
        if here != there:
            return f"message {index}: {_first_difference(str(here), str(there))}"
    return f"{len(found.output)} messages for {len(undisturbed.output)}"


def _first_difference(here: str, there: str) -> str:
    at = next((at for at, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), min(len(here), len(there)))
    return f"{here[max(0, at - 20) : at + 30]!r} for {there[max(0, at - 20) : at + 30]!r}, of {len(here)}, {len(there)}"


def is_beginning(found: Outcome, undisturbed: Outcome) -> bool:
    """Says whether what came before a kernel was killed is what it should be, to the point where it ends."""
    mine, whole = (
        "".join(text for kind, text in _streams(each.output) if kind == "stdout") for each in (found, undisturbed)
    )
    return whole.startswith(mine)


def is_part(found: Outcome, undisturbed: Outcome) -> bool:
    """Says whether all that came is output of an undisturbed run, in its order, with pieces missing between."""
    for name in ("stdout", "stderr"):
        mine, whole = (
            "".join(text for kind, text in _streams(each.output) if kind == name) for each in (found, undisturbed)
        )
        at = 0
        for line in mine.splitlines(keepends=True):
            if line.startswith("nbgpu: "):  # says how much is missing
                continue
            at = whole.find(line, at)
            if at < 0:
                return False
            at += len(line)
    return True


def _streams(output: Sequence[Any]) -> list[tuple[str, str]]:
    return [(each[2]["name"], each[2]["text"]) for each in output if each[1] == "stream"]


def normalised(messages: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Returns channel, type and content of each; pieces of a stream as one, whichever came between two others."""
    found: list[tuple[Any, ...]] = []
    open_streams: dict[str, int] = {}
    for channel, header, _, _, content, *buffers in messages:
        decoded = json.loads(content)
        if header["msg_type"] == "stream":
            # The two streams are flushed each for itself: how their pieces lie to each other is a matter of time.
            at = open_streams.get(decoded["name"])
            if at is not None:
                found[at][2]["text"] += decoded["text"]
                continue
            open_streams[decoded["name"]] = len(found)
        else:
            open_streams = {}
        found.append((channel, header["msg_type"], decoded, *buffers))
    # Which of the two streams came first after a display is a matter of time as well.
    return sorted_streams(found)


def sorted_streams(messages: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Puts neighbouring messages of streams in the order of the streams' names."""
    result: list[tuple[Any, ...]] = []
    run: list[tuple[Any, ...]] = []
    for each in messages:
        if each[1] == "stream":
            run.append(each)
            continue
        result += sorted(run, key=lambda message: str(message[2]["name"]))
        run = []
        result.append(each)
    return [*result, *sorted(run, key=lambda message: str(message[2]["name"]))]
