"""Looks at ranks now and then, as long as they write nothing, and says when they hang and when they go on.

A look costs a rank some milliseconds: faulthandler writes its stack, and a thread of its own the counters of its
process groups. Ranks that write are not looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from nbgpu_kernel.ranks.doctor import Hang, Look, Progress, RankLook, diagnose, observe
from nbgpu_kernel.ranks.processes import signal_process
from nbgpu_kernel.ranks.stacks import Frame, main_thread
from nbgpu_kernel.whereabouts import STACKS_SIGNAL

_ANSWER_WITHIN_S = 1.0
_MAX_INTERVAL_WHILE_HANGING_S = 5.0
_MAX_STACKS_BYTES = 1 << 20
"""A file of stacks is emptied before the next look when it is larger."""


class RankSource(Protocol):
    """A rank, as it can be looked at. How it was started does not matter."""

    @property
    def rank(self) -> int: ...

    def ask(self) -> None:
        """Has it say where it is. Does not wait."""

    def answer(self, *, final: bool) -> RankLook | None:
        """Returns what it said; None if that is not complete yet.

        Args:
            final: It is not waited for any longer: return what there is.
        """


class ProcessSource:
    """A rank in a process whose faulthandler answers a signal, and which may have a thread that tells facts.

    Args:
        rank: Its number.
        pid: Of its process.
        stacks: The file that faulthandler appends to.
        facts: The file that the thread writes; see `nbgpu_kernel.ranks.facts`.
        questions: The thread's pipe; None: there is no such thread.
        has_returned: Whether the rank is done.
    """

    def __init__(
        self,
        rank: int,
        pid: int,
        stacks: Path,
        facts: Path,
        questions: int | None,
        has_returned: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rank = rank
        self._pid = pid
        self._stacks = stacks
        self._facts = facts
        self._questions = questions
        self._has_returned = has_returned
        self._asked = 0
        self._start_bytes = self._size_bytes = 0

    @property
    def rank(self) -> int:
        return self._rank

    def ask(self) -> None:
        if self._has_returned():
            return
        self._start_bytes = self._size_bytes = next_stacks(self._stacks)
        signal_process(self._pid, STACKS_SIGNAL)
        if self._questions is not None:
            with contextlib.suppress(OSError):  # it does not read, or has ended
                os.write(self._questions, b"?")
                self._asked += 1

    def answer(self, *, final: bool) -> RankLook | None:
        if self._has_returned():
            return RankLook(self._rank, has_returned=True)
        before, self._size_bytes = self._size_bytes, size_bytes(self._stacks)
        is_written = self._size_bytes != self._start_bytes and self._size_bytes == before
        facts = self._read_facts()
        if not final and not (is_written and (facts is not None or self._questions is None)):
            return None
        counts, pending = facts or (None, "")
        return RankLook(self._rank, self._read_stack(), False, counts, pending, processor_s(self._pid))

    def _read_stack(self) -> tuple[Frame, ...]:
        if self._size_bytes == self._start_bytes:
            return ()
        with contextlib.suppress(OSError), open(self._stacks, "rb") as file:
            file.seek(self._start_bytes if self._size_bytes > self._start_bytes else 0)
            return tuple(main_thread(file.read().decode(errors="replace")))
        return ()

    def _read_facts(self) -> tuple[tuple[tuple[str, int], ...] | None, str] | None:
        """Returns counts and what is pending; None if the last question is not answered."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._facts.read_text())
            if self._asked and found["number"] == self._asked:
                counts = found["counts"]
                return (tuple(sorted(counts.items())) if counts is not None else None), str(found["pending"])
        return None


class HangWatch:
    """Watches ranks. `step` is to be called often, and never blocks.

    Args:
        sources: The ranks.
        hang_after_s: For how long nothing may get further.
        written_bytes: Returns how much all ranks have written since they were started.
        tell: Called with the hang and the time after every look while it lasts, and with None when it is over.
        clock: In seconds.
    """

    def __init__(
        self,
        sources: Sequence[RankSource],
        hang_after_s: float,
        written_bytes: Callable[[], int],
        tell: Callable[[Hang | None, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = sources
        self._hang_after_s = hang_after_s
        self._written_bytes = written_bytes
        self._tell = tell
        self._clock = clock
        self._interval_s = hang_after_s / 2
        self._next_s = clock() + self._interval_s
        self._last_written_bytes = -1
        self._progress: Progress | None = None
        self._hang: Hang | None = None
        self._answers: dict[int, RankLook] | None = None
        """Of the look that is being taken."""

    def step(self) -> None:
        now_s = self._clock()
        if self._answers is not None:
            self._collect(now_s)
        elif now_s >= self._next_s:
            self._begin(now_s)

    def _begin(self, now_s: float) -> None:
        written_bytes = self._written_bytes()
        if written_bytes != self._last_written_bytes and self._hang is None:
            self._last_written_bytes = written_bytes
            self._progress = None
            self._next_s = now_s + self._interval_s
            return
        self._next_s = now_s + _ANSWER_WITHIN_S
        self._answers = {}
        for source in self._sources:
            source.ask()

    def _collect(self, now_s: float) -> None:
        assert self._answers is not None
        is_final = now_s >= self._next_s
        for source in self._sources:
            if source.rank not in self._answers:
                found = source.answer(final=is_final)
                if found is not None:
                    self._answers[source.rank] = found
        if len(self._answers) < len(self._sources):
            return
        looks, self._answers = tuple(self._answers.values()), None
        self._last_written_bytes = self._written_bytes()
        self._progress = observe(self._progress, Look(now_s, looks, self._last_written_bytes))
        before, self._hang = self._hang, diagnose(self._progress, self._hang_after_s)
        if before is not None or self._hang is not None:
            self._tell(self._hang, now_s)
        interval_s = self._interval_s
        if self._hang is not None:
            interval_s = min(interval_s, _MAX_INTERVAL_WHILE_HANGING_S)
        self._next_s = now_s + interval_s


def processor_s(pid: int) -> float | None:
    """Returns the processor time that a process has used, in seconds; None: not known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def next_stacks(path: Path) -> int:
    """Returns where in a file of stacks the next ones will be; empties it before where it has become large."""
    if size_bytes(path) > _MAX_STACKS_BYTES:
        with contextlib.suppress(OSError):
            os.truncate(path, 0)
    return size_bytes(path)


def size_bytes(path: Path) -> int:
    """Returns a file's size, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
