"""The launcher of the ranks that stay: forks them, hands them cells, keeps what they write, frees them of each other.

A process of its own for as long as the session's kernel, in the kernel's process group: an interrupt reaches it though
the kernel waits in a collective and does not see it. It has one thread and never touches CUDA, so that a rank can be
forked whenever one is missing: 0.02 s rather than the seconds that importing torch takes.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbgpu_kernel.process import end_with_parent
from nbgpu_kernel.ranks.call_folder import CallFolder, write_json
from nbgpu_kernel.ranks.cell_hangs import TICK_S as HANG_TICK_S
from nbgpu_kernel.ranks.cell_hangs import AttendedSource, CellHangs
from nbgpu_kernel.ranks.cell_watch import TICK_S, CellWatch, Measure, Step
from nbgpu_kernel.ranks.channel import Channel, open_channel
from nbgpu_kernel.ranks.log_keeping import CHUNK_BYTES, LogKeeper, open_pipe
from nbgpu_kernel.ranks.memory_events import killed_between, read_memory_kills
from nbgpu_kernel.ranks.processes import (
    RANK_MARKER_VARIABLE,
    end_marked,
    exit_of,
    rank_mark,
    read_starts,
    signal_group,
    signal_process,
)  # fmt: skip
from nbgpu_kernel.ranks.rendezvous import Rendezvous
from nbgpu_kernel.ranks.resident import run_resident
from nbgpu_kernel.ranks.resident_shell import is_callers, make_shell
from nbgpu_kernel.ranks.stacks import main_thread
from nbgpu_kernel.whereabouts import RankProcess, forget_group, write_group

RANKS_FILE = "ranks.json"
"""In the folder of the ranks: the process ids of those that live, by number."""
_LEAVE_WITHIN_S = 5.0
_CLOSE_RANKS_WITHIN_S = 5.0
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Start:
    """What the launcher is started with."""

    folder: str
    cells: int
    """File descriptor of the channel on which it is given cells."""
    control: int
    """And of that on which it reaches the kernel while one runs."""
    kernel_pid: int
    world_size: int
    whereabouts: str | None
    """Folder in which word is left of the ranks; see `nbgpu_kernel.whereabouts`."""
    call_id: str
    """Marks the ranks and all that comes from them."""
    kernel_stacks: str | None
    """File to which the kernel appends its stacks on SIGUSR1."""


def launch(start_text: str) -> int:
    """Is the launcher, until the kernel is gone. Returns the exit code."""
    start = Start(**json.loads(start_text))
    end_with_parent(start.kernel_pid, signal.SIGTERM)  # so that it ends the ranks and tidies up; they have SIGKILL
    launcher = _Launcher(start)
    try:
        launcher.run()
    finally:
        launcher.end()
    return 0


@dataclass
class _Rank:
    """A rank that lives."""

    pid: int
    cells: Channel
    control: Channel


@dataclass
class _Cell:
    """The cell that runs."""

    number: int
    watch: CellWatch
    messages: dict[int, dict[str, Any]]
    hangs: CellHangs | None = None


class _EndedError(BaseException):
    """Raised where the launcher is to end."""


class _Launcher:
    """See the module."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._folder = CallFolder(Path(start.folder))
        self._call_id = start.call_id
        self._kernel_pid = start.kernel_pid
        self._kernel = _Rank(start.kernel_pid, _channel(start.cells), _channel(start.control))
        self._selector = selectors.DefaultSelector()
        self._logs = LogKeeper(self._folder, self._selector)
        self._ranks: dict[int, _Rank] = {}
        self._leaders: dict[int, int] = {}
        """The process ids of all ranks that there were, each with its start."""
        self._orphaning: set[int] = set()
        """The process ids of ranks that have ended, of which there may be something left."""
        self._ended: list[dict[str, Any]] = []
        """How ranks ended of which the kernel has not been told."""
        self._cell: _Cell | None = None
        self._rendezvous = Rendezvous(_open_descriptors)
        self._kills_before = read_memory_kills()
        self._leaving: set[int] = set()
        self._had_groups = False
        self._end_stores_by_s: float | None = None
        """When nobody is to wait at the stores any more, if not all that were told to leave have answered before."""
        self._wakeups, self._wakeup_writer = open_pipe()
        self._interrupts = 0
        self._is_ending = False

    def run(self) -> None:
        os.set_blocking(self._wakeup_writer, False)
        signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._on_interrupt)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it wakes the selector
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until a rank has a handler of its own
        for number in _ENDING_SIGNALS:
            signal.signal(number, self._on_end)
        self._selector.register(self._wakeups, selectors.EVENT_READ, self._on_wakeup)
        self._selector.register(self._kernel.cells, selectors.EVENT_READ, self._on_kernel)
        self._selector.register(self._kernel.control, selectors.EVENT_READ, self._on_kernel_control)
        self._folder.make_temporary()
        with contextlib.suppress(_EndedError, BrokenPipeError, ConnectionError):
            while not self._is_ending:
                self._wait(self._tick_s())
                self._look()

    def end(self) -> None:
        """Ends the ranks and all that came from them, and removes their folder."""
        for number in (signal.SIGINT, *_ENDING_SIGNALS):
            signal.signal(number, signal.SIG_IGN)
        for rank in self._ranks.values():
            # Not its group: what tidies up its shared memory does so when it is gone. See `end_marked`.
            signal_process(rank.pid, signal.SIGKILL)
        forget_group(self._start.whereabouts, self._call_id)
        self._rendezvous.end()
        end_marked(self._call_id, self._leaders)
        self._folder.remove_scratch()
        self._folder.remove()

    def _on_interrupt(self, number: int, frame: Any) -> None:
        self._interrupts += 1

    def _on_end(self, number: int, frame: Any) -> None:
        self._is_ending = True

    # -- What there is to be read ----------------------------------------------------------------------------------

    def _wait(self, timeout_s: float | None) -> None:
        for key, _ in self._selector.select(timeout_s):
            if key.fd not in self._selector.get_map():
                continue  # closed by what was done just before
            if callable(key.data):
                key.data()
            else:
                self._logs.keep(key.fd, key.data)

    def _tick_s(self) -> float | None:
        if self._cell is None:
            return None
        if self._cell.watch.needs_ticks:
            return TICK_S
        return HANG_TICK_S if self._cell.hangs is not None else None

    def _on_wakeup(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeups, CHUNK_BYTES)

    def _on_kernel(self) -> None:
        messages = self._kernel.cells.receive_available()
        if messages is None:
            raise _EndedError
        for message in messages:
            getattr(self, f"_{message['op']}")(message)

    def _on_kernel_control(self) -> None:
        messages = self._kernel.control.receive_available()
        if messages is None:
            raise _EndedError
        for message in messages:
            self._on_answer(0, message)

    def _on_answer(self, rank: int, message: dict[str, Any]) -> None:
        """Takes what a rank answers while its main thread may be busy."""
        if message["op"] == "left":
            self._leaving.discard(rank)
            self._had_groups = self._had_groups or message["had_groups"]
        elif self._cell is None or message["cell"] != self._cell.number:
            pass
        elif message["op"] == "looked":
            if self._cell.hangs is not None:
                self._cell.hangs.take(rank, message)
        elif rank in self._cell.watch.running:
            self._cell.watch.where[rank] = message["where"]

    def _on_rank(self, number: int) -> None:
        rank = self._ranks[number]
        messages = rank.cells.receive_available()
        if messages is None:
            self._selector.unregister(rank.cells)  # what ended it is seen when it can be waited for
            return
        for message in messages:
            if self._cell is None or message["cell"] != self._cell.number:
                continue
            if message["op"] == "began":
                self._take(self._cell.watch.began(number))
            else:
                self._logs.drain(number)
                self._take(self._cell.watch.report(number, message["report"], time.monotonic()))

    def _on_rank_control(self, number: int) -> None:
        messages = self._ranks[number].control.receive_available()
        if messages is None:
            self._selector.unregister(self._ranks[number].control)
            return
        for message in messages:
            self._on_answer(number, message)

    # -- What the kernel asks --------------------------------------------------------------------------------------

    def _prepare(self, message: dict[str, Any]) -> None:
        """Says which of the ranks will be made anew, how those before them ended, and where ranks find each other."""
        self._bury()
        self._end_orphans()
        ended, self._ended = self._ended, []
        if ended:
            self._leave_all()
        listener = self._listen()
        fresh = [number for number in message["ranks"] if number not in self._ranks]
        self._kernel.cells.send({"op": "prepared", "fresh": fresh, "ended": ended, "port": listener.getsockname()[1]})

    def _run(self, message: dict[str, Any]) -> None:
        """Runs a cell: its ranks are made where they are missing."""
        self._logs.move_to(CallFolder(Path(message["folder"])))
        messages = {int(number): each for number, each in message["messages"].items()}
        ranks = set(messages) | ({0} if message["runs_in_kernel"] else set())
        self._cell = _Cell(message["cell"], CellWatch(ranks), messages)
        missing = [number for number in messages if number not in self._ranks]
        if missing:
            self._make_ranks(missing, message["preload"], message["surroundings"])
        for number in messages:
            with contextlib.suppress(OSError):  # it has just ended, which is seen in a moment
                self._ranks[number].cells.send({"cell": message["cell"], **messages[number]})
        if message["hang_after_s"]:
            self._cell.hangs = self._new_hangs(self._cell, CallFolder(Path(message["folder"])), message["hang_after_s"])

    def _new_hangs(self, cell: _Cell, folder: CallFolder, hang_after_s: float) -> CellHangs:
        def source(number: int) -> AttendedSource:
            def send(question: int) -> None:
                self._tell(number, {"op": "look", "cell": cell.number, "number": question})

            stacks: Path | None = self._folder.stacks(number)
            if not number:
                stacks = Path(self._start.kernel_stacks) if self._start.kernel_stacks is not None else None
            pid = self._ranks[number].pid if number else self._kernel.pid
            return AttendedSource(number, pid, stacks, send, lambda: number not in cell.watch.running)

        sources = [source(number) for number in sorted(cell.watch.ranks)]
        return CellHangs(folder, self._start.world_size, hang_after_s, sources, lambda: self._logs.written_bytes)

    def _done(self, message: dict[str, Any]) -> None:
        """Takes the kernel's own report, as that of rank 0."""
        if self._cell is not None and message["cell"] == self._cell.number:
            self._take(self._cell.watch.report(0, message["report"], time.monotonic()))

    # -- Ranks -----------------------------------------------------------------------------------------------------

    def _make_ranks(self, numbers: Iterable[int], preload: Iterable[str], surroundings: dict[str, Any]) -> None:
        if "sys_path" in surroundings:
            sys.path[:] = surroundings["sys_path"]
        for name in preload:
            with contextlib.suppress(Exception):  # a cell that needs it says so
                importlib.import_module(name)
        shell = make_shell()
        for number in numbers:
            for path in (self._folder.crash(number), self._folder.stacks(number)):
                path.unlink(missing_ok=True)
            outputs = (self._logs.open_pipe(number, is_stderr=False), self._logs.open_pipe(number, is_stderr=True))
            (cells, ranks_cells), (control, ranks_control) = open_channel(), open_channel()
            inherited = _open_descriptors()
            parent = os.getpid()
            pid = os.fork()
            if not pid:
                run_resident(number, parent, self._folder, outputs, (ranks_cells, ranks_control), inherited, shell)
            for descriptor in outputs:
                os.close(descriptor)
            ranks_cells.close()
            ranks_control.close()
            self._ranks[number] = _Rank(pid, cells, control)
            self._selector.register(cells, selectors.EVENT_READ, lambda number=number: self._on_rank(number))
            self._selector.register(control, selectors.EVENT_READ, lambda number=number: self._on_rank_control(number))
        self._write_ranks()

    def _write_ranks(self) -> None:
        """Leaves word of those that live, for the kernel and for whoever wants to know where they are."""
        self._leaders |= read_starts(rank.pid for rank in self._ranks.values())
        with contextlib.suppress(FileNotFoundError):  # the session is gone, and the folder with it
            self._folder.write_leaders(self._leaders)
            write_json(self._folder.path / RANKS_FILE, {number: rank.pid for number, rank in self._ranks.items()})
        processes = {
            number: RankProcess(number, rank.pid, str(self._folder.stacks(number)))
            for number, rank in self._ranks.items()
        }
        write_group(self._start.whereabouts, self._call_id, self._start.world_size, processes)

    def _bury(self) -> None:
        """Takes note of ranks that have ended."""
        for number, rank in list(self._ranks.items()):
            found = exit_of(rank.pid)
            if found is None:
                continue
            for channel in (rank.cells, rank.control):
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(channel)
                channel.close()
            self._logs.close_pipes(number)
            # What it has started has its connections open as well, to which others listen.
            signal_group(rank.pid, signal.SIGTERM)
            self._orphaning.add(rank.pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(rank.pid, 0)
            del self._ranks[number]
            self._leaving.discard(number)
            exit_code, signal_number = found
            ended = {"rank": number, "exit_code": exit_code, "signal": signal_number}
            self._ended.append(ended)
            if self._cell is not None:
                self._take(self._cell.watch.report(number, self._vanished(number, ended), time.monotonic()))
            self._write_ranks()

    def _end_orphans(self) -> None:
        """Ends what is left of ranks that have ended. Blocks, for a second where something does not end by itself."""
        while self._orphaning:
            pid = self._orphaning.pop()
            leaders = {pid: self._leaders[pid]} if pid in self._leaders else {}
            end_marked(rank_mark(self._call_id, pid), leaders, variable=RANK_MARKER_VARIABLE)

    def _vanished(self, number: int, ended: dict[str, Any]) -> dict[str, Any]:
        report = {**ended, "kind": "vanished", "time_s": time.monotonic()}
        with contextlib.suppress(OSError):
            stack = main_thread(self._folder.crash(number).read_text(errors="replace"))
            frames = itertools.takewhile(lambda frame: not is_callers(frame.file), stack)
            report["stack"] = [asdict(frame) for frame in frames]
        return report

    # -- A cell's course -------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Notices what came by no channel, and does what is due."""
        self._bury()
        cell, interrupts, self._interrupts = self._cell, self._interrupts, 0
        if cell is None:
            return
        if interrupts:
            self._take(cell.watch.interrupt(time.monotonic()))
        self._take(cell.watch.tick(time.monotonic()))
        if self._end_stores_by_s is not None and (not self._leaving or time.monotonic() > self._end_stores_by_s):
            self._end_stores()
        if cell.hangs is not None and not cell.watch.needs_ticks:
            cell.hangs.step()
        if not cell.watch.running:
            self._finish(cell)

    def _take(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if step.measure is Measure.LEAVE:
                self._leave(step.rank)
                if self._cell is not None and step.rank in self._cell.watch.running:
                    # It may wait for others at the store, before it has a group.
                    self._end_stores_by_s = time.monotonic() + _LEAVE_WITHIN_S
            elif step.measure is Measure.ASK:
                assert self._cell is not None
                self._tell(step.rank, {"op": "where", "cell": self._cell.number})
            else:
                number = signal.SIGINT if step.measure is Measure.INTERRUPT else signal.SIGKILL
                rank = self._kernel if step.rank == 0 else self._ranks.get(step.rank)
                if rank is not None:
                    signal_process(rank.pid, number)

    def _leave(self, number: int) -> None:
        if self._tell(number, {"op": "leave"}):
            self._leaving.add(number)

    def _tell(self, number: int, message: dict[str, Any]) -> bool:
        rank = self._kernel if number == 0 else self._ranks.get(number)
        if rank is None:
            return False
        with contextlib.suppress(OSError):
            rank.control.send(message)
            return True
        return False

    def _finish(self, cell: _Cell) -> None:
        """Tells the kernel of a cell that no rank runs any more."""
        outcome = cell.watch.outcome()
        if cell.watch.is_breaking_up or any(report["kind"] == "vanished" for report in cell.watch.reports.values()):
            self._leave_all(already=cell.watch.was_told_to_leave)
        self._end_orphans()
        kills = read_memory_kills()
        if outcome["kind"] != "returned":
            outcome["killed_for_memory"] = killed_between(self._kills_before, kills)
        outcome["lost_groups"], self._had_groups = self._had_groups, False
        self._kills_before = kills
        self._cell = None
        self._kernel.cells.send({"op": "over", "cell": cell.number, "outcome": outcome})

    def _leave_all(self, already: Any = lambda rank: False) -> None:
        """Has every rank leave its groups, which have lost some of their ranks, and waits until they have."""
        for number in (0, *self._ranks):
            if not already(number):
                self._leave(number)
        deadline = time.monotonic() + _LEAVE_WITHIN_S
        while self._leaving and not self._is_ending and time.monotonic() < deadline:
            self._wait(TICK_S)
            self._bury()
        self._leaving.clear()
        self._end_stores()

    def _end_stores(self) -> None:
        self._end_stores_by_s = None
        listener = self._rendezvous.listen()
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(listener)
        self._rendezvous.end()

    def _listen(self) -> socket.socket:
        listener = self._rendezvous.listen()
        if listener.fileno() not in self._selector.get_map():
            self._selector.register(listener, selectors.EVENT_READ, lambda: self._serve(listener))
        return listener

    def _serve(self, listener: socket.socket) -> None:
        self._selector.unregister(listener)
        self._rendezvous.serve()


def _channel(descriptor: int) -> Channel:
    os.set_inheritable(descriptor, False)
    return Channel(socket.socket(fileno=descriptor))


def _open_descriptors() -> list[int]:
    """Returns the file descriptors that a forked process need not have: all but the standard ones."""
    try:
        return [int(name) for name in os.listdir("/dev/fd") if int(name) > 2]
    except OSError:
        return list(range(3, 256))
