"""How often an address may fail to say who it is, before it has to wait. Pure: values and a clock."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable
from urllib.parse import unquote

MAX_FAILURES = 10
WINDOW_S = 60.0
_MAX_ADDRESSES = 10_000
"""Remembered at once; the one that failed longest ago is forgotten first."""


class Attempts:
    """The failures of each address within the last minute.

    Args:
        now: The time in seconds, from whenever on.
        on_failure: Called with the address, and why it is refused, at each failure of one that need not wait.
        max_failures: After so many within the window, the address waits until the first of them is older.
        window_s: In seconds.
    """

    def __init__(
        self,
        now: Callable[[], float],
        on_failure: Callable[[str, str], None] = lambda address, reason: None,
        *,
        max_failures: int = MAX_FAILURES,
        window_s: float = WINDOW_S,
    ) -> None:
        self._now = now
        self._on_failure = on_failure
        self._max_failures = max_failures
        self._window_s = window_s
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Returns how long the address has to wait; 0: it need not."""
        failures = self._failures.get(address)
        if failures is None or len(failures) < self._max_failures:
            return 0.0
        return max(failures[0] + self._window_s - self._now(), 0.0)

    def note_failure(self, address: str, reason: str) -> None:
        if not self.wait_s(address):
            self._on_failure(address, reason)
        failures = self._failures.setdefault(address, deque(maxlen=self._max_failures))
        failures.append(self._now())
        self._failures.move_to_end(address)
        if len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)


def address_of(peer: str) -> str:
    """Returns what of gRPC's peer stands for one machine: an IPv4 address, or the /64 network of an IPv6 address.

    Args:
        peer: Such as `ipv4:192.0.2.1:4711`, `ipv6:%5B2001:db8::1%5D:4711` or `unix:`.
    """
    scheme, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return scheme
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
