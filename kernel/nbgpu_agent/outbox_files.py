"""Reads what a kernel wrote down while nobody listened: the files of `nbgpu_kernel.outbox`, which it left behind."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from nbgpu_agent.channels import Channel
from nbgpu_agent.isolation.os_user import read_regular

_HEAD = struct.Struct("<QI")
_SIZE = struct.Struct("<Q")
_NAME_PREFIX = "outbox-"
_DELIMITER = b"<IDS|MSG>"


def read_outbox_files(folder: Path, limit_bytes: int) -> Iterator[tuple[int, Channel, list[bytes]]]:
    """Yields number, channel and parts of each message, in order. What was written in part is left out.

    Args:
        folder: The kernel's own, in which it may have put anything.
        limit_bytes: How much is read of each file.
    """
    paths = [path for path in folder.glob(f"{_NAME_PREFIX}*") if path.name[len(_NAME_PREFIX) :].isdecimal()]
    for path in sorted(paths, key=lambda path: int(path.name[len(_NAME_PREFIX) :])):
        try:
            content = read_regular(path, limit_bytes)
        except OSError:
            continue
        yield from _messages(content)


def _messages(content: bytes) -> Iterator[tuple[int, Channel, list[bytes]]]:
    position = 0
    try:
        while position < len(content):
            number, count = _HEAD.unpack_from(content, position)
            position += _HEAD.size
            frames = []
            for _ in range(count):
                (size,) = _SIZE.unpack_from(content, position)
                position += _SIZE.size
                if position + size > len(content):
                    return
                frames.append(content[position : position + size])
                position += size
            start = frames.index(_DELIMITER)
            channel = Channel(int(frames[start - 1].rpartition(b":")[2]))
            yield number, channel, frames[start + 2 :]
    except (struct.error, ValueError, IndexError):
        return
