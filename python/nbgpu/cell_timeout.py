"""What a cell raises that ran for longer than its `--timeout`, and how long that is as people write it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from nbgpu.errors import CommandError, UserError
from nbgpu.remote_exceptions import exception_to_raise
from nbgpu.stack_report import cell_name, innermost_in_words, stacks_in_words
from nbgpu_protocol.v1 import session_pb2

TIMEOUT_OPTION = "--timeout"
_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0, "": 1.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(d|h|min|m|s|)(?=\d|$)")
_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


class CellTimeoutError(UserError, TimeoutError):
    """Raised when a cell ran for longer than its timeout. The session goes on.

    Attributes:
        timeout_s: The timeout.
        where: At which line it was when its time was over, in words; empty if that is not known.
        stacks: All stacks of the session at that time, as `%gpu stacks` shows them.
        kernel_ended: Whether it did not stop when it was interrupted, so that its kernel was ended.
    """

    hint = f"a larger {TIMEOUT_OPTION} gives the cell more time; where everything was is in the exception's `stacks`"

    def __init__(self, timeout_s: float, where: str, stacks: str, *, kernel_ended: bool) -> None:
        super().__init__(timeout_s, where)
        self.timeout_s = timeout_s
        self.where = where
        self.stacks = stacks
        self.kernel_ended = kernel_ended

    def __reduce__(self) -> tuple[Callable[..., CellTimeoutError], tuple[Any, ...]]:
        return _again, (self.timeout_s, self.where, self.stacks, self.kernel_ended)

    def message(self) -> str:
        limit = duration_in_words(self.timeout_s)
        where = f"; it was {self.where}" if self.where else ""
        if self.kernel_ended:
            return (
                f"the cell did not stop when it was interrupted after its timeout of {limit}, so the session's kernel"
                f" was ended, with its variables{where}"
            )
        return f"the cell was interrupted after its timeout of {limit}{where}"


def _again(timeout_s: float, where: str, stacks: str, kernel_ended: bool) -> CellTimeoutError:
    return CellTimeoutError(timeout_s, where, stacks, kernel_ended=kernel_ended)


def timeout_error(
    event: session_pb2.CellTimedOut, *, frames: Sequence[str] = (), kernel_ended: bool = False
) -> BaseException:
    """Returns the exception for a cell that its agent interrupted.

    Args:
        event: What the agent told.
        frames: The traceback of the interrupt, as IPython rendered it; the last piece is the interrupt itself.
        kernel_ended: Whether the kernel was ended.
    """
    response = session_pb2.StacksResponse(processes=event.processes, cells=event.cells)
    where = innermost_in_words(response, cell_name)
    stacks = stacks_in_words(response, None, cell_name) if event.processes else ""
    error = CellTimeoutError(event.timeout_s, where, stacks, kernel_ended=kernel_ended)
    name = type(error).__name__
    above = list(frames[:-1]) if frames else [stacks] if stacks else []
    return exception_to_raise(error, name, str(error), [*above, f"{_RED}{name}{_PLAIN}: {error}"])


def parse_duration(text: str) -> float:
    """Returns the seconds that "30", "90s", "10m" or "1h30m" are.

    Raises:
        CommandError: It is none, or nothing.
    """
    pieces = _DURATION.findall(text.strip().lower())
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in pieces)
    is_whole = "".join(number + unit for number, unit in pieces) == text.strip().lower()
    is_ambiguous = any(unit == "" for _, unit in pieces) and len(pieces) > 1
    if not pieces or not is_whole or is_ambiguous or not seconds > 0:
        raise CommandError(
            f"{TIMEOUT_OPTION} is a time above 0, not {text!r}", f"such as `%%gpu {TIMEOUT_OPTION} 10m`, 90s or 1h30m"
        )
    return seconds


def duration_in_words(seconds: float) -> str:
    """Returns "90 s" as "1 min 30 s", "2 h 5 min", "0.5 s"."""
    if seconds < 60:
        return f"{seconds:g} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", f"{left} s" if left else ""]
    return " ".join(part for part in parts if part)
