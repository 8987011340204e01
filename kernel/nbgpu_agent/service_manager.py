"""Tells systemd how far the agent is, where systemd started it and wants to know."""

from __future__ import annotations

import contextlib
import os
import socket

VARIABLE = "NOTIFY_SOCKET"


def tell_service_manager(state: str) -> None:
    """Sends a state, such as "READY=1" or "STOPPING=1"; does nothing where nobody asked for it."""
    address = os.environ.get(VARIABLE)
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        link.connect(address)
        link.sendall(state.encode())
