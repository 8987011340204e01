"""The agent's users, their tokens and the codes that they pair with, in a file that survives the agent.

SQLite, since the agent and the command line change it at once, and a transaction is what makes a code good for one use.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from nbgpu_agent.errors import CodeRefusedError, InvalidRequestError, UnauthenticatedError
from nbgpu_agent.identity.caller import Caller

CODE_LIFETIME_S = 15 * 60.0
_CLOCK_SLACK_S = 60.0
"""By how much the clock may be set back between a code and its use."""
TOKEN_LIFETIME_S = 90 * 86_400.0
MAX_CLIENT_NAME_CHARACTERS = 64
_USER = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_CODE_CHARACTERS = "ABCDEFGHJKMNPQRSTVWXYZ23456789"
"""None that look like another. Sixteen of them are 78 bits: for 15 minutes, and ten attempts a minute."""
_CODE_GROUPS, _CODE_GROUP_LENGTH = 4, 4
_BUSY_TIMEOUT_S = 10.0
_FORMAT = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, administrator INTEGER NOT NULL, created_unix_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS codes (
    hash BLOB PRIMARY KEY, user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    expires_unix_s REAL NOT NULL, token_lifetime_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (
    id TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE, user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    client TEXT NOT NULL, created_unix_s REAL NOT NULL, expires_unix_s REAL NOT NULL, revoked_unix_s REAL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class User:
    name: str
    administrator: bool
    created_unix_s: float


@dataclass(frozen=True)
class Token:
    """What is known of a token, which is not the token."""

    id: str
    user: str
    administrator: bool
    client: str
    """The name of the machine that paired."""
    created_unix_s: float
    expires_unix_s: float
    revoked_unix_s: float | None


@dataclass(frozen=True)
class Grant:
    """A token, told once to the client that paired."""

    token: str
    user: str
    administrator: bool
    expires_unix_s: float


class UserStore:
    """Users, tokens and codes. For one thread; any number of processes.

    Of tokens and codes only SHA-256 is kept. They are random, of 256 and 78 bits, so that nothing is to be guessed
    from a hash that is computed fast; a slow one, as for passwords, would cost every RPC what it costs an attacker.

    Args:
        path: Of the file, made when it is not there.
        now: The time, in seconds since the epoch.

    Raises:
        InvalidRequestError: The file cannot be used.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._known: dict[bytes, Token] = {}
        self._version: int | None = None
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            # Not in the mode with a write-ahead log: home folders are on network file systems.
            self._database = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise InvalidRequestError(f"the users in {path} cannot be read: {error}") from error

    def close(self) -> None:
        self._database.close()

    # -- What the owner does

    def users(self) -> list[User]:
        """Returns all users by name."""
        rows = self._database.execute("SELECT name, administrator, created_unix_s FROM users ORDER BY name")
        return [User(name, bool(administrator), created) for name, administrator, created in rows]

    def tokens(self) -> list[Token]:
        """Returns all tokens that were not removed with their user, by user, the oldest first."""
        return sorted(self._read_tokens().values(), key=lambda token: (token.user, token.created_unix_s))

    def invite(
        self, user: str, *, administrator: bool | None = None, token_lifetime_s: float = TOKEN_LIFETIME_S
    ) -> str:
        """Returns a code with which a client gets a token of the user, who is added if there is none of that name.

        Args:
            user: Their name.
            administrator: Whether they see and end everybody's sessions; None: as it is, at first not.
            token_lifetime_s: Of the token, from when it is given out.

        Raises:
            InvalidRequestError: The name cannot be one, or the lifetime is none.
        """
        if not _USER.fullmatch(user):
            raise InvalidRequestError(
                f"{user[:50]!r} cannot be a user's name",
                "a name has 1 to 32 of a-z, 0-9, `.`, `_` and `-`, and begins with a letter or a digit",
            )
        if not 0 < token_lifetime_s < 100 * TOKEN_LIFETIME_S:
            raise InvalidRequestError(f"a token cannot last {token_lifetime_s:g} seconds")
        code = "".join(secrets.choice(_CODE_CHARACTERS) for _ in range(_CODE_GROUPS * _CODE_GROUP_LENGTH))
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO users VALUES (?, ?, ?)", (user, bool(administrator), self._now()))
            if administrator is not None:
                database.execute("UPDATE users SET administrator = ? WHERE name = ?", (administrator, user))
            database.execute("DELETE FROM codes WHERE expires_unix_s <= ?", (self._now(),))
            database.execute(
                "INSERT INTO codes VALUES (?, ?, ?, ?)",
                (_hash(code), user, self._now() + CODE_LIFETIME_S, token_lifetime_s),
            )
        return "-".join(code[at : at + _CODE_GROUP_LENGTH] for at in range(0, len(code), _CODE_GROUP_LENGTH))

    def remove_user(self, name: str) -> None:
        """Removes a user with their tokens and codes.

        Raises:
            InvalidRequestError: There is none of that name.
        """
        with self._transaction() as database:
            if not database.execute("DELETE FROM users WHERE name = ?", (name,)).rowcount:
                raise InvalidRequestError(f"there is no user {name[:50]!r}", "list them by `nbgpu agent users list`")

    def revoke(self, token_id: str) -> Token:
        """Makes a token worthless; it stays in the list, so that who uses it is told why. Idempotent.

        Raises:
            InvalidRequestError: There is none of that id.
        """
        with self._transaction() as database:
            database.execute(
                "UPDATE tokens SET revoked_unix_s = coalesce(revoked_unix_s, ?) WHERE id = ?", (self._now(), token_id)
            )
        for token in self._read_tokens().values():
            if token.id == token_id:
                return token
        raise InvalidRequestError(f"there is no token {token_id[:50]!r}", "list them by `nbgpu agent tokens list`")

    def fact(self, name: str) -> str:
        """Returns what was noted by that name, such as the agent's address; empty: nothing."""
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def note_fact(self, name: str, value: str) -> None:
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # -- What the agent does

    def pair(self, code: str, client: str, *, required_user: str | None = None) -> Grant:
        """Exchanges a code, which is then used up, for a token.

        Args:
            code: As it was typed: case and hyphens do not matter.
            client: The name of the client's machine, for lists.
            required_user: Whose certificate the client has shown; None: none is asked for.

        Raises:
            CodeRefusedError: There is no such code, or no more.
        """
        code_hash = _hash(re.sub(r"[\s-]", "", code).upper())
        token, now = secrets.token_urlsafe(32), self._now()
        with self._transaction() as database:
            row = database.execute(
                "SELECT users.name, administrator, expires_unix_s, token_lifetime_s"
                " FROM codes JOIN users ON users.name = codes.user WHERE hash = ?",
                (code_hash,),
            ).fetchone()
            # One that is good for longer than a code ever is was made before the clock was set back.
            is_current = row is not None and now < row[2] <= now + CODE_LIFETIME_S + _CLOCK_SLACK_S
            if not is_current or required_user not in (None, row[0]):
                raise CodeRefusedError(
                    "the code is wrong, was used before, or is older than 15 minutes",
                    "ask the agent's owner for another: `nbgpu agent invite USER`",
                )
            database.execute("DELETE FROM codes WHERE hash = ?", (code_hash,))
            name = "".join(character for character in client if character.isprintable())[:MAX_CLIENT_NAME_CHARACTERS]
            grant = Grant(token, row[0], bool(row[1]), now + row[3])
            database.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (secrets.token_hex(4), _hash(token), grant.user, name, now, grant.expires_unix_s),
            )
        return grant

    def authenticate(self, token: str) -> Caller:
        """Returns whose the token is.

        Raises:
            UnauthenticatedError: It is nobody's, or no more.
        """
        known = self._current().get(_hash(token))
        if known is None:
            raise UnauthenticatedError("the agent's token is missing or wrong", _HINT)
        self._check(known)
        return Caller(known.user, known.administrator, known.id)

    def check(self, caller: Caller) -> None:
        """Looks whether a token is still good.

        Raises:
            UnauthenticatedError: It is not.
        """
        for known in self._current().values():
            if known.id == caller.token_id:
                return self._check(known)
        raise UnauthenticatedError(f"the user {caller.user!r} was removed", _HINT)

    def _check(self, token: Token) -> None:
        if token.revoked_unix_s is not None:
            raise UnauthenticatedError(f"the token of {token.user!r} was revoked", _HINT)
        if token.expires_unix_s <= self._now():
            raise UnauthenticatedError(
                f"the token of {token.user!r} expired on {in_words(token.expires_unix_s)}", _HINT
            )

    def _current(self) -> dict[bytes, Token]:
        """Returns all tokens by their hash, read again where another process has changed the file."""
        (version,) = self._database.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._known, self._version = self._read_tokens(), version
        return self._known

    def _read_tokens(self) -> dict[bytes, Token]:
        rows = self._database.execute(
            "SELECT hash, id, users.name, administrator, client, tokens.created_unix_s, expires_unix_s, revoked_unix_s"
            " FROM tokens JOIN users ON users.name = tokens.user"
        )
        return {row[0]: Token(row[1], row[2], bool(row[3]), *row[4:]) for row in rows}

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        self._version = None  # of which one's own changes say nothing

    def _prepare(self) -> None:
        self._database.execute("PRAGMA foreign_keys = ON")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > _FORMAT:
            raise InvalidRequestError("the users were written by a newer nbgpu", "`pip install --upgrade nbgpu`")
        if version < _FORMAT:
            with self._transaction() as database:
                for statement in filter(str.strip, _TABLES.split(";")):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {_FORMAT}")


_HINT = (
    "the agent's owner makes an invitation by `nbgpu agent invite USER`, which says what to run here:"
    " `nbgpu pool add NAME ADDRESS --pin PIN --code CODE`"
)


def in_words(time_unix_s: float) -> str:
    """Returns a time as a person reads it, in UTC."""
    return datetime.fromtimestamp(time_unix_s, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
