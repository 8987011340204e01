"""What a process does for the other ranks while its main thread runs a cell: tells where it is, leaves its groups."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from nbgpu_kernel.ranks.channel import Channel
from nbgpu_kernel.ranks.facts import read_facts
from nbgpu_kernel.ranks.group_release import leave_groups
from nbgpu_kernel.ranks.resident_shell import is_callers, place_of_cell
from nbgpu_kernel.ranks.stacks import Frame, collective, users_frame

_MAX_FRAMES = 40


def attend(channel: Channel, on_end: Callable[[], None], on_leave: Callable[[], None] = lambda: None) -> None:
    """Answers the launcher in a thread of its own, until that is gone.

    Args:
        channel: To the launcher.
        on_end: Called then.
        on_leave: Called when the process is to give up its process groups, before it does.
    """
    threading.Thread(target=_answer, args=(channel, on_end, on_leave), name="nbgpu-attendance", daemon=True).start()


def _answer(channel: Channel, on_end: Callable[[], None], on_leave: Callable[[], None]) -> None:
    try:
        while (message := channel.receive()) is not None:
            if message["op"] == "where":
                channel.send({"op": "here", "cell": message["cell"], "where": whereabouts()})
            elif message["op"] == "look":
                stack = [asdict(frame) for frame in main_thread_frames()]
                channel.send({**message, "op": "looked", "stack": stack, **read_facts()})
            elif message["op"] == "leave":
                on_leave()
                channel.send({"op": "left", "had_groups": leave_groups()})
    except OSError:
        pass
    on_end()


def whereabouts() -> dict[str, Any]:
    """Returns where the main thread is: in which collective, at which line of the person's code, and its stack."""
    frames = main_thread_frames()
    own = users_frame(frames)
    return {
        "returned": False,
        "collective": collective(frames),
        "frame": asdict(own) if own is not None else None,
        "stack": [asdict(frame) for frame in frames],
        "places": {frame.file: place for frame in frames if (place := place_of_cell(frame.file)) is not None},
    }


def main_thread_frames() -> list[Frame]:
    """Returns the main thread's frames within the cell that it runs, innermost first."""
    found: list[Frame] = []
    current = sys._current_frames().get(threading.main_thread().ident or 0)
    while current is not None and len(found) < _MAX_FRAMES:
        code = current.f_code
        if is_callers(os.path.abspath(code.co_filename)):
            break
        name = getattr(code, "co_qualname", code.co_name)
        found.append(Frame(code.co_filename, current.f_lineno, name))
        current = current.f_back
    return found
