"""Puts the sessions of each user into sandboxes of bubblewrap's, where the agent is not root, and says where it cannot.

https://github.com/containers/bubblewrap: a small program that makes namespaces as any user may who is let.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nbgpu_agent.isolation import confined
from nbgpu_agent.isolation.os_user import IsolationError, OsUser, own_folder
from nbgpu_agent.isolation.sandbox import Sandbox

PROGRAM = "bwrap"
HOMES_FOLDER = "homes-of-users"
"""In the agent's folder; it outlives the agent."""
_HOMES = (Path("/home"), Path("/root"))
_PROBE_TIMEOUT_S = 60.0
_SWITCHES = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
)
"""Files, what they say where other users than root may make no namespaces, and what permits it, of Debian, Linux and
Ubuntu."""


@dataclass(frozen=True)
class UserFolders:
    """Where in the agent's folder there is what is users'.

    Attributes:
        own: The owner's.
        of_users: In which each of the others has one.
    """

    own: Path
    of_users: Path

    def of(self, owner: str) -> Path:
        """Makes a user's; returns it. Empty: the owner's."""
        return own_folder(self.of_users / owner if owner else self.own, None)


@dataclass(frozen=True)
class Bubblewrap:
    """bwrap, and what sandboxes have in common.

    Attributes:
        program: Its path.
        blobs: What users have put.
        environments: What was built for them.
        homes: Of users; the owner keeps their own.
        secret: Folders and files of the agent's that no session sees.
        shared: Folders that sessions of all users may write to, as far as the agent may.
        visible: Folders in homes that sessions of all users may read.
    """

    program: str
    blobs: UserFolders
    environments: UserFolders
    homes: Path
    secret: tuple[Path, ...]
    shared: tuple[Path, ...] = ()
    visible: tuple[Path, ...] = ()

    def sandbox(self, owner: str) -> Sandbox:
        """Returns that of a user, and makes the folders that are theirs; empty: the agent's owner."""
        own_home = _own_home()
        home = own_folder(self.homes / owner, None) if owner else own_home
        user = OsUser(owner, os.geteuid(), os.getegid(), home) if owner and home is not None else None
        blobs, environments = self.blobs.of(owner), self.environments.of(owner)
        homes = tuple(each for each in (home, own_home) if each is not None)
        return Sandbox(
            self.program,
            user,
            hidden=(*_HOMES, *homes[1:]),
            needed=(*_needed(), *self.visible),
            secret=self.secret,
            readable=(environments,),
            writable=(blobs, *homes[:1], *self.shared),
        )

    def problem(self) -> tuple[str, str]:
        """Says what keeps it from being used here; empty: nothing. Runs it. Some 50 ms.

        Returns:
            The problem in one sentence, and a hint.
        """
        with tempfile.TemporaryDirectory(prefix="nbgpu-") as name:
            folder = Path(name)
            try:
                sandbox = Sandbox(self.program, None, _HOMES, (*_needed(), *self.visible), (), (), (*self.shared,))
                # Python, since a sandbox in which it does not start is of no use.
                arguments = [sys.executable, "-I", "-S", "-c", "import os; os.kill(os.getppid(), 0)"]
                done = subprocess.run(
                    sandbox.command(arguments, folder=folder, temporary=folder),
                    stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_PROBE_TIMEOUT_S,
                )  # fmt: skip
            except (OSError, subprocess.SubprocessError, IsolationError) as error:
                return f"{self.program} cannot be run: {error}", "apt-get install bubblewrap"
        if done.returncode == 0:
            return "", ""
        said = done.stderr.strip().splitlines()
        return (
            f"{self.program} makes no sandbox: {said[-1] if said else f'it ended with {done.returncode}'}",
            _hint(Path("/")),
        )


def problem_of_bubblewrap(bubblewrap: Bubblewrap) -> tuple[str, str]:
    """Says what keeps sessions from running in sandboxes here; empty: nothing.

    Returns:
        The problem in one sentence, and a hint.
    """
    if not sys.platform.startswith("linux"):
        return "the agent's machine does not run Linux", "run the agent on Linux, or an agent for each user"
    if os.geteuid() == 0:
        return "the agent runs as root", "`--isolation users` makes each user a user of the operating system"
    if not bubblewrap.program:
        return "there is no bwrap here", "apt-get install bubblewrap"
    if not confined.is_supported():
        return "this Linux has no openat2, which came with version 5.6", "update it, or start the agent as root"
    for path in (*bubblewrap.shared, *bubblewrap.visible):
        if not path.is_dir():
            return f"the folder {path}, which sessions are to see, is not there", f"mkdir -p {path}"
    return bubblewrap.problem()


def find_program() -> str:
    """Returns the path of bwrap; empty: there is none."""
    return shutil.which(PROGRAM) or ""


def _hint(root: Path) -> str:
    for file, closed, setting in _SWITCHES:
        path = root / file.lstrip("/")
        if path.is_file() and path.read_text().strip() == closed:
            return f"`sysctl -w {setting}`, as root, lets users make namespaces"
    return "a container lets it with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"


def _needed() -> Iterable[Path]:
    """Returns what kernels are started from: Python, what is installed for it, nbgpu's part of it, and uv's Pythons."""
    from uv import find_uv_bin

    yield from (Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parents[2] / "nbgpu_kernel")
    yield from (Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
    yield Path(os.fsdecode(find_uv_bin()))
    yield pythons_folder()


def pythons_folder() -> Path:
    """Returns where uv keeps the interpreters that it has installed for the agent's user."""
    return Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or Path.home() / ".local/share/uv/python")


def _own_home() -> Path | None:
    """Returns the home of the agent's own user; None where they have none of their own."""
    home = Path.home()
    return home if home != Path("/") and home.is_dir() and home.stat().st_uid == os.geteuid() else None
