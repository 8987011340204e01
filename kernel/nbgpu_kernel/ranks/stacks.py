"""Reads the stack that faulthandler writes of a rank: in which collective it waits, and at which line of whose code."""

from __future__ import annotations

import os
import re
import site
import sys
import sysconfig
from dataclasses import dataclass

_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)')
_HEADER = re.compile(r"(Current thread |Thread )(?P<id>0x[0-9a-f]+)|Stack \(")
"""Of a thread; the last of them where only one was asked for."""
_COLLECTIVES = re.compile(r"[/\\]torch[/\\]distributed[/\\].*distributed_c10d\.py$")
_BACKWARD = re.compile(r"[/\\]torch[/\\]autograd[/\\]")
_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__))
_MAX_FRAMES = 40


@dataclass(frozen=True)
class Frame:
    """One line of a stack."""

    file: str
    line: int
    function: str


def main_thread(dump: str) -> list[Frame]:
    """Returns the stack of the thread that runs the function, innermost first; empty if there is none.

    Args:
        dump: What faulthandler wrote last; older dumps may be before it.
    """
    for frames in reversed([frames for _, frames in _all_threads(dump)]):
        own = [at for at, frame in enumerate(frames) if os.path.dirname(frame.file) == _OWN_FOLDER]
        if own:
            return frames[: own[0]][:_MAX_FRAMES]
    return []


def threads(dump: str) -> list[list[Frame]]:
    """Returns the stacks of all threads, each innermost first, of the last dump; the main thread's comes last."""
    latest: dict[str, list[Frame]] = {}
    for identity, frames in _all_threads(dump):
        if identity in latest:  # another dump begins
            latest.clear()
        latest[identity] = frames
    return list(latest.values())


def _all_threads(dump: str) -> list[tuple[str, list[Frame]]]:
    """Returns the threads of all dumps, with their ids, in the order in which they were written."""
    found: list[tuple[str, list[Frame]]] = []
    for line in dump.splitlines():
        if header := _HEADER.match(line):
            found.append((header["id"] or "", []))
        elif found and (frame := _FRAME.match(line)):
            found[-1][1].append(Frame(frame["file"], int(frame["line"]), frame["function"]))
    return found


def collective(frames: list[Frame]) -> str:
    """Returns the name of the collective that a rank is in, "backward" for its backward pass; empty for neither."""
    for frame in frames:
        if _COLLECTIVES.search(frame.file) and not frame.function.startswith("_"):
            return frame.function
    return "backward" if any(_BACKWARD.search(frame.file) for frame in frames) else ""


def users_frame(frames: list[Frame]) -> Frame | None:
    """Returns the innermost frame of the person's own code: not the standard library's, nor an installed package's."""
    return next((frame for frame in frames if not is_installed(frame.file)), None)


def is_installed(file: str) -> bool:
    """Says whether a file is of Python itself, of a package, or of this one: here, or by its path on any machine."""
    return file.startswith(_INSTALLED) or _INSTALLED_ANYWHERE.search(file) is not None


_INSTALLED_ANYWHERE = re.compile(
    r"[/\\](site|dist)-packages[/\\]|[/\\]lib(64)?[/\\]python3(\.\d+)?[/\\]|[/\\]nbgpu_kernel[/\\]"
)
_INSTALLED = (
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    *site.getsitepackages(),
    os.path.join(sys.base_prefix, "lib"),
    "<frozen",
)
