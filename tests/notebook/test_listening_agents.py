"""Agents that are reached over the network: on loopback with a token, and in no other way."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import psutil
import pytest

from agent_processes import DEADLINE_S, Workplace
from nbgpu_agent.app import EXIT_REFUSED

ATTACH = """
import json, nbgpu
with nbgpu.attach("H100x2", wait=False) as session:
    print(json.dumps({"accelerators": session.accelerators}), flush=True)
    session.execute("import os; print('session', os.environ['NBGPU_SESSION_ID'])")
    session.execute("x = 6 * 7")
    result = session.execute("x")
    print(result)
"""


def attach(place: Workplace, address: str, token: str) -> subprocess.CompletedProcess[str]:
    # In the environment that the agent has: nothing but the loopback is to be reached.
    environ = place.environ(NBGPU_AGENT_ADDRESS=address, NBGPU_AGENT_TOKEN=token, NBGPU_SIMULATE="", NBGPU_SNAPSHOT="0")
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", ATTACH],
        env=environ,
        cwd=place.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )


def test_attach_on_loopback_with_the_token(place: Workplace) -> None:
    process, address, token = place.start_listening()
    attached = attach(place, address, token)
    assert attached.returncode == 0, attached.stderr
    told, session, *result = attached.stdout.splitlines()
    assert json.loads(told) == {"accelerators": ["H100", "H100"]}
    assert session.startswith("session ")
    assert result[-1] == "42"
    assert attached.stderr == ""
    assert place.end(process) == 0
    assert "closed: it was closed by its user" in place.log()


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("a-wrong-token-of-some-length", "the agent's token is missing or wrong"),
        ("schlüssel", "NBGPU_AGENT_TOKEN holds characters that no token has"),
        ("", "but NBGPU_AGENT_TOKEN is not set"),
    ],
)
def test_a_wrong_token_is_refused_in_words(place: Workplace, token: str, why: str) -> None:
    process, address, right = place.start_listening()
    attached = attach(place, address, token)
    assert attached.returncode == 1
    assert "nbgpu.errors.AuthenticationError: " in attached.stderr
    assert why in attached.stderr
    assert "hint: " in attached.stderr
    assert right not in attached.stderr + place.log()
    assert place.end(process) == 0
    assert "opened" not in place.log()


def lan_addresses() -> list[str]:
    """Returns what others reach this machine by, IPv4 and IPv6, if it is on any network."""
    found = {
        (address.family, address.address.partition("%")[0])
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family in (socket.AF_INET, socket.AF_INET6)
    }
    return [
        f"[{host}]:0" if family == socket.AF_INET6 else f"{host}:0"
        for family, host in sorted(found)
        if host != "::1" and not host.startswith("127.")
    ]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0.0.0.0:0", "0.0.0.0 can be reached from other machines, and without TLS"),
        ("[::]:0", ":: can be reached from other machines, and without TLS"),
        ("192.0.2.7:7443", "192.0.2.7 can be reached from other machines, and without TLS"),
        *((address, "can be reached from other machines, and without TLS") for address in lan_addresses()),
        (f"{socket.gethostname()}:0", "is a host name or nothing, and only loopback addresses are listened on"),
        (":7443", "is a host name or nothing, and only loopback addresses are listened on"),
        ("7443", "is no address with a port"),
    ],
)
def test_other_addresses_are_refused_and_it_is_said_why(place: Workplace, address: str, why: str) -> None:
    process = place.start(f"--listen={address}")
    assert process.wait(DEADLINE_S) == EXIT_REFUSED
    assert process.stdout is not None
    assert process.stdout.read() == ""
    assert why in place.log()
    assert "hint: " in place.log()
    assert "Traceback" not in place.log()


def test_a_client_sends_its_token_to_no_other_machine(place: Workplace) -> None:
    attached = attach(place, "192.0.2.7:7443", "a-token-of-some-length")
    assert attached.returncode == 1
    assert "neither a Unix socket nor on loopback" in attached.stderr
    assert "ssh -L" in attached.stderr
