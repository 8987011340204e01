"""The shell's history: in memory, and under the numbers that the notebook gave its cells."""

from __future__ import annotations

from typing import Any

from ipykernel import zmqshell
from IPython.core.history import HistoryManager


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


class ZMQInteractiveShell(zmqshell.ZMQInteractiveShell):
    """ipykernel's shell with that history. It has ipykernel's name: libraries recognise a notebook by it."""

    def init_history(self) -> None:
        self.history_manager = NumberedHistoryManager(shell=self, parent=self)
        self.configurables.append(self.history_manager)  # type: ignore[arg-type] # IPython's own does
