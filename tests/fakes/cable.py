"""A cable between two network namespaces that delays, loses, or carries no packets: TCP itself has to cope with it.

Linux has `tc netem` for this, which not every kernel is built with. Here the packets pass through a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEVICE = "cable"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_SET_DEVICE = 0x400454CA  # TUNSETIFF
_FLAGS = 0x0001 | 0x1000  # IFF_TUN, IFF_NO_PI
_MAX_PACKET_BYTES = 1 << 16
_AT_ONCE = 64


@dataclass(frozen=True)
class Quality:
    """What a cable does to packets, in each direction."""

    delay_s: float = 0.0
    loss: float = 0.0
    """Share of the packets: 1 carries none."""


class Cable:
    """Carries packets between a device in each of two namespaces, on a thread of its own.

    Args:
        namespaces: Their names, as of `ip netns`.
        control: Where a socket is made by which other processes set the quality; removed at the end.
        seed: Chooses what is lost.
    """

    def __init__(self, namespaces: tuple[str, str], control: Path, seed: int = 0) -> None:
        self._namespaces = namespaces
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._control.bind(str(control))
        self._path = control
        self._random = random.Random(seed)
        self._quality = Quality()
        self._devices: list[int] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cable", daemon=True)

    def open(self) -> None:
        """Makes the devices, which are down and have no address."""
        self._thread.start()
        assert self._ready.wait(60)
        assert len(self._devices) == 2, "the devices could not be made"

    def close(self) -> None:
        """Removes the devices."""
        ask(self._path, None)
        self._thread.join(60)
        self._control.close()
        self._path.unlink()

    def _run(self) -> None:
        try:
            for name in self._namespaces:
                _enter(name)
                self._devices.append(_make_device())
        finally:
            self._ready.set()
        self._carry()
        for device in self._devices:
            os.close(device)

    def _carry(self) -> None:
        left, right = self._devices
        other = {left: right, right: left}
        on_their_way: list[tuple[float, int, int, bytes]] = []
        numbers = itertools.count()
        while True:
            wait_s = max(0.0, on_their_way[0][0] - time.monotonic()) if on_their_way else None
            readable, _, _ = select.select([left, right, self._control], [], [], wait_s)
            if self._control in readable and not self._take_request():
                return
            now = time.monotonic()
            for device in {left, right} & set(readable):
                for packet in _packets(device):
                    if self._random.random() >= self._quality.loss:
                        due = now + self._quality.delay_s
                        heapq.heappush(on_their_way, (due, next(numbers), other[device], packet))
            while on_their_way and on_their_way[0][0] <= time.monotonic():
                _, _, device, packet = heapq.heappop(on_their_way)
                with contextlib.suppress(OSError):  # the device is down
                    os.write(device, packet)

    def _take_request(self) -> bool:
        content, sender = self._control.recvfrom(1000)
        request = json.loads(content)
        if request is not None:
            self._quality = Quality(**request)
        self._control.sendto(b"done", sender)
        return request is not None


def ask(control: Path, quality: Quality | None) -> None:
    """Has the cable whose socket this is be of that quality from now on; None ends it. From any process."""
    # By a path: the names of other Unix sockets are a namespace's own.
    answer = control.with_name(f"{control.name}-{secrets.token_hex(4)}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        asking.bind(str(answer))
        try:
            asking.settimeout(60)
            asking.sendto(json.dumps(vars(quality) if quality is not None else None).encode(), str(control))
            assert asking.recv(100) == b"done"
        finally:
            answer.unlink()


def _packets(device: int) -> Iterator[bytes]:
    for _ in range(_AT_ONCE):
        try:
            yield os.read(device, _MAX_PACKET_BYTES)
        except OSError:  # nothing more now, or the device is down or gone
            return


def _enter(namespace: str) -> None:
    """Has this thread be in the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as file:
        if libc.setns(file.fileno(), _NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), f"no way into {namespace}")


def _make_device() -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _SET_DEVICE, struct.pack("16sH22x", DEVICE.encode(), _FLAGS))
    except OSError:
        os.close(device)
        raise
    return device
