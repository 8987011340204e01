"""Chooses, for each owner of sessions, as whom or in which sandbox they run, and says where neither can be."""

from __future__ import annotations

import contextlib
import enum
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nbgpu_agent.errors import AgentError, InvalidRequestError
from nbgpu_agent.isolation.bubblewrap import Bubblewrap
from nbgpu_agent.isolation.os_user import IsolationError, OsUser, acting, own_folder, passable
from nbgpu_agent.isolation.sandbox import Sandbox
from nbgpu_agent.isolation.user_ids import UserIds
from nbgpu_agent.kernel_environment import base_variables

_PROBE_TIMEOUT_S = 120.0
_PROBE = """
import os, sys
for path in sys.argv[1:]:
    if not os.access(path, os.X_OK if os.path.isdir(path) else os.R_OK):
        sys.exit(path)
"""
_CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7}
"""Of linux/capability.h."""
SHARED_WORDS = "sessions of different users run as the agent's own user, and can read each other's files and variables"


class IsolationKind(enum.Enum):
    """What keeps sessions of different users apart."""

    NONE = "none"
    OS_USERS = "users"
    BUBBLEWRAP = "bubblewrap"


@dataclass
class Isolation:
    """As whom sessions run. Without `ids` and `bubblewrap`, all as the agent.

    Attributes:
        ids: Gives numbers to users; None: nobody is another user of the operating system.
        named: Users of the operating system that were configured, by the owner's name; that of "" is the agent's
            owner, who runs as the agent itself where nothing else is said.
        problem: Why nobody is isolated, where somebody should be: a sentence without a full stop.
        hint: What the agent's owner can do about that.
        bubblewrap: Makes sandboxes, in which sessions run as the agent's user; None: there are none.
    """

    ids: UserIds | None = None
    named: Mapping[str, OsUser] = field(default_factory=dict)
    problem: str = ""
    hint: str = ""
    bubblewrap: Bubblewrap | None = None
    _found: dict[str, OsUser] = field(default_factory=dict)

    @property
    def kind(self) -> IsolationKind:
        if self.bubblewrap is not None:
            return IsolationKind.BUBBLEWRAP
        return IsolationKind.OS_USERS if self.ids is not None else IsolationKind.NONE

    @property
    def is_on(self) -> bool:
        return self.kind is not IsolationKind.NONE

    def sandbox(self, owner: str) -> Sandbox | None:
        """Returns in which sandbox the owner's sessions run; None: in none."""
        return self.bubblewrap.sandbox(owner) if self.bubblewrap is not None else None

    def os_user(self, owner: str) -> OsUser | None:
        """Returns as whom the owner's sessions run; None: as the agent.

        Raises:
            IsolationError: There is no number for them.
        """
        if self.ids is None:
            return None
        if owner in self.named:
            return self.named[owner]
        if not owner:
            return None
        if owner not in self._found:
            self._found[owner] = self.ids.os_user(owner)
        return self._found[owner]

    def blobs_folder(self, folder: Path, owner: str) -> Path:
        """Makes an owner's folder for blobs, or for what else can be made again; returns it."""
        return own_folder(folder, self.os_user(owner), replace=True)


def find_named(names: Mapping[str, str]) -> dict[str, OsUser]:
    """Returns the operating system's users of that names, by the same keys.

    Raises:
        InvalidRequestError: There is none of a name, or it is root, or has no home.
    """
    found = {}
    for owner, name in names.items():
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise InvalidRequestError(
                f"os_users gives {owner or 'the owner'} the user {name!r}, whom this machine does not know",
                f"`useradd --create-home {name}` makes one",
            ) from None
        if entry.pw_uid == 0:
            raise InvalidRequestError(f"os_users gives {owner or 'the owner'} root, who is not kept from anything")
        home = Path(entry.pw_dir)
        if not home.is_dir():
            raise InvalidRequestError(
                f"os_users names {name}, whose home {home} is not there", f"mkhomedir_helper {name}"
            )
        groups = tuple(group for group in os.getgrouplist(name, entry.pw_gid) if group != entry.pw_gid)
        found[owner] = OsUser(name, entry.pw_uid, entry.pw_gid, home, groups)
    return found


def problem_of(probe: OsUser, python: str, needed: Iterable[Path], folder: Path) -> tuple[str, str]:
    """Says what keeps processes of another user from being kernels here; empty: nothing. Some 30 ms.

    Args:
        probe: Any user of those that there may be.
        python: The interpreter of kernels.
        needed: Files and folders that they have to reach.
        folder: The agent's own, through which they have to pass.

    Returns:
        The problem in one sentence, and a hint.
    """
    if not sys.platform.startswith("linux"):
        return "the agent's machine does not run Linux", "run the agent on Linux, or an agent for each user"
    if os.geteuid() != 0:
        return "the agent does not run as root", "start it as root, or give each user an agent of their own"
    if lacking := lacking_capabilities():
        return (
            f"root lacks the capabilities {', '.join(lacking)} here",
            "a container gets them by `--cap-add`, and has them unless they were taken from it",
        )
    for path in (Path(python), *needed, folder):
        if (closed := closed_folder(path)) is not None:
            hint = f"`chmod o+x {closed}` lets them pass, and list nothing"
            if path == folder:
                hint += "; or choose another --folder, such as /var/lib/nbgpu/agent"
            return f"{closed} is closed to other users, who need {path}", hint
    try:
        with acting(probe):
            pass
        done = subprocess.run(
            [python, "-I", "-S", "-c", _PROBE, *map(str, needed)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd="/", timeout=_PROBE_TIMEOUT_S,
            env=base_variables(os.environ, (), Path(python), probe), **probe.process_arguments(),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, IsolationError) as error:
        reason = error.message if isinstance(error, AgentError) else str(error)
        return (
            f"a process cannot be started as user id {probe.uid}: {reason}",
            "a container must have the user ids of os_user_ids, and its system calls setuid and setfsuid",
        )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return f"other users cannot use {said[-1] if said else python}", "`chmod -R o+rX` on it lets them"
    return "", ""


def lacking_capabilities(status: Path = Path("/proc/self/status")) -> list[str]:
    """Returns those of a process that it takes to start, look after and clean up after other users' processes."""
    lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
    effective = int(lines.get("CapEff", "0"), 16)
    return [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]


def closed_folder(path: Path) -> Path | None:
    """Returns the first folder on the way to a path that others cannot pass; None: they can."""
    for way in (path.absolute(), path.resolve()):
        for folder in reversed(way.parents):
            with contextlib.suppress(OSError):
                if not folder.stat().st_mode & stat.S_IXOTH:
                    return folder
    return None


def open_agent_folder(root: Path, passed: Iterable[Path]) -> None:
    """Lets users pass through the agent's folder to what is theirs, and keeps all else in it the agent's alone.

    Args:
        root: The agent's folder.
        passed: Folders in it that they pass through.
    """
    os.umask(0o077)
    os.setgroups([])  # of root's, which `acting` leaves as they are
    through = {folder.name for folder in passed}
    for entry in os.scandir(root):
        if not entry.is_symlink():
            os.chmod(entry.path, 0o711 if entry.name in through else 0o700 if entry.is_dir() else 0o600)
    passable(root)
    for folder in passed:
        passable(folder)
