"""Numbers of the operating system's users for people that it does not know: one each, the same ever after."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import json
import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path

from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.isolation.os_user import IsolationError, OsUser, own_folder, passable

DEFAULT_RANGE = "60600-61183"
"""Between what systemd takes for homed and containers' users and what it takes for dynamic ones (its UIDS-GIDS.md)."""
_RANGE = re.compile(r"(\d{1,10})\s*-\s*(\d{1,10})")
_IDS_FILE, _LOCK_FILE, _HOMES = "user-ids.json", "user-ids.lock", "homes"


def parse_range(text: str) -> range:
    """Returns the numbers of a range such as "60600-61183".

    Raises:
        InvalidRequestError: It is none.
    """
    found = _RANGE.fullmatch(text.strip())
    if found is None or not 0 < int(found[1]) <= int(found[2]) < 0xFFFFFFFE:
        raise InvalidRequestError(f"{text!r} is no range of user ids", f"such as os_user_ids = {DEFAULT_RANGE!r}")
    return range(int(found[1]), int(found[2]) + 1)


class UserIds:
    """The numbers, and the homes, that users have on this machine, whichever agent of it they come to.

    Args:
        folder: For the list and the homes; only root changes it, and everybody passes.
        numbers: To choose from. Those that the operating system knows are passed over.
        realm: Tells users of this agent from those of others that have the same names.
    """

    def __init__(self, folder: Path, numbers: range, realm: str) -> None:
        self._folder = folder
        self._numbers = numbers
        self._realm = realm

    def os_user(self, name: str) -> OsUser:
        """Returns a user, by a number of their own if this is the first time.

        Raises:
            IsolationError: There is no number left, or the list cannot be read or written.
        """
        try:
            with self._locked():
                uid = self._number(f"{self._realm}:{name}")
                home = own_folder(self._folder / _HOMES / str(uid), OsUser(name, uid, uid, Path()))
        except (OSError, ValueError, AttributeError) as error:
            raise IsolationError(
                f"{name} cannot be given a user id by {self._folder / _IDS_FILE}: {error}",
                "see who can write there; without the file all users get new ones",
            ) from error
        return OsUser(name, uid, uid, home)

    def _number(self, key: str) -> int:
        path = self._folder / _IDS_FILE
        known: dict[str, int] = json.loads(path.read_bytes()) if path.exists() else {}
        if key in known:
            return known[key]
        taken = set(known.values())
        number = next((each for each in self._numbers if each not in taken and not _is_known(each)), None)
        if number is None:
            raise IsolationError(
                f"all {len(self._numbers)} user ids from {self._numbers[0]} on are given away",
                "configure a wider range, such as c.AgentApp.os_user_ids = '200000-265535'",
            )
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({**known, key: number}, indent=1))
        partial.chmod(0o600)
        partial.replace(path)
        return number

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        passable(self._folder)
        lock = os.open(self._folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _is_known(number: int) -> bool:
    for look_up in (pwd.getpwuid, grp.getgrgid):
        with contextlib.suppress(KeyError):
            look_up(number)
            return True
    return False
