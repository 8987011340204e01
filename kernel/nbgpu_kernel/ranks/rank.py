"""What runs in a rank: prepares the process, calls the function, and leaves its result, or how it failed, in a file."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from nbgpu_kernel.ranks.call_folder import CallFolder, write_json
from nbgpu_kernel.ranks.facts import answer_from_now_on
from nbgpu_kernel.ranks.failures import describe_exception
from nbgpu_kernel.ranks.message_file import write_values
from nbgpu_kernel.ranks.payload import read_call
from nbgpu_kernel.ranks.rank_process import prepare_rank_process
from nbgpu_kernel.values.definitions import Definitions

_HOLD_S = 5.0
"""A rank that failed stays for so long, so that the others are still where they were when their stacks are taken."""


@dataclass(frozen=True)
class Wiring:
    """The file descriptors that a rank has of its launcher."""

    stdout: int
    stderr: int
    start: int
    """To be read: environment variables as JSON, then its end."""
    questions: int
    """To be read: a byte for each time that the launcher wants to know what torch knows."""
    reports: int
    """To be written: the rank's number, when its report is there."""
    keep: frozenset[int]
    """All of these; the launcher's others are closed."""


def run_rank(rank: int, folder_path: str, wiring: Wiring, inherited: tuple[int, ...]) -> NoReturn:
    """Runs the call's function as one rank, in a process that was forked for it. Ends the process.

    Args:
        rank: Its number.
        folder_path: The call's folder.
        wiring: Its file descriptors.
        inherited: All of the launcher's file descriptors.
    """
    code = 1
    try:
        code = _Rank(rank, CallFolder(Path(folder_path)), wiring).run(inherited)
    finally:
        os._exit(code)


class _Rank:
    """One rank, in its own process."""

    def __init__(self, rank: int, folder: CallFolder, wiring: Wiring) -> None:
        self._rank = rank
        self._folder = folder
        self._wiring = wiring
        self._parent = os.getppid()

    def run(self, inherited: tuple[int, ...]) -> int:
        """Returns the exit code."""
        try:
            self._prepare(inherited)
            self._call()
        except BaseException as error:  # noqa: BLE001 - whatever ends the function is told
            return self._fail(error)
        self._finish()
        return 0

    def _prepare(self, inherited: tuple[int, ...]) -> None:
        prepare_rank_process(
            self._parent,
            (self._wiring.stdout, self._wiring.stderr),
            self._wiring.keep,
            inherited,
            self._folder.crash(self._rank),
            self._folder.stacks(self._rank),
        )
        answer_from_now_on(self._wiring.questions, self._folder.facts(self._rank))

    def _call(self) -> None:
        main = sys.modules["__main__"] = ModuleType("__main__")
        definitions = Definitions(main.__dict__)
        main.__dict__["__builtins__"] = __builtins__
        self._await_start()
        function, args, kwargs = read_call(self._folder.payload, definitions)
        try:
            value = _call(function, args, kwargs)
        except BaseException as error:
            with contextlib.suppress(Exception):  # not every exception can leave its process; what it said does
                write_values(self._folder.error(self._rank), {"error": error}, definitions)
            raise
        self._write_result(value, definitions, getattr(function, "__name__", "the function"))

    def _await_start(self) -> None:
        content = b""
        while piece := os.read(self._wiring.start, 1 << 16):
            content += piece
        if not content:
            raise InterruptedError("the launcher ended before it started the ranks")
        os.environ.update(json.loads(content))

    def _write_result(self, value: Any, definitions: Definitions, name: str) -> None:
        try:
            write_values(self._folder.result(self._rank), {"value": value}, definitions)
        except Exception as error:
            kind = type(value).__qualname__
            raise TypeError(f"what {name} returned, a {kind}, cannot leave rank {self._rank}: {error}") from error
        write_json(self._folder.report(self._rank), {"kind": "returned", "time_s": time.monotonic()})
        self._tell()

    def _fail(self, error: BaseException) -> int:
        """Tells of an exception, and stays until the others' stacks are taken."""
        failed_s = time.monotonic()
        code = 1
        report: dict[str, Any] = {"kind": "raised", "time_s": failed_s}
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            report |= {"kind": "exited", "exit_code": code}
            if error.code is not None and not isinstance(error.code, int):
                print(error.code, file=sys.stderr)
        with contextlib.suppress(Exception):
            report |= describe_exception(error)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        with contextlib.suppress(OSError):
            write_json(self._folder.report(self._rank), report)
            self._tell()
            select.select([], [], [], _HOLD_S)
        return code or 1

    def _tell(self) -> None:
        os.write(self._wiring.reports, b"%d\n" % self._rank)

    def _finish(self) -> None:
        """Does what an interpreter does at its end, and a forked process leaves out."""
        threading._shutdown()  # type: ignore[attr-defined] # waits for threads that are no daemons
        atexit._run_exitfuncs()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return function(*args, **kwargs)
    except SystemExit as end:
        if end.code:
            raise
        return None  # as launchers have it, a script that ends well
