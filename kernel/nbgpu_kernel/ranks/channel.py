"""Messages between the processes of a session's ranks: plain data, a line of JSON each, over a socket."""

from __future__ import annotations

import json
import socket
from typing import Any

_CHUNK_BYTES = 1 << 16


class Channel:
    """One end of a connection. Closed when the other process ends.

    Args:
        connection: A connected stream socket, which it owns from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""
        self._lines: list[bytes] = []

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message whole.

        Raises:
            OSError: The other end is gone.
        """
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Waits for the next message; returns None once the other end is gone."""
        while not self._lines:
            if not self._read():
                return None
        message: dict[str, Any] = json.loads(self._lines.pop(0))
        return message

    def receive_available(self) -> list[dict[str, Any]] | None:
        """Reads what is there, which a selector says there is; returns whole messages, None at the end of all."""
        if not self._read():
            return None
        lines, self._lines = self._lines, []
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> bool:
        try:
            data = self._socket.recv(_CHUNK_BYTES)
        except ConnectionError:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines += lines
        return bool(data)


def open_channel() -> tuple[Channel, Channel]:
    """Returns the two ends of a new connection."""
    one, other = socket.socketpair()
    return Channel(one), Channel(other)
