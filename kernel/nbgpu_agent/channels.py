"""The sockets to one kernel: raw messages in and out, unread but for what the callers look at."""

from __future__ import annotations

import asyncio
import enum
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import zmq

_DELIMITER = b"<IDS|MSG>"
_MAX_MESSAGES_AT_ONCE = 200
_RECONNECT_MS = 5  # the first connections come before the kernel listens
# As nbgpu_kernel.outbox writes them: a frame before the delimiter, and marks around what is sent again.
_NUMBER_PREFIX = b"nbgpu:"
_RESENDING, _RESENT = b"nbgpu-resending", b"nbgpu-resent"


class Channel(enum.IntEnum):
    """The channels of a kernel; the numbers are those of `nbgpu.v1.Channel`."""

    SHELL = 1
    CONTROL = 2
    STDIN = 3
    IOPUB = 4


PORTS = {Channel.SHELL: 1, Channel.IOPUB: 2, Channel.STDIN: 3, Channel.CONTROL: 4}
_HEARTBEAT_PORT = 5
MAX_SOCKET_PATH_BYTES = 107  # sun_path of sockaddr_un, less its final zero


def socket_paths(socket_prefix: Path) -> list[Path]:
    """Returns where a kernel listens."""
    return [Path(f"{socket_prefix}-{port}") for port in (*PORTS.values(), _HEARTBEAT_PORT)]


def connection_info(socket_prefix: Path) -> dict[str, Any]:
    """Returns the content of the connection file.

    The sockets are Unix sockets in a folder of mode 0700. Whoever can open them can read the key as well, so there is
    none, and no message is signed.
    """
    return {
        "transport": "ipc",
        "ip": str(socket_prefix),
        "key": "",
        "signature_scheme": "hmac-sha256",
        "hb_port": _HEARTBEAT_PORT,
        **{f"{channel.name.lower()}_port": port for channel, port in PORTS.items()},
    }


class KernelChannels:
    """All sockets of one client to one kernel, for one event loop.

    Drains a socket in one callback rather than through zmq.asyncio, which takes two futures and two passes of the
    event loop for each message.

    Args:
        socket_prefix: As in the connection file. `connect` opens what is there.
        identity: Of the client. All its sockets have the same, since a kernel asks for input on STDIN whoever sent the
            request on SHELL.
    """

    def __init__(self, context: zmq.Context[Any], socket_prefix: Path, identity: bytes) -> None:
        self.on_message: Callable[[Channel, list[bytes]], None] = lambda channel, parts: None
        """Called with each message's parts from the header on."""
        self.number = 0
        """Of the last message that the kernel keeps until it is acknowledged."""
        self.in_order = False
        """Whether every number is expected from now on; before, what came before the subscription is missing."""
        self.on_gap: Callable[[], None] = lambda: None
        """Called when a number is missing; what follows is passed over until it is sent again."""
        self._resending: tuple[str, Callable[[int], None], asyncio.Future[None]] | None = None
        self._loop = asyncio.get_running_loop()
        self._socket_prefix = socket_prefix
        self._sockets: dict[Channel, zmq.Socket[Any]] = {}
        self._closed = False
        for channel in PORTS:
            socket = context.socket(zmq.SUB if channel is Channel.IOPUB else zmq.DEALER)
            socket.linger = 0
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
            if channel is not Channel.IOPUB:
                socket.setsockopt(zmq.IDENTITY, identity)
            else:
                socket.subscribe(b"")
                self._monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECTED)
            self._sockets[channel] = socket
            self._loop.add_reader(socket.FD, self._drain, channel)

    def connect(self) -> None:
        """Connects to the kernel's sockets, now or as soon as they are there. Once."""
        for channel, socket in self._sockets.items():
            socket.connect(f"ipc://{self._socket_prefix}-{PORTS[channel]}")

    def send(self, channel: Channel, parts: Sequence[Any]) -> None:
        """Sends the parts as they are, header first, without a signature."""
        socket = self._sockets[channel]
        socket.send_multipart([_DELIMITER, b"", *parts])
        # Sending may take the event by which the loop would have learnt that there is something to receive: see ZMQ_FD
        # in zmq_getsockopt(3).
        if int(socket.EVENTS) & zmq.POLLIN:
            self._loop.call_soon(self._drain, channel)

    def expect_resent(self, request_id: str, on_missing: Callable[[int], None]) -> asyncio.Future[None]:
        """Awaits what is sent again for a request, from the number after the last on.

        Args:
            request_id: Named by the marks around it.
            on_missing: Called with how many messages the kernel has dropped, before the first that follows.

        Returns:
            Done once all of it has come.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        self._resending = (request_id, on_missing, done)
        return done

    def disconnected(self) -> bool:
        """Says whether the kernel has closed the output socket; all that it sent has then been received by zmq."""
        closed = False
        while self._monitor.poll(0):
            frames = self._monitor.recv_multipart()
            event = int.from_bytes(frames[0][:2], "little")
            closed = event == zmq.EVENT_DISCONNECTED
        return closed

    def drain(self) -> None:
        """Receives what has come, to the last message."""
        for channel in self._sockets:
            self._drain(channel, at_most=None)

    def close(self) -> None:
        """Closes the sockets. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for channel, socket in self._sockets.items():
            self._loop.remove_reader(socket.FD)
            if channel is Channel.IOPUB:
                socket.disable_monitor()
                self._monitor.close(linger=0)
            socket.close()

    def _drain(self, channel: Channel, at_most: int | None = _MAX_MESSAGES_AT_ONCE) -> None:
        received = 0
        while not self._closed:
            if at_most is not None and received >= at_most:
                self._loop.call_soon(self._drain, channel)  # the descriptor does not tell again
                return
            try:
                frames = self._sockets[channel].recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            received += 1
            try:
                start = frames.index(_DELIMITER) + 2  # the signature follows the delimiter
            except ValueError:  # not a Jupyter message
                self._take_mark(frames)
                continue
            if len(frames) < start + 4:
                continue
            if start > 2 and frames[start - 3].startswith(_NUMBER_PREFIX):
                kept = self._take_number(frames[start - 3])
                if kept is not None:
                    self.on_message(kept, frames[start:])
            elif channel is not Channel.IOPUB or not self.number:  # else a welcome: it answers nobody
                self.on_message(channel, frames[start:])

    def _take_number(self, tag: bytes) -> Channel | None:
        """Returns the channel of a numbered message; None if it was here before, or another was not."""
        _, number, channel = tag.split(b":")
        if int(number) <= self.number:
            return None
        if int(number) != self.number + 1 and self.in_order:
            if self._resending is None:
                self.on_gap()
            return None
        self.number = int(number)
        return Channel(int(channel))

    def _take_mark(self, frames: list[bytes]) -> None:
        if len(frames) != 3 or self._resending is None or frames[1].decode() != self._resending[0]:
            return
        number = int(frames[2])
        if frames[0] == _RESENDING and number > self.number + 1:
            missing, self.number = number - 1 - self.number, number - 1
            self._resending[1](missing)
        elif frames[0] == _RESENT:
            _, _, done = self._resending
            self._resending = None
            if not done.done():
                done.set_result(None)


def message_parts(
    message_type: str, content: Mapping[str, Any], *, parent_header: Mapping[str, Any] | None = None
) -> list[bytes]:
    """Returns the parts of a message of the agent's own."""
    header = {
        "msg_id": os.urandom(16).hex(),
        "msg_type": message_type,
        "session": "nbgpu-agent",
        "username": "nbgpu",
        "date": datetime.now(timezone.utc).isoformat(),
        "version": "5.3",
    }
    parts: list[Mapping[str, Any]] = [header, parent_header or {}, {}, content]
    return [json.dumps(part).encode() for part in parts]
