"""Pairing with an agent on a network: once its certificate is the pinned one, a code for a token of one's own."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import socket
from dataclasses import dataclass, field
from pathlib import Path

from nbgpu.client.pool import DEADLINE_S, Pool
from nbgpu.client.pools import ConfiguredPool, PoolRefusedError, check_name
from nbgpu.client.trust import fetch_trust, is_tls
from nbgpu.errors import translated
from nbgpu_protocol.v1 import identity_pb2, identity_pb2_grpc

_LINE_BEGINS = ("nbgpu", "pool", "add")


@dataclass(frozen=True)
class Invitation:
    """What the line of `nbgpu agent invite` says."""

    name: str
    address: str
    pin: str
    code: str = field(repr=False)
    client_certificate: str = ""
    """Path of a file; empty: none is asked for."""


def add_invitation_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the line holds after `nbgpu pool add`."""
    parser.add_argument("name", help="what to call it")
    parser.add_argument("address", help="such as grpcs://gpu.lab:7443, 127.0.0.1:7443, or unix:/run/nbgpu.sock")
    parser.add_argument("--pin", default="", help="of the agent's certificate, for grpcs://")
    parser.add_argument("--code", default="", help="that the agent gave out, for grpcs://")
    parser.add_argument("--client-certificate", metavar="FILE", default="", help="that the agent gave out, if it did")


def read_invitation(text: str) -> Invitation | None:
    """Returns what a line says that a person has pasted; None if it is no such line.

    Raises:
        PoolRefusedError: It begins as one, and cannot be understood.
    """
    try:
        words = shlex.split(text.strip().removeprefix("!"))
    except ValueError:
        return None
    if tuple(words[:3]) != _LINE_BEGINS:
        return None
    parser = _Parser(prog="nbgpu pool add", add_help=False)
    add_invitation_arguments(parser)
    given = parser.parse_args(words[3:])
    return Invitation(given.name, given.address, given.pin, given.code, given.client_certificate)


async def pair(invitation: Invitation) -> ConfiguredPool:
    """Returns the pool with a token of this person's own; the code is used up.

    Raises:
        UntrustedAgentError: The agent shows another certificate than the pin says; it was sent nothing.
        AgentUnreachableError: It does not answer.
        AuthenticationError: The code is wrong, was used, or is too old; or too many were wrong.
        PoolRefusedError: The name or the code cannot be one.
    """
    check_name(invitation.name)
    if not is_tls(invitation.address):
        raise PoolRefusedError(
            f"{invitation.address} has no TLS, and only with it one pairs by a code",
            "leave out --code, and give the token",
        )
    certificate = _absolute(invitation.client_certificate)
    trust = await asyncio.to_thread(fetch_trust, invitation.address, invitation.pin, certificate)
    async with Pool(invitation.address, "", trust) as pool:
        identity = identity_pb2_grpc.IdentityStub(pool.channel)
        request = identity_pb2.PairRequest(code=invitation.code, client_name=socket.gethostname())
        with translated():
            answer = await identity.Pair(request, timeout=DEADLINE_S)
    return ConfiguredPool(
        invitation.name, invitation.address, answer.token, authority=trust.authority, client_certificate=certificate
    )


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute()) if path else ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise PoolRefusedError(f"the line cannot be read: {message}", "paste it whole, as the agent printed it")
