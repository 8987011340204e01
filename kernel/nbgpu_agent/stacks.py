"""Asks processes of a kernel where their code is: by a signal that faulthandler answers, else by py-spy if it is here.

faulthandler writes from a signal's handler in C, so it also answers for a process that computes, or waits, in C: for
its main thread, since the others run on meanwhile, and to read theirs then has crashed processes. A kernel is asked by
message first, which it answers for all its threads, with Python's lock held, unless code in C keeps that to itself.
faulthandler does not answer for a process whose code has taken the signal for itself; py-spy reads that one from
outside, where it is installed and the operating system permits it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbgpu_agent.isolation.confined import open_as_seen_by
from nbgpu_agent.isolation.os_user import OsUser, acting, read_regular
from nbgpu_agent.processes import bears_marker, signal_process

CELLS_FILE = "cells"
GROUP_PATTERN = "*.group"
STACKS_REQUEST = "nbgpu_stacks_request"
ALL_THREADS_MARK = "nbgpu: all threads\n"
"""Written before what answers a message."""
ANSWER_WITHIN_S = 5.0
_MESSAGE_WITHIN_S = 0.5
_MAIN_THREAD_ALONE = re.compile(r"^Stack \(most recent call first\):\n(?:  .*\n?)*", re.MULTILINE)
_POLL_S = 0.01
_PY_SPY_WITHIN_S = 10.0
_MAX_DUMP_BYTES = 1 << 20
_MAX_CELLS_BYTES = 1 << 20
_MAX_GROUP_BYTES = 16 << 20


@dataclass(frozen=True)
class StackSource:
    """A process that can be asked, and where it writes its answer."""

    pid: int
    path: Path
    rank: int | None = None
    world_size: int = 0
    group_id: str = ""
    send_request: Callable[[], None] | None = None
    """Asks it by message, where it answers to that."""


@dataclass(frozen=True)
class ProcessStacks:
    """What one process answered."""

    pid: int
    dump: str
    """As faulthandler writes it; empty if it did not answer."""
    rank: int | None = None
    world_size: int = 0
    group_id: str = ""
    """Of the call that it is a rank of."""


@dataclass(frozen=True)
class Stacks:
    """Where a kernel and its ranks are."""

    processes: tuple[ProcessStacks, ...]
    """The kernel's first, then the ranks in order."""
    cells: Mapping[str, int]
    """Files that the stacks name, and the number of the cell whose code each is."""


def read_groups(
    folder: Path, marker: str, uid: int | None = None, numbers: Mapping[int, int] | None = None
) -> tuple[list[StackSource], dict[str, int]]:
    """Returns the ranks that the folder tells of, those that run and are the kernel's, and the notebook's own cells.

    Args:
        folder: In which `nbgpu_kernel.whereabouts` leaves word.
        marker: Of the kernel's processes: no other is ever signalled, whatever a file says.
        uid: Of the kernel's user; None: the agent's.
        numbers: By which processes are known here, by those that the folder tells; None: the same.
    """
    sources: list[StackSource] = []
    cells: dict[str, int] = {}
    for path in sorted(folder.glob(GROUP_PATTERN)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            group = json.loads(read_regular(path, _MAX_GROUP_BYTES))
            for each in sorted(group["ranks"], key=lambda each: int(each["rank"])):
                pid = int(each["pid"])
                pid = pid if numbers is None else numbers[pid]
                if bears_marker(pid, marker, uid):
                    rank, world_size = int(each["rank"]), int(group["world_size"])
                    sources.append(StackSource(pid, Path(each["stacks"]), rank, world_size, str(group["id"])))
            cells.update({str(name): int(number) for name, number in group["cells"].items()})
    return sources, cells


def read_cells(folder: Path, others: Mapping[str, int], dumps: Iterable[str]) -> dict[str, int]:
    """Returns the cells whose files the dumps name.

    Args:
        folder: In which `nbgpu_kernel.whereabouts` leaves word of the cells that ran.
        others: That did not run there.
        dumps: The stacks.
    """
    lines: list[str] = []
    with contextlib.suppress(OSError), open(folder / CELLS_FILE, "rb", opener=_open_no_link) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _MAX_CELLS_BYTES))
        lines = file.read(_MAX_CELLS_BYTES).decode(errors="replace").splitlines()
    text = "\n".join(dumps)
    known = dict(others)
    for line in lines:
        number, tab, name = line.partition("\t")
        if tab and number.isdecimal():
            known[name] = int(number)
    return {name: number for name, number in known.items() if f'"{name}"' in text}


async def take_stacks(
    sources: Sequence[StackSource],
    within_s: float = ANSWER_WITHIN_S,
    *,
    py_spy: str | None = "py-spy",
    os_user: OsUser | None = None,
    seen_by: int | None = None,
) -> list[ProcessStacks]:
    """Asks all at once, and returns their answers in the same order.

    Args:
        sources: Whom. One of a process that has ended does not answer.
        within_s: For how long to wait.
        py_spy: The program to ask about those that do not answer; None: none.
        os_user: Who writes the answers, which are read with their rights; None: the agent's own.
        seen_by: A process in whose sandbox the answers are; None: they are in none.
    """
    before = _sizes(sources, os_user, seen_by)
    by_message = {source.pid for source in sources if source.send_request is not None}
    for source in sources:
        if source.send_request is not None:
            source.send_request()
        else:
            signal_process(source.pid, signal.SIGUSR1)
    loop = asyncio.get_running_loop()
    start = loop.time()
    sizes: dict[int, int] = {}
    while sources and loop.time() < start + within_s:
        await asyncio.sleep(_POLL_S)
        if by_message and loop.time() >= start + _MESSAGE_WITHIN_S:
            for pid in by_message:
                if sizes.get(pid) == before[pid]:
                    signal_process(pid, signal.SIGUSR1)
            by_message.clear()
        previous, sizes = sizes, _sizes(sources, os_user, seen_by)
        # Written, and nothing more comes. What is cut back meanwhile is smaller.
        if previous == sizes and all(sizes[pid] != before[pid] for pid in sizes):
            break
    with acting(os_user):
        dumps = [_read(source.path, before[source.pid], seen_by) for source in sources]
    silent = [at for at, dump in enumerate(dumps) if not dump]
    program = shutil.which(py_spy) if py_spy else None
    if silent and program is not None:
        found = await asyncio.gather(*(_ask_py_spy(program, sources[at].pid) for at in silent))
        for at, dump in zip(silent, found, strict=True):
            dumps[at] = dump
    return [
        ProcessStacks(source.pid, dump, source.rank, source.world_size, source.group_id)
        for source, dump in zip(sources, dumps, strict=True)
    ]


async def _ask_py_spy(program: str, pid: int) -> str:
    """Returns the stacks as faulthandler would write them; empty if they cannot be had."""
    process = await asyncio.create_subprocess_exec(
        program, "dump", "--json", "--nonblocking", "--pid", str(pid),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _PY_SPY_WITHIN_S)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, asyncio.TimeoutError):
            return ""
        raise
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return _as_faulthandler(json.loads(output), pid)
    return ""


def _as_faulthandler(threads: list[dict[str, object]], pid: int) -> str:
    """Writes py-spy's threads as faulthandler does, the main thread last."""
    lines = []
    for thread in sorted(threads, key=lambda each: each.get("os_thread_id") == pid):
        lines.append(f"Thread 0x{int(str(thread['thread_id'])):016x} (most recent call first):")
        frames = thread["frames"]
        assert isinstance(frames, list)
        lines += [f'  File "{frame["filename"]}", line {frame["line"]} in {frame["name"]}' for frame in frames]
    return "\n".join(lines) + "\n" if lines else ""


def _read(path: Path, before: int, seen_by: int | None) -> str:
    try:
        with open(_open(path, seen_by), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = before if size >= before else 0
            if size == start:
                return ""
            file.seek(max(start, size - _MAX_DUMP_BYTES))
            return _newest(file.read(_MAX_DUMP_BYTES).decode(errors="replace"))
    except OSError:
        return ""


def _newest(dump: str) -> str:
    """Returns the last answer to a message, if there is one, without what the signal brought beside it."""
    _, mark, threads = dump.rpartition(ALL_THREADS_MARK)
    return (
        re.sub(r"^Stack \(most recent call first\):\n(?:  .*\n?)*", "", threads, flags=re.MULTILINE) if mark else dump
    )


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _open(path: Path, seen_by: int | None) -> int:
    if seen_by is not None:
        return open_as_seen_by(seen_by, path)
    return _open_no_link(os.fspath(path), os.O_RDONLY)


def _sizes(sources: Iterable[StackSource], os_user: OsUser | None, seen_by: int | None) -> dict[int, int]:
    with acting(os_user):
        return {source.pid: _size(source.path, seen_by) for source in sources}


def _size(path: Path, seen_by: int | None) -> int:
    try:
        if seen_by is None:
            return path.stat().st_size
        descriptor = open_as_seen_by(seen_by, path)
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    except OSError:
        return 0
