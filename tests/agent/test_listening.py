"""Which addresses may be listened on, and which tokens are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbgpu_agent.errors import AddressRefusedError, InvalidRequestError
from nbgpu_agent.listening import parse_listen_address
from nbgpu_agent.tokens import configured_token, new_token


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("127.0.0.1:7443", "127.0.0.1:7443"),
        ("127.8.9.10:0", "127.8.9.10:0"),
        ("localhost:80", "127.0.0.1:80"),
        ("[::1]:7443", "[::1]:7443"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_unix_sockets_and_loopback(text: str, target: str) -> None:
    assert parse_listen_address(text).target() == target


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0.0.0:7443", "can be reached from other machines"),
        ("[::]:7443", "can be reached from other machines"),
        ("192.168.1.2:7443", "without TLS"),
        ("10.0.0.1:1", "without TLS"),
        ("[::ffff:10.0.0.1]:1", "without TLS"),
        ("gpu.example.org:7443", "host name"),
        ("localhost.example.org:7443", "host name"),
        ("0:7443", "host name"),
        ("2130706433:7443", "host name"),
        (":7443", "only loopback"),
        ("127.0.0.1", "no address with a port"),
        ("127.0.0.1:99999", "no address with a port"),
        ("127.0.0.1:7443,0.0.0.0:1", "no address with a port"),
        ("[127.0.0.1:7443", "no address with a port"),
        ("::1:7443", "no address with a port"),
        ("", "no address with a port"),
        ("unix:relative.sock", "no absolute path"),
        ("unix:/" + "x" * 107, "too long"),
        ("unix-abstract:x", "no address with a port"),
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(AddressRefusedError, match=why):
        parse_listen_address(text)


def test_tokens_are_long_and_never_the_same() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) >= 43


def test_the_environment_forgets_the_token() -> None:
    environ = {"NBGPU_AGENT_TOKEN": "t" * 20, "HOME": "/"}
    assert configured_token(environ, "/no/such/file") == "t" * 20
    assert environ == {"HOME": "/"}
    assert configured_token(environ, "") is None


def test_a_token_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("u" * 20 + "\n")
    path.chmod(0o600)
    assert configured_token({}, str(path)) == "u" * 20
    for mode in (0o640, 0o604, 0o622):
        path.chmod(mode)
        with pytest.raises(InvalidRequestError, match="others can read"):
            configured_token({}, str(path))
    path.chmod(0o600)
    for content in ("", "short", "with space " * 3, "ümlaut" * 5):
        path.write_text(content)
        with pytest.raises(InvalidRequestError):
            configured_token({}, str(path))
