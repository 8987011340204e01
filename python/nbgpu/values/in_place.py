"""Changes a local object to what the session's became, where a cell changed it in place: other names see it too."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from nbgpu.values.reach import levels_below
from nbgpu_kernel.values.tensors import loaded_module


def can_update_in_place(local: Any, changed: Any) -> bool:
    """Says whether a local object can be given the content of another: it is of its type, and of a type for that."""
    kind = type(local)
    if kind is not type(changed):
        return False
    if kind in (bytearray, set):
        return True
    if kind in (list, dict):
        return not _refers_to_itself(changed)
    numpy = loaded_module("numpy")
    if numpy is None or kind is not numpy.ndarray:
        return False
    return bool(local.shape == changed.shape and local.dtype == changed.dtype and local.flags.writeable)


def _refers_to_itself(value: Any) -> bool:
    """Says whether a list or dict is somewhere in itself: what it is put into would not be what is in it then."""
    return any(id(value) in map(id, found) for found in levels_below([value]))


def update_in_place(local: Any, changed: Any) -> None:
    """Gives a local object the content of another, where that can be done."""
    if type(local) in (list, bytearray):
        local[:] = changed
    elif type(local) in (dict, set):
        local.clear()
        local.update(changed)
    else:
        local[...] = changed


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Has an interrupt wait until what is done within is done whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):  # set by other than Python, or none that raises
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        before(*came[0])
