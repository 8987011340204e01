"""A rank that stays: a process that runs one cell after the other, and keeps its variables in between."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from IPython.core.events import EventManager
from IPython.core.interactiveshell import InteractiveShell

from nbgpu_kernel.exceptions import pack_exception
from nbgpu_kernel.interrupts import Interrupts
from nbgpu_kernel.ranks import surroundings
from nbgpu_kernel.ranks.attendance import attend
from nbgpu_kernel.ranks.call_folder import CallFolder
from nbgpu_kernel.ranks.cell_values import read_cell_values
from nbgpu_kernel.ranks.channel import Channel
from nbgpu_kernel.ranks.failures import describe_exception
from nbgpu_kernel.ranks.group_release import NCCL_ABORTS_ALONE, NCCL_VARIABLE, forget_failed_groups
from nbgpu_kernel.ranks.processes import MARKER_VARIABLE, RANK_MARKER_VARIABLE, rank_mark
from nbgpu_kernel.ranks.rank_process import prepare_rank_process
from nbgpu_kernel.ranks.rendezvous import torchrun_variables
from nbgpu_kernel.ranks.resident_shell import ResidentShell, place_of_cell, without_callers
from nbgpu_kernel.values.definitions import Definitions

_FILE = re.compile(r'File "([^"]*)"')


def run_resident(
    rank: int,
    parent: int,
    folder: CallFolder,
    outputs: tuple[int, int],
    channels: tuple[Channel, Channel],
    inherited: Iterable[int],
    shell: ResidentShell,
) -> NoReturn:
    """Is a rank, in a process that was forked for it. Ends the process.

    Args:
        rank: Its number.
        parent: The launcher.
        folder: Of the ranks that stay.
        outputs: To be its standard output and error.
        channels: For cells, and for what comes while one runs.
        inherited: All of the launcher's file descriptors.
        shell: The launcher's, which becomes its own.
    """
    code = 1
    try:
        keep = {channel.fileno() for channel in channels}
        prepare_rank_process(parent, outputs, keep, inherited, folder.crash(rank), folder.stacks(rank))
        os.environ[RANK_MARKER_VARIABLE] = rank_mark(os.environ[MARKER_VARIABLE], os.getpid())
        code = _Resident(rank, channels[0], shell).run(channels[1])
    finally:
        os._exit(code)


class _Resident:
    """One rank, in its own process."""

    def __init__(self, rank: int, cells: Channel, shell: ResidentShell) -> None:
        self._rank = rank
        self._cells = cells
        self._shell = shell
        self._definitions = Definitions(shell.user_ns)
        self._interrupts = Interrupts(
            shell.user_global_ns,
            guards=frozenset([InteractiveShell.run_code.__code__]),
            callers=frozenset([EventManager.trigger.__code__]),
        )

    def run(self, control: Channel) -> int:
        """Runs cells until the launcher is gone; returns the exit code."""
        self._interrupts.install()
        attend(control, on_end=lambda: os._exit(0))
        while (message := self._cells.receive()) is not None:
            with self._interrupts.request():
                report = self._run_interruptibly(message)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):  # closed by the cell
                    stream.flush()
            self._cells.send({"op": "done", "cell": message["cell"], "report": report})
            self._interrupts.install()  # a cell may have set another
        return 0

    def _run_interruptibly(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            self._cells.send({"op": "began", "cell": message["cell"]})
            error = self._run(message)
        except BaseException as raised:  # noqa: BLE001 - whatever it is, the launcher waits to be told
            error = raised
        return report_of(error)

    def _run(self, message: dict[str, Any]) -> BaseException | None:
        namespace = self._shell.user_ns
        surroundings.apply(message["surroundings"], namespace)
        world = message["world"]
        os.environ.update(torchrun_variables(self._rank, world["size"], world["port"], world["id"]))
        os.environ.setdefault(NCCL_VARIABLE, NCCL_ABORTS_ALONE)
        forget_failed_groups()
        if message["taken"]:
            read_cell_values(Path(message["values"]), self._definitions, frozenset(message["taken"]))
        return self._shell.run(message["code"], message["execution_count"])


def _placed(line: str) -> str:
    found = _FILE.search(line)
    place = place_of_cell(found[1]) if found is not None else None
    return line.replace(found[0], place) if found is not None and place is not None else line


def report_of(error: BaseException | None) -> dict[str, Any]:
    """Returns how a cell ended on a rank, as plain data: for the launcher, and in the end for the notebook."""
    report: dict[str, Any] = {"kind": "returned", "time_s": time.monotonic()}
    if error is None:
        return report
    report["kind"] = "raised"
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        report |= {"kind": "exited", "exit_code": code, "signal": None}
    with contextlib.suppress(Exception):
        report |= describe_exception(without_callers(error))
        files = {frame["file"] for link in report["chain"] for frame in link["frames"]}
        report["places"] = {file: place for file in files if (place := place_of_cell(file)) is not None}
        for link in report["chain"]:  # of a syntax error
            link["lines"] = [_placed(line) for line in link["lines"]]
        report["exception"] = pack_exception(error)
    report["is_interrupt"] = isinstance(error, KeyboardInterrupt)
    return report
