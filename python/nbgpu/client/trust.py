"""By what an agent on a network is recognised: its authority's certificate, whose SHA-256 is the pin."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from nbgpu import errors
from nbgpu_protocol.discovery import TLS_NAME, TLS_SCHEME

CONNECT_TIMEOUT_S = 10.0
PIN = re.compile(r"sha256:[0-9a-f]{64}")
_DER = 2
"""`ssl._ssl.ENCODING_DER`, as which `get_unverified_chain` of Python 3.13 returns it."""
TLS_OPTIONS = (("grpc.ssl_target_name_override", TLS_NAME),)
"""Of a channel: every agent's certificate has the same name, and the pin says which agent it is."""


class UntrustedAgentError(errors.InfrastructureError):
    """Raised when an agent shows another certificate than the pin says, or one that is not valid."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text, hint)
        self.hint = hint

    def message(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Trust:
    """What a connection with TLS needs."""

    authority: str = field(repr=False)
    """The authority's certificate as PEM. Nothing else is trusted."""
    client_certificate: str = ""
    """Path of a file with the client's own key and certificate; empty: it has none."""

    @property
    def pin(self) -> str:
        return _pin_of(ssl.PEM_cert_to_DER_cert(self.authority))

    def credentials(self) -> grpc.ChannelCredentials:
        """Returns gRPC's credentials. Reads a file.

        Raises:
            UntrustedAgentError: The client's certificate cannot be read.
        """
        own: dict[str, bytes] = {}
        if self.client_certificate:
            try:
                content = Path(self.client_certificate).expanduser().read_bytes()
            except OSError as error:
                raise UntrustedAgentError(
                    f"the client certificate {self.client_certificate} cannot be read: {error.strerror}",
                    "add the pool again with --client-certificate and the path of the file that its owner gave you",
                ) from error
            own = {"private_key": content, "certificate_chain": content}
        return grpc.ssl_channel_credentials(self.authority.encode(), **own)


def is_tls(address: str) -> bool:
    return address.startswith(TLS_SCHEME)


def fetch_trust(address: str, pin: str, client_certificate: str = "") -> Trust:
    """Connects, sends nothing but what begins a TLS connection, and compares what the agent shows. Blocks.

    Args:
        address: `grpcs://host:port`.
        pin: `sha256:` and the SHA-256 of the authority's certificate.
        client_certificate: Path of the client's own, for later.

    Raises:
        UntrustedAgentError: It shows another certificate, or the pin is none.
        AgentUnreachableError: Nothing with TLS answers there.
    """
    if not PIN.fullmatch(pin):
        raise UntrustedAgentError(
            f"{pin[:80]!r} is no pin of a certificate" if pin else f"{address} needs the pin of its certificate",
            "copy the whole line that `nbgpu agent invite USER` printed on the agent's machine",
        )
    chain = _shown_certificates(address)
    for der in chain:
        if _pin_of(der) == pin:
            return Trust(ssl.DER_cert_to_PEM_cert(der), client_certificate)
    raise UntrustedAgentError(
        f"{address} shows the certificate {_pin_of(chain[-1]) if chain else 'of nobody'}, and the pin is {pin}:"
        " it is another agent, or somebody is in between; nothing was sent",
        "ask the agent's owner for a new line: `nbgpu agent invite USER` prints the pin that is right",
    )


def split_host(address: str) -> tuple[str, int]:
    """Returns host and port of `grpcs://host:port`.

    Raises:
        UntrustedAgentError: It is no such address.
    """
    found = re.fullmatch(r"(\[[^\[\]\s]+\]|[^:/\[\]\s]+):(\d{1,5})", address.removeprefix(TLS_SCHEME))
    if found is None or not 0 < int(found[2]) < 65_536:
        raise UntrustedAgentError(f"{address!r} is no address of an agent", f"such as {TLS_SCHEME}gpu.lab:7443")
    return found[1].strip("[]"), int(found[2])


def _shown_certificates(address: str) -> list[bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the pin is compared instead, before anything is sent
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection(split_host(address), CONNECT_TIMEOUT_S) as connection,
            context.wrap_socket(connection) as secured,
        ):
            # Public from Python 3.13 on, and until then only on what the socket wraps.
            public: Any = getattr(secured, "get_unverified_chain", None)
            if public is not None:
                return list(public())
            wrapped: Any = secured
            return [each.public_bytes(_DER) for each in wrapped._sslobj.get_unverified_chain()]
    except ssl.SSLError as error:
        raise errors.AgentUnreachableError(
            f"{address} does not speak TLS: {error.reason or error}",
            "is it an agent that listens there? `nbgpu agent serve --listen 0.0.0.0:7443` on its machine",
        ) from error
    except OSError as error:
        raise errors.AgentUnreachableError(
            f"{address} does not answer: {error.strerror or error}",
            "is the agent running there, and the port open? `nbgpu agent serve --listen 0.0.0.0:7443`",
        ) from error


def _pin_of(der: bytes) -> str:
    return f"sha256:{hashlib.sha256(der).hexdigest()}"
