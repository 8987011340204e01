"""Which addresses the agent may listen on: Unix sockets and loopback, and with TLS any other."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from nbgpu_agent.errors import AddressRefusedError

MAX_SOCKET_PATH_BYTES = 107
"""Linux: `sun_path` has 108 bytes, the last of them NUL. macOS has 104."""

_HINT = (
    "`nbgpu agent init --address HOST:7443` makes a certificate; or listen on 127.0.0.1:7443 and reach it through an"
    " SSH tunnel: `ssh -L 7443:127.0.0.1:7443 HOST`"
)
_ADDRESS = re.compile(r"(?:\[(?P<bracketed>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class ListenAddress:
    """Where to listen: a Unix socket's path, or an address and a port."""

    socket: Path | None = None
    host: str = ""
    port: int = 0
    """0: one that is free."""
    tls: bool = False
    """Always off loopback."""

    def target(self, port: int | None = None) -> str:
        """Returns gRPC's target.

        Args:
            port: In place of 0, once it is known.
        """
        if self.socket is not None:
            return f"unix:{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port if port is None else port}"


def parse_listen_address(text: str, *, certificate: bool = False, tls: bool = False) -> ListenAddress:
    """Returns the address that `unix:/path`, `127.0.0.1:7443`, `[::1]:7443`, `localhost:7443` or `0.0.0.0:7443` name.

    Args:
        text: What names it.
        certificate: Whether the agent has one, without which only this machine may reach it.
        tls: Listen with TLS on loopback as well.

    Raises:
        AddressRefusedError: It is none of these, or others than this machine could reach it without TLS.
    """
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:").removeprefix("//"))
        if not path.is_absolute():
            raise AddressRefusedError(f"{text!r} is no absolute path of a Unix socket", "write unix:/path/of/socket")
        if len(str(path).encode()) > MAX_SOCKET_PATH_BYTES:
            raise AddressRefusedError(
                f"{str(path)!r} is too long for a Unix socket, whose path has at most {MAX_SOCKET_PATH_BYTES} bytes",
                "choose a shorter path",
            )
        return ListenAddress(socket=path)
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise AddressRefusedError(f"{text!r} is no address with a port", "write 127.0.0.1:7443, or unix:/path")
    host = found["host"] if found["bracketed"] is None else found["bracketed"]
    if host == "localhost":
        host = "127.0.0.1"  # a resolver might say anything
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise AddressRefusedError(
            f"{host!r} is a host name or nothing, and only loopback addresses are listened on without TLS,"
            " with it any address of this machine",
            "listen on 127.0.0.1:7443, or with a certificate on 0.0.0.0:7443, which is every address",
        ) from None
    if (tls or not loopback) and not certificate:
        raise AddressRefusedError(
            "there is no certificate to listen with"
            if loopback
            else f"{host} can be reached from other machines, and without TLS, for which there is no certificate yet,"
            " token and data would travel unencrypted",
            _HINT,
        )
    return ListenAddress(host=host, port=int(found["port"]), tls=tls or not loopback)
