"""Users, tokens, codes, failed attempts and certificates, on a clock of the test's."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from nbgpu_agent.errors import CodeRefusedError, InvalidRequestError, UnauthenticatedError
from nbgpu_agent.identity.attempts import Attempts, address_of
from nbgpu_agent.identity.caller import Caller, current_caller
from nbgpu_agent.identity.certificates import Identity
from nbgpu_agent.identity.users import CODE_LIFETIME_S, TOKEN_LIFETIME_S, UserStore


class Clock:
    def __init__(self) -> None:
        self.time_s = 1_000_000.0

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def users(tmp_path: Path, clock: Clock) -> Iterator[UserStore]:
    store = UserStore(tmp_path / "users.sqlite", now=clock)
    yield store
    store.close()


# -- Failed attempts


def test_an_address_that_fails_too_often_waits_until_the_first_failure_is_old(clock: Clock) -> None:
    attempts = Attempts(clock, max_failures=3, window_s=60)
    for _ in range(3):
        assert attempts.wait_s("a") == 0
        attempts.note_failure("a", "no token")
        clock.time_s += 10
    assert attempts.wait_s("a") == 30
    assert attempts.wait_s("b") == 0
    clock.time_s += 29
    assert attempts.wait_s("a") == 1
    clock.time_s += 1
    assert attempts.wait_s("a") == 0
    attempts.note_failure("a", "no token")  # three within the last minute again
    assert attempts.wait_s("a") == 10


def test_no_more_addresses_are_remembered_than_there_is_room_for(clock: Clock) -> None:
    attempts = Attempts(clock, max_failures=1)
    for number in range(10_001):
        attempts.note_failure(str(number), "no token")
    assert attempts.wait_s("0") == 0
    assert attempts.wait_s("10000") == 60


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:[2001:db8::1]:4711", "2001:db8::/64"),
        ("ipv6:%5B2001:db8::2%5D:4712", "2001:db8::/64"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:1", "192.0.2.1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::/64"),
        ("unix:", "unix"),
        ("", ""),
    ],
)
def test_what_of_a_peer_stands_for_a_machine(peer: str, address: str) -> None:
    assert address_of(peer) == address


def test_without_a_caller_nothing_is_assumed() -> None:
    with pytest.raises(LookupError):
        current_caller()


# -- Users


def test_a_code_is_good_for_one_token(users: UserStore, clock: Clock) -> None:
    code = users.invite("alice")
    grant = users.pair(code.lower().replace("-", " "), "laptop\n")
    assert (grant.user, grant.administrator) == ("alice", False)
    assert grant.expires_unix_s == clock.time_s + TOKEN_LIFETIME_S
    assert users.authenticate(grant.token).user == "alice"
    with pytest.raises(CodeRefusedError):
        users.pair(code, "laptop")
    (token,) = users.tokens()
    assert (token.user, token.client, token.revoked_unix_s) == ("alice", "laptop", None)


def test_a_code_expires(users: UserStore, clock: Clock) -> None:
    early, late = users.invite("alice"), users.invite("alice")
    clock.time_s += CODE_LIFETIME_S - 1
    users.pair(early, "")
    clock.time_s += 1
    with pytest.raises(CodeRefusedError):
        users.pair(late, "")


def test_a_code_is_not_good_for_longer_when_the_clock_is_set_back(users: UserStore, clock: Clock) -> None:
    code = users.invite("alice")
    clock.time_s -= 3 * 3600
    with pytest.raises(CodeRefusedError):
        users.pair(code, "")


@pytest.mark.parametrize("code", ["", "ABCD-EFGH-JKMN-PQRS", "' OR 1=1 --", "\ud800", "x" * 1000])
def test_what_is_no_code_is_refused(users: UserStore, code: str) -> None:
    users.invite("alice")
    with pytest.raises(CodeRefusedError):
        users.pair(code, "")


def test_a_code_is_good_only_with_its_users_certificate_where_one_is_asked(users: UserStore) -> None:
    code = users.invite("alice")
    for shown in ("", "bob"):
        with pytest.raises(CodeRefusedError):
            users.pair(code, "", required_user=shown)
    assert users.pair(code, "", required_user="alice").user == "alice"


def test_a_token_expires_is_revoked_and_goes_with_its_user(users: UserStore, clock: Clock) -> None:
    def token(user: str) -> str:
        return users.pair(users.invite(user, token_lifetime_s=100), "").token

    expiring = token("alice")
    caller = users.authenticate(expiring)
    assert caller == Caller("alice", False, caller.token_id)
    clock.time_s += 100
    for use in (lambda: users.authenticate(expiring), lambda: users.check(caller)):
        with pytest.raises(UnauthenticatedError, match="the token of 'alice' expired on 1970-01-12 13:48 UTC"):
            use()
    revoked = token("alice")
    caller = users.authenticate(revoked)
    assert users.revoke(caller.token_id) == users.revoke(caller.token_id)
    for use in (lambda: users.authenticate(revoked), lambda: users.check(caller)):
        with pytest.raises(UnauthenticatedError, match="the token of 'alice' was revoked"):
            use()
    removed = token("alice")
    caller = users.authenticate(removed)
    users.remove_user("alice")
    with pytest.raises(UnauthenticatedError, match="missing or wrong"):
        users.authenticate(removed)
    with pytest.raises(UnauthenticatedError, match="the user 'alice' was removed"):
        users.check(caller)
    assert users.users() == users.tokens() == []


def test_what_another_process_does_is_seen_at_once(users: UserStore, tmp_path: Path, clock: Clock) -> None:
    other = UserStore(tmp_path / "users.sqlite", now=clock)
    try:
        token = users.pair(other.invite("alice"), "").token
        assert not users.authenticate(token).administrator
        other.invite("alice", administrator=True)
        assert users.authenticate(token).administrator
        other.revoke(users.authenticate(token).token_id)
        with pytest.raises(UnauthenticatedError, match="revoked"):
            users.authenticate(token)
    finally:
        other.close()


def test_neither_token_nor_code_is_in_the_file(users: UserStore, tmp_path: Path) -> None:
    first, second = users.invite("alice"), users.invite("bob")
    token = users.pair(first, "").token
    content = (tmp_path / "users.sqlite").read_bytes()
    assert b"alice" in content
    for secret in (token, first, second, first.replace("-", ""), second.replace("-", "")):
        assert secret.encode() not in content
    assert stat.S_IMODE((tmp_path / "users.sqlite").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["", "Alice", "../x", ".x", "-x", "a/b", "a b", "x" * 33, "a\n", "ä"])
def test_what_cannot_be_a_users_name_is_refused(users: UserStore, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be a user's name"):
        users.invite(name)
    assert users.users() == []


def test_an_invitation_leaves_an_administrator_one(users: UserStore) -> None:
    users.invite("boss", administrator=True)
    users.invite("boss")
    users.invite("alice")
    assert [(each.name, each.administrator) for each in users.users()] == [("alice", False), ("boss", True)]
    with pytest.raises(InvalidRequestError, match="there is no user 'x'"):
        users.remove_user("x")
    with pytest.raises(InvalidRequestError, match="there is no token 'x'"):
        users.revoke("x")
    with pytest.raises(InvalidRequestError, match="a token cannot last 0 seconds"):
        users.invite("alice", token_lifetime_s=0)


def test_a_file_of_a_newer_version_or_of_something_else_is_not_touched(tmp_path: Path) -> None:
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    other = tmp_path / "other.sqlite"
    other.write_bytes(b"x" * 5000)
    for path, why in ((newer, "written by a newer nbgpu"), (other, "cannot be read"), (tmp_path, "cannot be read")):
        with pytest.raises(InvalidRequestError, match=why):
            UserStore(path)
    assert other.read_bytes() == b"x" * 5000


# -- Certificates


def test_a_renewed_certificate_is_of_the_same_authority(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "identity")
    assert not identity.exists()
    identity.make("gpu.lab")
    pin, first = identity.pin(), identity.server_pem()
    identity.renew("192.0.2.7")
    second = identity.server_pem()
    assert identity.pin() == pin
    assert first[0] != second[0]
    for _, chain in (first, second):
        server, authority = x509.load_pem_x509_certificates(chain)
        server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["nbgpu-agent"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    assert {stat.S_IMODE(each.stat().st_mode) for each in identity.folder.iterdir()} == {0o600}
