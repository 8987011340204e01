"""Cuts a Jupyter message into fragments of bounded size, and puts it together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from nbgpu_protocol import MAX_PAYLOAD_BYTES
from nbgpu_protocol.v1 import session_pb2

Buffer: TypeAlias = bytes | bytearray | memoryview


class FragmentError(ValueError):
    """Raised when fragments do not add up to a message."""


def split_message(
    channel: session_pb2.Channel,
    parts: Sequence[Buffer],
    *,
    request_id: str = "",
    new_fragment: Callable[[], session_pb2.Fragment] = session_pb2.Fragment,
) -> Iterator[session_pb2.Fragment]:
    """Yields the fragments of one message, in order.

    Args:
        channel: The Jupyter channel it belongs to.
        parts: Header, parent header, metadata, content, then raw buffers. At least one.
        request_id: Carried by the first fragment.
        new_fragment: Returns a fragment to fill, such as the field of the frame that is to carry it. To put a filled
            one into a frame costs 0.6 ms for 1 MiB and level: protobuf serialises and parses it for that.
    """
    sizes = [len(memoryview(part).cast("B")) if not isinstance(part, bytes) else len(part) for part in parts]
    payloads = _cut(parts) if sum(sizes) > MAX_PAYLOAD_BYTES else iter((b"".join(parts),))
    payload: bytes | None = next(payloads)
    fragment = new_fragment()
    fragment.part_sizes.extend(sizes)
    if request_id:
        fragment.request_id = request_id
    while payload is not None:
        following = next(payloads, None)
        fragment.channel = channel
        fragment.payload = payload
        fragment.last = following is None
        yield fragment
        if following is not None:
            fragment = new_fragment()
        payload = following


def _cut(parts: Iterable[Buffer]) -> Iterator[bytes]:
    """Yields the concatenation of the parts in pieces of MAX_PAYLOAD_BYTES, the last one shorter."""
    pending: list[memoryview] = []
    room = MAX_PAYLOAD_BYTES
    for part in parts:
        view = memoryview(part).cast("B")
        while len(view) >= room:
            yield b"".join([*pending, view[:room]])
            view, pending, room = view[room:], [], MAX_PAYLOAD_BYTES
        if len(view):
            pending.append(view)
            room -= len(view)
    if pending:
        yield b"".join(pending)


class MessageAssembler:
    """Puts one stream's fragments together again."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._payloads: list[bytes] = []
        self._request_id = ""

    def add(self, fragment: session_pb2.Fragment) -> tuple[list[memoryview], str] | None:
        """Takes the next fragment; returns the parts and the request id of the message that it completes, if it does.

        Raises:
            FragmentError: The payloads are not as long as the part sizes said.
        """
        if not self._payloads:
            self._sizes = list(fragment.part_sizes)
            self._request_id = fragment.request_id
        self._payloads.append(fragment.payload)
        received = sum(map(len, self._payloads)) if fragment.last else 0
        if not fragment.last:
            return None
        payload = memoryview(self._payloads[0] if len(self._payloads) == 1 else b"".join(self._payloads))
        self._payloads = []
        if received != sum(self._sizes):
            raise FragmentError(f"a message of {sum(self._sizes)} bytes was announced, {received} bytes came")
        parts, start = [], 0
        for size in self._sizes:
            parts.append(payload[start : start + size])
            start += size
        return parts, self._request_id
