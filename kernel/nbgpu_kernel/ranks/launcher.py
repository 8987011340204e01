"""The launcher of one call: forks its ranks, keeps what they write, notices how each ends, and ends the others.

A process of its own, so that neither torch nor a signal of the ranks comes into the session's kernel. It imports torch
once and then forks, which starts eight ranks in 0.2 s rather than 10: nothing here touches CUDA, and there is one
thread alone until the ranks are forked. torch's own `elastic.multiprocessing` starts and reaps them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbgpu_kernel.process import end_with_parent
from nbgpu_kernel.ranks.call_folder import CallFolder, Plan, write_json
from nbgpu_kernel.ranks.doctor import Hang
from nbgpu_kernel.ranks.gpu_load import read_gpu_loads
from nbgpu_kernel.ranks.hang_file import HangTeller
from nbgpu_kernel.ranks.log_keeping import CHUNK_BYTES, LogKeeper, open_pipe
from nbgpu_kernel.ranks.memory_events import killed_between, read_memory_kills
from nbgpu_kernel.ranks.processes import end_marked, exit_of, read_starts, signal_group, signal_process
from nbgpu_kernel.ranks.rank import Wiring, run_rank
from nbgpu_kernel.ranks.rendezvous import torchrun_variables
from nbgpu_kernel.ranks.stacks import collective, main_thread, users_frame
from nbgpu_kernel.ranks.watch import HangWatch, ProcessSource
from nbgpu_kernel.whereabouts import STACKS_SIGNAL, RankProcess, forget_group, write_group

_THEIR_SIGNALS = "TORCHELASTIC_SIGNALS_TO_HANDLE"
_TICK_S = 0.05
_STACKS_WITHIN_S = 0.5
_STACKS_SETTLE_S = 0.02
_GRACE_S = 1.0
_INTERRUPT_GRACE_S = 2.0
_KILL_WITHIN_S = 5.0
_ENDING_SIGNALS = {signal.SIGTERM: "cancelled", signal.SIGINT: "interrupted"}


def launch(folder_path: str) -> int:
    """Carries out the plan in a call's folder, and leaves the outcome there. Returns the exit code."""
    folder = CallFolder(Path(folder_path))
    plan = folder.read_plan()
    end_with_parent(plan.kernel_pid, signal.SIGTERM)  # so that it ends the ranks and tidies up; they have SIGKILL
    sys.path[:] = plan.sys_path
    for number in _ENDING_SIGNALS:
        signal.signal(number, _end_early)
    try:
        folder.make_temporary()
        outcome = _Launch(folder, plan).run()
    except _EndedEarlyError as ended:
        outcome = {"kind": _ENDING_SIGNALS[ended.number]}
    except Exception as error:  # noqa: BLE001 - whatever it is, the kernel is to tell it
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        outcome = {"kind": "not_launched", "ename": type(error).__name__, "evalue": str(error), "lines": lines}
        end_marked(plan.call_id, folder.read_leaders())
    folder.remove_scratch()  # whether or not anybody asks for the outcome
    with contextlib.suppress(FileNotFoundError):  # the session is gone, and the folder with it
        write_json(folder.outcome, outcome)
    return 0


class _EndedEarlyError(BaseException):
    """Raised by a signal before there are ranks to be ended.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def _end_early(number: int, frame: Any) -> None:
    raise _EndedEarlyError(number)


@dataclass
class _RankState:
    """What the launcher knows of a rank."""

    rank: int
    pid: int = 0
    report: dict[str, Any] | None = None
    """What it told itself: that it returned, or how it failed."""
    ended_s: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    stack_dump: str = ""

    @property
    def lives(self) -> bool:
        return self.ended_s is None

    @property
    def has_failed(self) -> bool:
        if self.report is not None:
            return bool(self.report["kind"] != "returned")
        return not self.lives

    @property
    def failed_s(self) -> float:
        return float(self.report["time_s"]) if self.report is not None else (self.ended_s or 0.0)


class _Launch:
    """One call's ranks, from their start to their end."""

    def __init__(self, folder: CallFolder, plan: Plan) -> None:
        self._folder = folder
        self._plan = plan
        self._selector = selectors.DefaultSelector()
        self._logs = LogKeeper(folder, self._selector)
        self._ranks = [_RankState(rank) for rank in range(plan.world_size)]
        self._asked: int | None = None
        """The signal by which the launcher was told to end."""
        self._begun_s = time.monotonic()
        self._started_s = self._begun_s
        """When the ranks were, who had waited for torch."""
        self._wakeups, self._wakeup_writer = open_pipe()
        self._reports, self._report_writer = open_pipe()
        self._wirings: list[Wiring] = []
        self._start_writers: list[int] = []
        self._question_writers: list[int] = []

    def run(self) -> dict[str, Any]:
        """Returns the outcome."""
        kills_before = read_memory_kills()
        context = self._start()
        try:
            outcome = self._watch()
        finally:
            forget_group(self._plan.whereabouts, self._plan.call_id)
            self._end_ranks(signal.SIGTERM, _GRACE_S)
            context.close(signal.SIGKILL, timeout=1)
        end_marked(self._plan.call_id, self._folder.read_leaders())
        self._pump(0)
        outcome["killed_for_memory"] = killed_between(kills_before, read_memory_kills())
        outcome["elapsed_s"] = time.monotonic() - self._begun_s
        return outcome

    # -- Start -----------------------------------------------------------------------------------------------------

    def _start(self) -> Any:
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

        os.environ[_THEIR_SIGNALS] = "SIGHUP"  # else it handles those that are ours
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        # Until a rank has a handler of its own, being asked for its stack must not end it.
        signal.signal(STACKS_SIGNAL, signal.SIG_IGN)
        self._open_pipes()
        self._handle_signals()
        inherited = tuple(_open_descriptors())
        context = start_processes(
            name="nbgpu",
            entrypoint=run_rank,
            args={rank: (rank, str(self._folder.path), self._wirings[rank], inherited) for rank in self._numbers()},
            envs={rank: {} for rank in self._numbers()},
            logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
            start_method="fork",
        )
        del os.environ[_THEIR_SIGNALS]
        for rank, pid in context.pids().items():
            self._ranks[rank].pid = pid
        self._folder.write_leaders(read_starts(state.pid for state in self._ranks))
        plan = self._plan
        write_group(plan.whereabouts, plan.call_id, plan.world_size, self._processes(), plan.cells)
        self._close_ranks_ends()
        self._send_start()
        return context

    def _processes(self) -> dict[int, RankProcess]:
        """Returns how each rank can be asked where it is."""
        return {
            state.rank: RankProcess(state.rank, state.pid, str(self._folder.stacks(state.rank)))
            for state in self._ranks
        }

    def _numbers(self) -> range:
        return range(self._plan.world_size)

    def _open_pipes(self) -> None:
        self._selector.register(self._wakeups, selectors.EVENT_READ, None)
        self._selector.register(self._reports, selectors.EVENT_READ, None)
        for rank in self._numbers():
            stdout, stderr = self._logs.open_pipe(rank, is_stderr=False), self._logs.open_pipe(rank, is_stderr=True)
            start_reader, start_writer = os.pipe()
            self._start_writers.append(start_writer)
            question_reader, question_writer = os.pipe()
            os.set_blocking(question_writer, False)
            self._question_writers.append(question_writer)
            keep = frozenset((stdout, stderr, start_reader, question_reader, self._report_writer))
            self._wirings.append(Wiring(stdout, stderr, start_reader, question_reader, self._report_writer, keep))

    def _close_ranks_ends(self) -> None:
        for wiring in self._wirings:
            for descriptor in (wiring.stdout, wiring.stderr, wiring.start, wiring.questions):
                os.close(descriptor)

    def _handle_signals(self) -> None:
        os.set_blocking(self._wakeup_writer, False)
        signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        for number in _ENDING_SIGNALS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it wakes the selector

    def _on_signal(self, number: int, frame: Any) -> None:
        self._asked = self._asked or number

    def _send_start(self) -> None:
        """Gives the ranks their variables, torchrun's, with the port of a store that listens already: no race."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        listener = socket.create_server(("127.0.0.1", 0))  # torch's own would listen on every interface
        port = listener.getsockname()[1]
        self._store = TCPStore(
            "127.0.0.1", port, None, True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        size = self._plan.world_size
        for rank, writer in enumerate(self._start_writers):
            content = json.dumps(torchrun_variables(rank, size, port, self._plan.call_id)).encode()
            with contextlib.suppress(BrokenPipeError):  # it has ended; that is noticed below
                os.write(writer, content)
            os.close(writer)
        self._started_s = time.monotonic()

    # -- Watch -----------------------------------------------------------------------------------------------------

    def _watch(self) -> dict[str, Any]:
        watch = self._new_hang_watch() if self._plan.hang_after_s else None
        while True:
            self._pump(self._wait_s())
            self._look()
            if watch is not None:
                watch.step()
            if self._asked is not None:
                grace_s = _INTERRUPT_GRACE_S if self._asked == signal.SIGINT else _GRACE_S
                self._end_ranks(self._asked, grace_s)
                return {"kind": _ENDING_SIGNALS[signal.Signals(self._asked)]}
            if any(state.has_failed for state in self._ranks):
                self._take_stacks()
                self._look()
                failed = [state for state in self._ranks if state.has_failed]
                waiting = [state for state in self._ranks if not state.has_failed]
                return {
                    "kind": "failed",
                    "failures": [self._failure(state) for state in failed],
                    "others": [self._whereabouts(state) for state in waiting],
                }
            if all(not state.lives for state in self._ranks):
                return {"kind": "returned"}
            if self._plan.timeout_s is not None and self._elapsed_s() > self._plan.timeout_s:
                self._take_stacks()
                return {
                    "kind": "timed_out",
                    "timeout_s": self._plan.timeout_s,
                    "others": [self._whereabouts(state) for state in self._ranks],
                }

    def _new_hang_watch(self) -> HangWatch:
        assert self._plan.hang_after_s is not None
        sources = [
            ProcessSource(
                state.rank,
                state.pid,
                self._folder.stacks(state.rank),
                self._folder.facts(state.rank),
                questions,
                lambda state=state: state.report is not None or not state.lives,  # type: ignore[misc]
            )
            for state, questions in zip(self._ranks, self._question_writers, strict=True)
        ]
        teller = HangTeller(self._folder.hang, self._plan.world_size)

        def tell(hang: Hang | None, now_s: float) -> None:
            teller.tell(hang, now_s, read_gpu_loads() if hang is not None else {})

        return HangWatch(sources, self._plan.hang_after_s, lambda: self._logs.written_bytes, tell)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def _wait_s(self) -> float:
        if self._plan.timeout_s is None:
            return _TICK_S
        return max(0.0, min(_TICK_S, self._plan.timeout_s - self._elapsed_s()))

    def _pump(self, wait_s: float) -> None:
        """Keeps what the ranks have written by now; waits for so long if there is nothing yet."""
        for key, _ in self._selector.select(wait_s):
            if key.data is not None:
                self._logs.keep(key.fd, key.data)
            else:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, CHUNK_BYTES)  # what was told is in the files, and in the signal's handler

    def _look(self) -> None:
        """Takes note of reports, and of processes that have ended."""
        for state in self._ranks:
            if state.report is None:
                with contextlib.suppress(OSError, ValueError):
                    state.report = json.loads(self._folder.report(state.rank).read_text())
            if state.lives and (exit_found := exit_of(state.pid)) is not None:
                state.ended_s = time.monotonic()
                state.exit_code, state.signal = exit_found
                if state.report is None:  # written between the two looks
                    with contextlib.suppress(OSError, ValueError):
                        state.report = json.loads(self._folder.report(state.rank).read_text())

    # -- Failure ---------------------------------------------------------------------------------------------------

    def _take_stacks(self) -> None:
        """Has every rank that runs write where it is."""
        sizes = {}
        for state in self._ranks:
            if state.lives:
                sizes[state.rank] = _size(self._folder.stacks(state.rank))
                signal_process(state.pid, STACKS_SIGNAL)
        deadline = time.monotonic() + _STACKS_WITHIN_S
        before: dict[int, int] = {}
        while sizes and time.monotonic() < deadline:
            self._pump(_STACKS_SETTLE_S)
            now = {rank: _size(self._folder.stacks(rank)) for rank in sizes}
            if now == before and all(now[rank] > sizes[rank] for rank in sizes):
                break
            before = now
        for state in self._ranks:
            with contextlib.suppress(OSError):
                state.stack_dump = self._folder.stacks(state.rank).read_text(errors="replace")

    def _failure(self, state: _RankState) -> dict[str, Any]:
        report = dict(state.report or {"kind": "vanished"})
        report |= {"rank": state.rank, "time_s": state.failed_s}
        if report["kind"] == "vanished":
            report |= {"exit_code": state.exit_code, "signal": state.signal}
            with contextlib.suppress(OSError):
                frames = main_thread(self._folder.crash(state.rank).read_text(errors="replace"))
                report["stack"] = [asdict(frame) for frame in frames]
        return report

    def _whereabouts(self, state: _RankState) -> dict[str, Any]:
        frames = main_thread(state.stack_dump)
        own = users_frame(frames)
        return {
            "rank": state.rank,
            "returned": state.report is not None and state.report["kind"] == "returned",
            "collective": collective(frames),
            "frame": asdict(own) if own is not None else None,
            "stack": [asdict(frame) for frame in frames],
        }

    def _end_ranks(self, number: int, grace_s: float) -> None:
        """Ends the ranks that run: by the signal, which their children get as well, and after the grace killed."""
        kill_s = time.monotonic() + grace_s
        self._look()
        for state in self._ranks:
            if state.lives:
                signal_group(state.pid, number)
        while any(state.lives for state in self._ranks) and time.monotonic() < kill_s + _KILL_WITHIN_S:
            self._pump(_STACKS_SETTLE_S)
            self._look()
            if time.monotonic() > kill_s:
                # Not its group: what tidies up its shared memory does so when it is gone. See `end_marked`.
                for state in self._ranks:
                    if state.lives:
                        signal_process(state.pid, signal.SIGKILL)


def _open_descriptors() -> list[int]:
    """Returns the file descriptors that the ranks need not have: all but the standard ones."""
    try:
        return [int(name) for name in os.listdir("/dev/fd") if int(name) > 2]
    except OSError:
        return list(range(3, 256))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
