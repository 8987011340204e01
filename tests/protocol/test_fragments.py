"""A message that was cut into fragments comes out as it went in."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbgpu_protocol import MAX_PAYLOAD_BYTES
from nbgpu_protocol.fragments import FragmentError, MessageAssembler, split_message
from nbgpu_protocol.v1 import session_pb2

# Sizes around the limit, where cutting goes wrong if it goes wrong.
LIMIT = MAX_PAYLOAD_BYTES
SIZES = st.one_of(
    st.integers(0, 64),
    st.sampled_from([LIMIT - 1, LIMIT, LIMIT + 1, 2 * LIMIT - 1, 2 * LIMIT, 2 * LIMIT + 1]),
    st.integers(0, 3 * LIMIT),
)
CHANNELS = st.sampled_from([session_pb2.SHELL, session_pb2.CONTROL, session_pb2.STDIN, session_pb2.IOPUB])


def content_of(size: int, salt: int) -> bytes:
    """Returns bytes in which a lost, doubled or swapped piece shows."""
    pattern = bytes((salt + 7 * i) % 251 for i in range(251))
    return (pattern * (size // 251 + 1))[:size]


def assemble(fragments: Sequence[session_pb2.Fragment]) -> list[tuple[list[bytes], str]]:
    assembler = MessageAssembler()
    messages = []
    for fragment in fragments:
        done = assembler.add(session_pb2.Fragment.FromString(fragment.SerializeToString()))
        if done is not None:
            messages.append(([bytes(part) for part in done[0]], done[1]))
    return messages


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(SIZES, min_size=1, max_size=6), channel=CHANNELS, request_id=st.text(max_size=20))
def test_round_trip(sizes: list[int], channel: session_pb2.Channel, request_id: str) -> None:
    parts = [content_of(size, salt) for salt, size in enumerate(sizes)]
    fragments = list(split_message(channel, parts, request_id=request_id))

    assert assemble(fragments) == [(parts, request_id)]
    assert all(len(fragment.payload) <= LIMIT for fragment in fragments)
    assert all(len(fragment.payload) == LIMIT for fragment in fragments[:-1])
    assert [fragment.last for fragment in fragments] == [False] * (len(fragments) - 1) + [True]
    assert all(fragment.channel == channel for fragment in fragments)
    assert [bool(fragment.part_sizes) for fragment in fragments] == [True] + [False] * (len(fragments) - 1)


@settings(max_examples=25, deadline=None)
@given(messages=st.lists(st.lists(SIZES, min_size=1, max_size=3), min_size=2, max_size=4))
def test_one_assembler_takes_message_after_message(messages: list[list[int]]) -> None:
    contents = [[content_of(size, 10 * n + i) for i, size in enumerate(sizes)] for n, sizes in enumerate(messages)]
    fragments = [
        fragment
        for n, parts in enumerate(contents)
        for fragment in split_message(session_pb2.IOPUB, parts, request_id=f"r{n}")
    ]
    assert assemble(fragments) == [(parts, f"r{n}") for n, parts in enumerate(contents)]


@pytest.mark.parametrize("size", [12, 2 * LIMIT + 12])
def test_buffers_of_other_shapes_travel_as_their_bytes(size: int) -> None:
    content = content_of(size, 3)
    words = memoryview(content).cast("I")  # len() counts words, not bytes
    fragments = list(split_message(session_pb2.SHELL, [b"{}", words, bytearray(content)]))
    assert assemble(fragments) == [([b"{}", content, content], "")]


def test_a_missing_piece_is_noticed_and_the_next_message_is_whole() -> None:
    parts = [content_of(2 * LIMIT + 5, 1)]
    first, _lost, last = split_message(session_pb2.IOPUB, parts)
    assembler = MessageAssembler()
    assert assembler.add(first) is None
    with pytest.raises(FragmentError, match=f"{2 * LIMIT + 5} bytes was announced, {LIMIT + 5} bytes came"):
        assembler.add(last)

    (whole,) = split_message(session_pb2.IOPUB, [b"a", b"bc"])
    done = assembler.add(whole)
    assert done is not None
    assert [bytes(part) for part in done[0]] == [b"a", b"bc"]
