"""What a kernel keeps until its agent has it: numbers, acknowledgements, files, and saying it again."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbgpu_agent.channels import Channel
from nbgpu_agent.kernel_processes import Acknowledgement
from nbgpu_agent.outbox_files import read_outbox_files
from nbgpu_kernel import outbox as module
from nbgpu_kernel.outbox import Outbox, Spool, read_part
from nbgpu_kernel.sending import HandledRequests


class Socket:
    """Stands in the place of the output socket."""

    def __init__(self) -> None:
        self.sent: list[list[bytes]] = []

    def send_multipart(self, frames: Any, *args: Any, **kwargs: Any) -> None:
        self.sent.append([bytes(frame) for frame in frames])


class Loop:
    """Calls later only what a test tells it to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    def run(self) -> None:
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()


def message(content: bytes) -> list[bytes]:
    return [b"topic", b"<IDS|MSG>", b"", b"{}", b"{}", b"{}", content]


def outbox_in(folder: Path, limit_bytes: int = 1 << 20) -> tuple[Outbox, Socket, Loop, Acknowledgement]:
    socket, loop = Socket(), Loop()
    acknowledgement = Acknowledgement(folder)
    return Outbox(socket, folder, limit_bytes, loop.call_later), socket, loop, acknowledgement


def contents(frames: list[list[bytes]]) -> list[bytes]:
    return [each[-1] for each in frames]


def test_output_and_replies_are_numbered_in_one_order(tmp_path: Path) -> None:
    outbox, socket, _, _ = outbox_in(tmp_path)
    outbox.send_multipart(message(b"out"))
    outbox.send_reply(1, [b"identity", *message(b"reply")[1:]])
    outbox.send_multipart(message(b"of no topic")[1:])
    assert [frames[1] for frames in socket.sent[:2]] == [b"nbgpu:1:4", b"nbgpu:2:1"]
    assert socket.sent[2][:2] == [b"nbgpu:3:4", b"<IDS|MSG>"]
    assert contents(socket.sent) == [b"out", b"reply", b"of no topic"]
    assert b"identity" not in socket.sent[1]


def test_the_welcome_of_a_subscriber_has_no_number(tmp_path: Path) -> None:
    outbox, socket, _, _ = outbox_in(tmp_path)
    welcome = [b"<IDS|MSG>", b"", b'{"msg_type": "iopub_welcome"}', b"{}", b"{}", b"{}"]
    for frames in (welcome, [b"raw"], [b"<IDS|MSG>"]):
        outbox.send_multipart(frames)
    assert socket.sent == [welcome, [b"raw"], [b"<IDS|MSG>"]]
    assert outbox.number == 0


def test_what_is_not_acknowledged_is_said_again_between_marks(tmp_path: Path) -> None:
    outbox, socket, _, acknowledgement = outbox_in(tmp_path)
    for number in range(1, 6):
        outbox.send_multipart(message(b"%d" % number))
    acknowledgement.write(2, 7)
    del socket.sent[:]
    outbox.resend(3, "r1")
    assert socket.sent[0] == [b"nbgpu-resending", b"r1", b"4"]
    assert contents(socket.sent[1:-1]) == [b"4", b"5"]
    assert socket.sent[-1] == [b"nbgpu-resent", b"r1", b"5"]
    acknowledgement.write(5, 9)
    del socket.sent[:]
    outbox.resend(5, "r2")
    assert socket.sent == [[b"nbgpu-resending", b"r2", b"6"], [b"nbgpu-resent", b"r2", b"5"]]


def test_a_buffer_is_said_again_as_it_was(tmp_path: Path) -> None:
    outbox, socket, _, _ = outbox_in(tmp_path)
    buffer = bytearray(b"before")
    outbox.send_multipart([*message(b"{}"), memoryview(buffer)])
    buffer[:] = b"after!"
    del socket.sent[:]
    outbox.resend(0, "r")
    assert socket.sent[1][-1] == b"before"


def test_what_waits_long_is_written_down_and_removed_when_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    outbox, socket, loop, acknowledgement = outbox_in(tmp_path)
    for number in range(1, 4):
        outbox.send_multipart(message(b"%d" % number))
    loop.run()
    assert list(read_outbox_files(tmp_path, 1 << 30)) == []
    now[0] = 5.0
    loop.run()
    assert [(number, channel, parts[-1]) for number, channel, parts in read_outbox_files(tmp_path, 1 << 30)] == [
        (number, Channel.IOPUB, b"%d" % number) for number in range(1, 4)
    ]
    outbox.send_multipart(message(b"4"))
    del socket.sent[:]
    outbox.resend(1, "r")
    assert contents(socket.sent[1:-1]) == [b"2", b"3", b"4"]
    for path in tmp_path.glob("outbox-*"):
        assert path.stat().st_mode & 0o777 == 0o600
    acknowledgement.write(4, 4)
    loop.run()
    assert list(tmp_path.glob("outbox-*")) == []
    assert loop.waiting == [], "nothing is looked at where nothing waits"


def test_of_more_than_is_kept_the_oldest_is_dropped_and_that_is_told(tmp_path: Path) -> None:
    outbox, socket, _, _ = outbox_in(tmp_path, limit_bytes=4000)
    for number in range(1, 101):
        outbox.send_multipart(message(b"%03d" % number * 50))
        outbox.write_down()
    assert sum(path.stat().st_size for path in tmp_path.glob("outbox-*")) < 4500
    del socket.sent[:]
    outbox.resend(0, "r")
    first = int(socket.sent[0][2])
    assert 50 < first <= 100
    assert [int(each[:3]) for each in contents(socket.sent[1:-1])] == list(range(first, 101))


def test_where_nothing_can_be_written_it_is_kept_in_memory_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MEMORY_BYTES", 5000)
    outbox, socket, _, _ = outbox_in(tmp_path)
    monkeypatch.setattr(Spool, "append", lambda self, number, frames: False)
    for number in range(1, 101):
        outbox.send_multipart(message(b"%03d" % number * 50))
    del socket.sent[:]
    outbox.resend(0, "r")
    first = int(socket.sent[0][2])
    assert [int(each[:3]) for each in contents(socket.sent[1:-1])] == list(range(first, 101))
    assert 70 <= first < 90


def test_what_was_written_in_part_is_left_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    for number in (1, 2, 3):
        assert spool.append(number, [b"topic", b"nbgpu:%d:4" % number, *message(b"%d" % number * 10)[1:]])
    (path,) = tmp_path.glob("outbox-*")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        expected = size * 3 // len(whole)
        assert [number for number, _ in read_part(path)] == list(range(1, expected + 1))
        assert [number for number, _, _ in read_outbox_files(tmp_path, 1 << 30)] == list(range(1, expected + 1))
    path.write_bytes(struct.pack("<QI", 1, 2**32 - 1) + os.urandom(100))
    assert list(read_outbox_files(tmp_path, 1 << 30)) == []


def test_a_request_is_new_once() -> None:
    handled = HandledRequests()

    def frames(header: bytes) -> list[bytes]:
        return [b"identity", b"<IDS|MSG>", b"", header, b"{}", b"{}", b"{}"]

    assert handled.is_new(frames(b'{"nbgpu_request": "a"}'))
    assert handled.is_new(frames(b'{"nbgpu_request": "b"}'))
    assert not handled.is_new(frames(b'{"nbgpu_request": "a"}'))
    for other in (b"{}", b'{"nbgpu_request": ""}', b'{"nbgpu_request": 1}', b'no JSON "nbgpu_request"'):
        assert handled.is_new(frames(other))
        assert handled.is_new(frames(other))
    assert handled.is_new([b"identity"])
