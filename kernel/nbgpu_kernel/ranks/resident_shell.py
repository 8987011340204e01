"""The shell of a rank that stays: IPython's own, which runs cells as the session's kernel does, and shows no error."""

from __future__ import annotations

import re
import sys
import warnings
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from nbgpu_kernel.shell import NumberedHistoryManager

_NOT_OF_USERS = (
    "IPython/core/interactiveshell.py", "IPython/core/async_helpers.py", "IPython/core/compilerop.py",
    "IPython/core/inputtransformer2.py", "asyncio/", "nbgpu_kernel/ranks/",
)  # fmt: skip
_CELL_FILE = re.compile(r"<ipython-input-(\d+)-")


class ResidentShell(InteractiveShell):
    """A shell without a front end: what is displayed is written as text."""

    def init_history(self) -> None:
        config = Config(HistoryManager={"enabled": False})
        self.history_manager = NumberedHistoryManager(shell=self, parent=self, config=config)
        self.configurables.append(self.history_manager)  # type: ignore[arg-type] # IPython's own does

    def showtraceback(self, *args: Any, **kwargs: Any) -> None:
        """Leaves it to the launcher's side to tell of errors."""

    def showsyntaxerror(self, *args: Any, **kwargs: Any) -> None:
        """See `showtraceback`."""

    def enable_gui(self, gui: Any = None) -> None:
        """There is nobody to look at windows."""

    def ask_exit(self) -> None:
        raise SystemExit

    def run(self, code: str, execution_count: int) -> BaseException | None:
        """Runs a cell under the notebook's execution count; returns what it raised."""
        self.execution_count = execution_count
        warnings.filterwarnings("ignore", "To exit: use", UserWarning)
        result: Any = self.run_cell(code, store_history=True)  # type: ignore[no-untyped-call]
        error: BaseException | None = result.error_before_exec or result.error_in_exec
        if isinstance(error, SystemExit) and not error.code:
            return None  # as launchers have it, a script that ends well
        return error


def make_shell() -> ResidentShell:
    """Makes the shell of this process, as which a fork has it too."""
    shell: ResidentShell = ResidentShell.instance()
    shell.separate_in = ""
    return shell


def without_callers(error: BaseException) -> BaseException:
    """Cuts the frames off an exception, and those that led to it, that are between us and the cell."""
    current: BaseException | None = error
    while current is not None:
        frames = current.__traceback__
        while frames is not None and is_callers(frames.tb_frame.f_code.co_filename):
            frames = frames.tb_next
        current.__traceback__ = frames
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return error


def is_callers(file: str) -> bool:
    """Says whether a frame is of what runs cells, rather than of a cell."""
    return any(part in file.replace("\\", "/") for part in _NOT_OF_USERS)


def place_of_cell(file: str) -> str | None:
    """Returns "Cell In[3]" for the file by which this process knows a cell; None for other files."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    formatted = getattr(getattr(shell, "compile", None), "format_code_name", lambda _: None)(file)
    if formatted:
        return " ".join(formatted)
    match = _CELL_FILE.match(file)  # of a rank, which is gone
    return f"Cell In[{match[1]}]" if match else None
