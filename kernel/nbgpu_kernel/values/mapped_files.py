"""Finds the file that a buffer was mapped from, so that other processes can map it too rather than have a copy."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from dataclasses import dataclass

MIN_BYTES = 1 << 20
"""What is smaller is copied."""


@dataclass(frozen=True)
class _Mapped:
    mapping: weakref.ref[mmap.mmap]
    start: int
    size: int
    descriptor: int


@dataclass(frozen=True)
class Place:
    """Where a buffer's content is."""

    path: str
    """Of the file, for as long as this process has it mapped."""
    offset: int


_mapped: list[_Mapped] = []


def remember(mapping: mmap.mmap, descriptor: int) -> None:
    """Takes note of a private, writable mapping of a whole file.

    Args:
        mapping: It.
        descriptor: Of the file, which may be removed. A copy is kept for as long as the mapping is.
    """
    if not sys.platform.startswith("linux") or len(mapping) < MIN_BYTES:
        return
    own = os.dup(descriptor)
    found = _Mapped(weakref.ref(mapping), _address(memoryview(mapping)), len(mapping), own)
    _mapped.append(found)
    weakref.finalize(mapping, _forget, found).atexit = False


def find(buffer: memoryview) -> Place | None:
    """Returns the file that has what is in a buffer; None where it is no mapping, or was written to since."""
    if not _mapped or buffer.readonly or not buffer.c_contiguous or buffer.nbytes < MIN_BYTES:
        return None
    start = _address(buffer)
    for each in list(_mapped):
        offset = start - each.start
        if offset >= 0 and offset + buffer.nbytes <= each.size and each.mapping() is not None:
            with mmap.mmap(each.descriptor, 0, access=mmap.ACCESS_COPY) as content:  # not read-only: see `_address`
                view = memoryview(content)
                same = not _memcmp(start, _address(view) + offset, buffer.nbytes)
                view.release()
            return Place(f"/proc/{os.getpid()}/fd/{each.descriptor}", offset) if same else None
    return None


def _forget(found: _Mapped) -> None:
    _mapped.remove(found)
    os.close(found.descriptor)


def _address(view: memoryview) -> int:
    return ctypes.addressof((ctypes.c_char * 0).from_buffer(view.cast("B")))


def _memcmp(one: int, other: int, size: int) -> int:
    function = ctypes.CDLL(None).memcmp
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return int(function(one, other, size))
