"""The ranks that stay, as their session's kernel has them: started when a cell first wants them, and given cells."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbgpu_kernel import whereabouts
from nbgpu_kernel.ranks.attendance import attend
from nbgpu_kernel.ranks.call_folder import CallFolder
from nbgpu_kernel.ranks.channel import Channel
from nbgpu_kernel.ranks.processes import MARKER_VARIABLE, end_marked
from nbgpu_kernel.ranks.resident_launcher import RANKS_FILE, Start
from nbgpu_kernel.ranks.spmd_replies import LauncherEndedError
from nbgpu_kernel.ranks.surroundings import rank_environment

KEPT_CELLS = 10
"""Of so many cells what the ranks wrote is kept, for the life of their launcher."""
_END_WITHIN_S = 12.0
_SCRIPT = Path(__file__).resolve().parent.parent
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Prepared:
    """What the launcher says before a cell."""

    fresh: frozenset[int]
    """Ranks that will be made for it, and have nothing."""
    ended: list[dict[str, Any]]
    """How those ended that were there before."""
    port: int
    """At which the ranks find each other."""


class Residents:
    """The launcher of one session's ranks. For the kernel's main thread.

    Args:
        world_size: How many ranks there are, with the kernel itself.
    """

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.id = secrets.token_hex(4)
        self._folder = CallFolder(Path(tempfile.gettempdir()) / self.id)
        self._cells: list[int] = []
        """Numbers of those whose output is kept."""
        self._count = 0
        self._folder.make()
        cells, launchers_cells = socket.socketpair()
        control, launchers_control = socket.socketpair()
        self._channel = Channel(cells)
        start = Start(
            str(self._folder.path),
            launchers_cells.fileno(),
            launchers_control.fileno(),
            os.getpid(),
            world_size,
            whereabouts.folder(),
            self.id,
            whereabouts.stacks_file(),
        )
        with open(self._folder.launcher_log, "ab") as log:
            # In the kernel's process group: it sees interrupts that the kernel does not while it waits for other ranks.
            self._process = subprocess.Popen(
                [sys.executable, str(_SCRIPT), "--resident-ranks", json.dumps(asdict(start))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._variables(),
                pass_fds=[start.cells, start.control],
            )
        launchers_cells.close()
        launchers_control.close()
        self.on_leave: Callable[[], None] = lambda: None
        """Called in another thread when the kernel is to give up its process groups."""
        attend(Channel(control), on_end=lambda: None, on_leave=lambda: self.on_leave())

    def _variables(self) -> dict[str, str]:
        threads = str(max(1, (os.cpu_count() or 1) // self.world_size))
        given = dict.fromkeys(_THREAD_VARIABLES, threads) | {
            name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ
        }
        return {**rank_environment(), **given, MARKER_VARIABLE: self.id, "TMPDIR": str(self._folder.temporary)}

    def prepare(self, ranks: Collection[int]) -> Prepared:
        """Asks what there is before a cell.

        Raises:
            LauncherEndedError: The launcher is gone.
        """
        answer = self._ask({"op": "prepare", "ranks": sorted(ranks)})
        return Prepared(frozenset(answer["fresh"]), answer["ended"], answer["port"])

    def new_cell(self) -> CallFolder:
        """Makes the folder of the next cell; of those long ago what the ranks wrote is forgotten."""
        self._count += 1
        folder = self._cell_folder(self._count)
        folder.make()
        self._cells.append(self._count)
        while len(self._cells) > KEPT_CELLS:
            self._cell_folder(self._cells.pop(0)).remove()
        return folder

    def run(self, messages: Mapping[int, Mapping[str, Any]], *, runs_in_kernel: bool, **further: Any) -> None:
        """Has ranks run the cell whose folder was made last.

        Args:
            messages: What each of them is told.
            runs_in_kernel: Whether the kernel is one of those that run it.
            further: `preload`, `surroundings`, `hang_after_s`.

        Raises:
            LauncherEndedError: The launcher is gone.
        """
        self._send(
            {
                "op": "run", "cell": self._count, "folder": str(self._cell_folder(self._count).path),
                "messages": messages, "runs_in_kernel": runs_in_kernel, **further,
            }
        )  # fmt: skip

    def report(self, report: Mapping[str, Any]) -> None:
        """Tells how the cell ended in the kernel; see `report_of`.

        Raises:
            LauncherEndedError: The launcher is gone.
        """
        self._send({"op": "done", "cell": self._count, "report": dict(report)})

    def wait(self) -> dict[str, Any]:
        """Waits until no rank runs the cell any more; returns how it ended.

        Raises:
            LauncherEndedError: The launcher is gone.
        """
        outcome: dict[str, Any] = self._receive()["outcome"]
        return outcome

    def log(self, rank: int) -> str:
        """Returns what a rank wrote in the cells that are remembered, each below a line with its number."""
        parts = []
        for number in self._cells:
            folder = self._cell_folder(number)
            text = ""
            with contextlib.suppress(FileNotFoundError):
                text = folder.log(rank).read_bytes().decode(errors="replace")
            with contextlib.suppress(OSError, ValueError):
                text += ("" if text.endswith("\n") or not text else "\n") + json.loads(folder.error(rank).read_text())
            if text:
                title = folder.plan.read_text() if folder.plan.exists() else f"cell {number}"
                parts.append(f"── {title} ──\n{text}" + ("" if text.endswith("\n") else "\n"))
        return "".join(parts)

    def live(self) -> dict[int, int]:
        """Returns the process ids of the ranks by number, the kernel's among them."""
        found = {0: os.getpid()}
        with contextlib.suppress(OSError, ValueError):
            ranks = json.loads((self._folder.path / RANKS_FILE).read_text())
            found |= {int(number): pid for number, pid in ranks.items()}
        return found

    def stacks_file(self, rank: int) -> Path:
        """Returns the file to which a rank other than 0 writes its stacks when it gets SIGUSR1."""
        return self._folder.stacks(rank)

    def end(self) -> None:
        """Ends the ranks. Idempotent; blocks until they are gone."""
        self._channel.close()
        try:
            self._process.wait(timeout=_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        end_marked(self.id, self._folder.read_leaders())
        whereabouts.forget_group(whereabouts.folder(), self.id)  # where the launcher was killed
        self._folder.remove_scratch()
        shutil.rmtree(self._folder.path, ignore_errors=True)

    def _cell_folder(self, number: int) -> CallFolder:
        return CallFolder(self._folder.path / f"cell-{number}")

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self._send(message)
        return self._receive()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._channel.send(message)
        except OSError as error:
            raise self._ended() from error

    def _receive(self) -> dict[str, Any]:
        message = self._channel.receive()
        if message is None:
            raise self._ended()
        return message

    def _ended(self) -> LauncherEndedError:
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = self._folder.launcher_log.read_text(errors="replace").splitlines()[-20:]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_END_WITHIN_S)
        code = self._process.returncode
        self.end()
        if code is None:
            return LauncherEndedError(lines, None, signal.SIGKILL)
        return LauncherEndedError(lines, code if code >= 0 else None, -code if code < 0 else None)


class StoppableThread:
    """Calls a function again and again in a thread of its own, and once more when it is stopped.

    Args:
        function: Is told whether it is the last call.
        interval_s: Between two calls.
    """

    def __init__(self, function: Any, interval_s: float) -> None:
        self._function = function
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="nbgpu-ranks-output", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self._function(final=False)
        self._function(final=True)
