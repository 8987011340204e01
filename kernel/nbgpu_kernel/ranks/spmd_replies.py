"""What a session's kernel answers to a cell that ran on ranks, or was to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbgpu_kernel.ranks.payload import UnsendableError

FIELD = "nbgpu_spmd"
"""Of the reply: how the cell ended on its ranks, where it did not end well. The notebook tells it."""


class LauncherEndedError(Exception):
    """Raised when the launcher is gone, and the ranks with it.

    Args:
        lines: What it wrote last.
        exit_code: None where a signal ended it.
        signal: That did.
    """

    def __init__(self, lines: list[str], exit_code: int | None, signal: int | None) -> None:
        super().__init__(lines, exit_code, signal)
        self.lines = lines
        self.exit_code = exit_code
        self.signal = signal


def ok(execution_count: int) -> dict[str, Any]:
    """Returns the reply to a cell that did not run in the kernel itself."""
    return {"status": "ok", "execution_count": execution_count, "user_expressions": {}, "payload": []}


def failed(outcome: Mapping[str, Any], execution_count: int) -> dict[str, Any]:
    """Returns the reply to a cell that failed on one of its ranks, with what the first of them raised."""
    failures = sorted(outcome.get("failures", ()), key=lambda failure: failure["time_s"])
    chain: list[dict[str, Any]] = next((failure["chain"] for failure in failures if failure.get("chain")), [])
    ename, evalue = (chain[0]["ename"], chain[0]["evalue"]) if chain else ("RankFailedError", "")
    if outcome["kind"] == "interrupted":
        ename, evalue = "KeyboardInterrupt", ""
    return {
        "status": "error",
        "ename": ename,
        "evalue": evalue,
        "traceback": [f"{ename}: {evalue}"],
        "execution_count": execution_count,
        "user_expressions": {},
        "payload": [],
        FIELD: dict(outcome),
    }


def not_begun(error: UnsendableError | LauncherEndedError, execution_count: int) -> dict[str, Any]:
    """Returns the reply to a cell that ran nowhere."""
    if isinstance(error, UnsendableError):
        outcome: dict[str, Any] = {"kind": "unsendable", "text": str(error)}
    else:
        outcome = not_launched(error)
    return failed(outcome, execution_count)


def not_launched(error: LauncherEndedError) -> dict[str, Any]:
    """Returns the outcome of a cell whose ranks' launcher ended."""
    return {
        "kind": "not_launched", "ename": "", "evalue": "", "lines": error.lines,
        "exit_code": error.exit_code, "signal": error.signal,
    }  # fmt: skip
