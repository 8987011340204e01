"""The shell: ipykernel's, with the notebook's own cell numbers, and tracebacks without a frame of ours."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from ipykernel import zmqshell
from ipykernel.compiler import XCachingCompiler
from IPython.core.history import HistoryManager

from nbgpu_kernel import whereabouts
from nbgpu_kernel.interrupts import Interrupts


class NumberedHistoryManager(HistoryManager):
    """Keeps `In[n]` the code of the notebook's cell n, though the cells that run here are not numbered in a row."""

    def store_inputs(self, line_num: int, *args: Any, **kwargs: Any) -> None:
        parsed, raw = self.input_hist_parsed, self.input_hist_raw
        before = len(parsed), len(raw)
        super().store_inputs(line_num, *args, **kwargs)
        for history, length in zip((parsed, raw), before, strict=True):
            if len(history) == length + 1 and length != line_num:
                code = history.pop()
                history.extend([""] * (line_num - len(history)))
                history[line_num : line_num + 1] = [code]
        if not self.enabled:
            self.db_input_cache.clear()  # kept for a writer that there is not


class NotingCompiler(XCachingCompiler):
    """Leaves word of which file's code is which cell, for those who see a stack while the kernel is busy."""

    def cache(self, transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        name = str(super().cache(transformed_code, number, raw_code))
        whereabouts.note_cell(name, number)
        return name


class ZMQInteractiveShell(zmqshell.ZMQInteractiveShell):
    """ipykernel's shell with that history. It has ipykernel's name: libraries recognise a notebook by it."""

    holds_errors = False
    """Whether errors are not shown: the cell runs on other ranks as well, and another may have failed before this."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("compiler_class") in (None, XCachingCompiler):
            kwargs["compiler_class"] = NotingCompiler
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        if self.holds_errors:
            self._last_traceback = stb
        else:
            super()._showtraceback(etype, evalue, stb)  # type: ignore[no-untyped-call]

    def showtraceback(self, *args: Any, **kwargs: Any) -> None:
        error = sys.exc_info()[1]
        while error is not None:
            _trim(error.__traceback__)
            error = error.__cause__ or error.__context__
        super().showtraceback(*args, **kwargs)

    def init_history(self) -> None:
        self.history_manager = NumberedHistoryManager(shell=self, parent=self)
        self.configurables.append(self.history_manager)  # type: ignore[arg-type] # IPython's own does


def _trim(frames: TracebackType | None) -> None:
    """Cuts the frame of our signal handler off a traceback: Python's own handler has none."""
    while frames is not None and frames.tb_next is not None:
        if frames.tb_next.tb_frame.f_code is Interrupts.ON_SIGNAL_CODE:
            frames.tb_next = None
            return
        frames = frames.tb_next
