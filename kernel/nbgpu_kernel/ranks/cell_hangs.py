"""Has the ranks of one cell watched, as long as all goes well with it, and tells the kernel when they hang.

Each is asked on the channel that it attends to while its main thread is busy. One that does not answer, since other
code holds the interpreter's lock, has faulthandler say at the next look where it is.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nbgpu_kernel.ranks.call_folder import CallFolder
from nbgpu_kernel.ranks.doctor import Hang, RankLook
from nbgpu_kernel.ranks.gpu_load import read_gpu_loads
from nbgpu_kernel.ranks.hang_file import HangTeller
from nbgpu_kernel.ranks.processes import signal_process
from nbgpu_kernel.ranks.resident_shell import is_callers
from nbgpu_kernel.ranks.stacks import Frame, threads
from nbgpu_kernel.ranks.watch import HangWatch, next_stacks, processor_s, size_bytes
from nbgpu_kernel.whereabouts import STACKS_SIGNAL

TICK_S = 0.2


class AttendedSource:
    """A rank that answers on its channel; see `nbgpu_kernel.ranks.attendance`.

    Args:
        rank: Its number.
        pid: Of its process.
        stacks: The file to which it appends its stacks on SIGUSR1; None: there is none.
        send: Asks it a question, which has a number.
        has_returned: Whether it is done with the cell.
    """

    def __init__(
        self,
        rank: int,
        pid: int,
        stacks: Path | None,
        send: Callable[[int], None],
        has_returned: Callable[[], bool],
    ) -> None:
        self._rank = rank
        self._pid = pid
        self._stacks = stacks
        self._send = send
        self._has_returned = has_returned
        self._number = 0
        self._answered: dict[str, Any] | None = None
        self._is_silent = False
        """It left the last question without an answer; it is asked no other until that one has come."""
        self._start_bytes = 0

    @property
    def rank(self) -> int:
        return self._rank

    def ask(self) -> None:
        if self._has_returned():
            return
        if self._is_silent:
            if self._stacks is not None:
                self._start_bytes = next_stacks(self._stacks)
                signal_process(self._pid, STACKS_SIGNAL)
            return
        self._number += 1
        self._answered = None
        self._send(self._number)

    def take(self, answer: dict[str, Any]) -> None:
        """Takes an answer: `number`, of the question, `stack`, `counts` and `pending`."""
        if answer["number"] == self._number:
            self._is_silent = False
            self._answered = answer

    def answer(self, *, final: bool) -> RankLook | None:
        if self._has_returned():
            return RankLook(self._rank, has_returned=True)
        if self._answered is not None:
            stack = tuple(Frame(**frame) for frame in self._answered["stack"])
            counts = self._answered["counts"]
            begun = tuple(sorted(counts.items())) if counts is not None else None
            return RankLook(self._rank, stack, False, begun, self._answered["pending"], processor_s(self._pid))
        if not final:
            return None
        stack = self._written_stack() if self._is_silent else ()
        self._is_silent = True
        return RankLook(self._rank, stack, processor_s=processor_s(self._pid))

    def _written_stack(self) -> tuple[Frame, ...]:
        if self._stacks is None or size_bytes(self._stacks) == self._start_bytes:
            return ()
        dump = ""
        with contextlib.suppress(OSError), open(self._stacks, "rb") as file:
            file.seek(self._start_bytes)
            dump = file.read().decode(errors="replace")
        main = (threads(dump) or [[]])[-1]
        return tuple(itertools.takewhile(lambda frame: not is_callers(frame.file), main))


class CellHangs:
    """Watches the ranks of one cell.

    Args:
        folder: The cell's.
        world_size: Of the group.
        hang_after_s: For how long nothing may get further.
        sources: The ranks that run the cell.
        written_bytes: How much the ranks that were forked have written.
    """

    def __init__(
        self,
        folder: CallFolder,
        world_size: int,
        hang_after_s: float,
        sources: Iterable[AttendedSource],
        written_bytes: Callable[[], int],
    ) -> None:
        self._sources = {source.rank: source for source in sources}
        teller = HangTeller(folder.hang, world_size, runs="cell")

        def tell(hang: Hang | None, now_s: float) -> None:
            with contextlib.suppress(FileNotFoundError):  # the session is gone, and the folder with it
                teller.tell(hang, now_s, read_gpu_loads() if hang is not None else {})

        # What the kernel writes as rank 0 it keeps itself.
        self._watch = HangWatch(
            list(self._sources.values()), hang_after_s, lambda: written_bytes() + size_bytes(folder.log(0)), tell
        )

    def step(self) -> None:
        self._watch.step()

    def take(self, rank: int, answer: dict[str, Any]) -> None:
        """Takes what a rank answered."""
        if rank in self._sources:
            self._sources[rank].take(answer)
