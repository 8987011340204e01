"""What a message carries of encoded values: descriptions as JSON, and parts, in the message itself or as blobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from nbgpu_kernel.values.encoding import Buffer, Encoded

INLINE_BYTES = 256 << 10
"""Up to so much in total travels in the message itself; of more, only what is smaller than this each."""
_ALIGNMENT_BYTES = 64
_MAX_INLINE_PARTS = 64

Part: TypeAlias = list[Buffer]
"""The pieces of a part, which is their concatenation."""
StorePart: TypeAlias = Callable[[Part], str]
"""Puts a part into the store; returns its digest."""
FetchPart: TypeAlias = Callable[[str], memoryview]
"""Returns a part from the store; it can be written to."""


class Packer:
    """Collects the parts of one message."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._sizes: list[int] = []

    @property
    def size_bytes(self) -> int:
        return sum(self._sizes)

    def add(self, encoded: Encoded) -> dict[str, Any]:
        """Takes an encoded value; returns its description, which `unpack` reads."""
        description: dict[str, Any] = {"pickle": self._add_part(list(encoded.segments))}
        small: Part = []
        small_bytes = 0
        small_part = -1
        buffers: list[list[int]] = []
        for buffer in encoded.buffers:
            if buffer.nbytes >= INLINE_BYTES:
                buffers.append([self._add_part([buffer]), 0, buffer.nbytes, int(buffer.readonly)])
                continue
            if small_part < 0:
                small_part = self._add_part(small)
            buffers.append([small_part, small_bytes, buffer.nbytes, int(buffer.readonly)])
            padding = -buffer.nbytes % _ALIGNMENT_BYTES
            small += [buffer, bytes(padding)]
            small_bytes += buffer.nbytes + padding
        if small_part >= 0:
            self._sizes[small_part] = small_bytes
        if buffers:
            description["buffers"] = buffers
        return description

    def finish(self, store: StorePart) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Stores what is large; returns where every part is, and the message's buffers."""
        everything_inline = self.size_bytes <= INLINE_BYTES
        places: list[dict[str, Any]] = []
        inline: list[bytes] = []
        for part, size_bytes in zip(self._parts, self._sizes, strict=True):
            if everything_inline or (size_bytes < INLINE_BYTES and len(inline) < _MAX_INLINE_PARTS):
                places.append({"inline": len(inline)})
                inline.append(b"".join(part))
            else:
                places.append({"blob": store(part), "bytes": size_bytes})
        return places, inline

    def _add_part(self, part: Part) -> int:
        self._parts.append(part)
        self._sizes.append(sum(memoryview(piece).nbytes for piece in part))
        return len(self._parts) - 1


class Unpacker:
    """The parts of one message that came.

    Args:
        places: As `Packer.finish` returned them.
        inline: The message's buffers.
        fetch: For what is in the store.
    """

    def __init__(self, places: Sequence[dict[str, Any]], inline: Sequence[Any], fetch: FetchPart) -> None:
        self._parts = [
            memoryview(bytearray(inline[place["inline"]])) if "inline" in place else fetch(place["blob"])
            for place in places
        ]

    def unpack(self, description: dict[str, Any]) -> tuple[memoryview, list[Buffer]]:
        """Returns the pickle and the buffers of what the description is of."""
        buffers: list[Buffer] = []
        for part, offset, size_bytes, readonly in description.get("buffers", ()):
            view = self._parts[part][offset : offset + size_bytes]
            buffers.append(view.toreadonly() if readonly else view)
        return self._parts[description["pickle"]], buffers
