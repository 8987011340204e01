"""How an exception of a rank is told: its type, its message and its frames with their source, as plain data."""

from __future__ import annotations

import linecache
import os
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

_MAX_FRAMES = 40
_MAX_TEXT = 20_000
_CONTEXT_LINES = 2
_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__))


def describe_exception(error: BaseException) -> dict[str, Any]:
    """Returns type, message and frames of an exception, and of those that led to it, oldest last."""
    chain: list[dict[str, Any]] = []
    seen: set[int] = set()
    current: BaseException | None = error
    relation = ""
    while current is not None and id(current) not in seen and len(chain) < 5:
        seen.add(id(current))
        chain.append({**_describe(current), "relation": relation})
        if current.__cause__ is not None:
            current, relation = current.__cause__, "cause"
        elif current.__context__ is not None and not current.__suppress_context__:
            current, relation = current.__context__, "context"
        else:
            current = None
    return {"chain": chain}


def traceback_text(chain: Sequence[Mapping[str, Any]]) -> str:
    """Returns what `describe_exception` told as plain Python prints it."""
    text = ""
    for link in reversed(chain):
        text += "Traceback (most recent call last):\n"
        for frame in link["frames"]:
            text += f'  File "{frame["file"]}", line {frame["line"]}, in {frame["function"]}\n'
        text += f"{link['ename']}: {link['evalue']}\n"
    return text


def _describe(error: BaseException) -> dict[str, Any]:
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - anybody's __str__
        text = f"<its message cannot be shown: {type(broken).__name__}>"
    lines = []
    if isinstance(error, SyntaxError):
        lines = [line.rstrip("\n") for line in traceback.format_exception_only(type(error), error)][:-1]
    notes = [str(note) for note in getattr(error, "__notes__", ()) or ()]
    return {
        "ename": type(error).__name__,
        "module": type(error).__module__,
        "evalue": text[:_MAX_TEXT],
        "lines": lines,
        "notes": notes,
        "frames": _frames(error.__traceback__),
    }


def _frames(frames: TracebackType | None) -> list[dict[str, Any]]:
    found = []
    for frame, line_number in traceback.walk_tb(frames):
        code = frame.f_code
        if os.path.dirname(os.path.abspath(code.co_filename)) == _OWN_FOLDER:
            continue
        name = getattr(code, "co_qualname", code.co_name)
        first = max(1, line_number - _CONTEXT_LINES)
        found.append(
            {
                "file": code.co_filename,
                "line": line_number,
                "function": name,
                "source": [
                    (number, linecache.getline(code.co_filename, number, frame.f_globals).rstrip("\n"))
                    for number in range(first, line_number + _CONTEXT_LINES + 1)
                ],
            }
        )
    if len(found) > _MAX_FRAMES:  # a recursion without an end: its beginning and its end
        found = found[: _MAX_FRAMES // 2] + found[-_MAX_FRAMES // 2 :]
    return found
