"""The folders and files of one kernel: what the agent alone changes, and what is the kernel's.

A kernel that runs as another user of the operating system gets a folder of its own for what it writes, its sockets one
that is the agent's as soon as it listens, and the rest of the folder is root's: see `isolation.os_user`. One that runs
in a sandbox sees these two of the folder and what it was told of, and the agent takes its sockets by further names,
which are not in the sandbox.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path

from nbgpu_agent.channels import MAX_SOCKET_PATH_BYTES, connection_info, socket_paths
from nbgpu_agent.isolation.os_user import OsUser, give, own_folder
from nbgpu_agent.kernel_processes import ACKNOWLEDGED_FILE

RECORD_FILE = "kernel.json"
SHORT_FOLDER_PREFIX = "nbgpu-"
# Below the folder for temporary files people make sockets of their own: multiprocessing takes 33 characters.
_MAX_TEMPORARY_PATH_BYTES = MAX_SOCKET_PATH_BYTES - 47


class KernelFolders:
    """Where they are. Nothing is made before `make`.

    Args:
        kernel_id: Names the folder of sockets where that has to be a short one.
        folder: The kernel's, in one that the agent alone changes.
        os_user: As whom the kernel runs; None: as the agent.
        runtime_folder: Of its sockets and temporary files, if it has them already.
        sandboxed: Whether it runs in a sandbox.
    """

    def __init__(
        self,
        kernel_id: str,
        folder: Path,
        os_user: OsUser | None,
        *,
        runtime_folder: Path | None = None,
        sandboxed: bool = False,
    ) -> None:
        self.folder = folder
        self.os_user = os_user
        self.sandboxed = sandboxed
        is_apart = sandboxed or os_user is not None
        self.runtime = runtime_folder or folder
        if runtime_folder is None and len(os.fsencode(folder / "tmp")) > _MAX_TEMPORARY_PATH_BYTES:
            self.runtime = Path(tempfile.gettempdir()) / f"{SHORT_FOLDER_PREFIX}{kernel_id}"
        self.own = folder / "own" if is_apart else folder
        """What the kernel writes: its stacks, its whereabouts, its messages that nobody has."""
        self.log = folder / "log"
        self.record = folder / RECORD_FILE
        self.stacks = self.own / "stacks"
        self.whereabouts = self.own / "whereabouts"
        self.connection = self.own / "connection.json"
        self.temporary = self.runtime / "tmp"
        self._sockets = self.runtime / "s" if is_apart else self.runtime
        self.listening_prefix = self._sockets / "k"
        """Where the kernel listens."""
        self._sealed = self.runtime / "c"
        self.socket_prefix = self._sealed / "k" if sandboxed else self.listening_prefix
        """Where it is talked to."""

    def make_first(self) -> None:
        """Makes the folder itself, for the record."""
        self.folder.mkdir(mode=0o700)

    def make(self) -> None:
        """Makes the others, and what the kernel finds in them."""
        user = self.os_user
        if self.runtime != self.folder:
            self.runtime.mkdir(mode=0o700)
        if self.sandboxed:
            for folder in (self._sockets, self.temporary, self.own):
                folder.mkdir(mode=0o700)
            (self.own / ACKNOWLEDGED_FILE).symlink_to(self.folder / ACKNOWLEDGED_FILE)
        elif user is None:
            self.temporary.mkdir()
        else:
            for folder in (self._sockets, self.temporary):
                own_folder(folder, user)
            self.own.mkdir(mode=0o700)  # the agent's until all is in it
            (self.own / ACKNOWLEDGED_FILE).symlink_to(self.folder / ACKNOWLEDGED_FILE)
        self.whereabouts.mkdir(mode=0o700)
        self.connection.write_text(json.dumps(connection_info(self.listening_prefix)))
        self.log.touch(mode=0o600)
        if user is not None:
            os.chmod(self.folder / ACKNOWLEDGED_FILE, 0o644)
            os.chmod(self.folder, 0o711)
            for path in (self.log, self.connection, self.whereabouts, self.own):
                give(path, user)

    @property
    def listens(self) -> bool:
        """Whether all sockets are there."""
        return all(os.path.lexists(path) for path in socket_paths(self.listening_prefix))

    @property
    def writable(self) -> tuple[Path, ...]:
        """What the kernel writes to."""
        return self.own, self._sockets

    @property
    def readable(self) -> tuple[Path, ...]:
        """What it reads beside that."""
        return (self.folder / ACKNOWLEDGED_FILE,)

    def seal_sockets(self) -> str:
        """Takes the sockets' folder from the kernel, so that nothing else can be put in their place.

        Before the agent connects: by a link there its messages would go to another user's kernel.

        Returns:
            What is wrong with them; empty: nothing.
        """
        user = self.os_user
        if self.sandboxed:
            return self._seal_by_links()
        if user is None:
            return ""
        os.chown(self._sockets, os.geteuid(), os.getegid(), follow_symlinks=False)
        os.chmod(self._sockets, 0o700)
        for path in socket_paths(self.socket_prefix):
            status = path.lstat() if os.path.lexists(path) else None
            if status is None or not stat.S_ISSOCK(status.st_mode) or status.st_uid != user.uid:
                return f"{path.name} is no socket of {user.name}'s"
        return ""

    def _seal_by_links(self) -> str:
        partial = self._sealed.with_name("c.partial")
        partial.mkdir(mode=0o700)
        for path in socket_paths(self.listening_prefix):
            linked = partial / path.name
            os.link(path, linked, follow_symlinks=False)
            if not stat.S_ISSOCK(linked.lstat().st_mode):
                return f"{path.name} is no socket"
        partial.rename(self._sealed)
        return ""

    @property
    def sealed(self) -> bool:
        """Whether the sockets are those that the kernel listened on when an agent took their folder."""
        if self.sandboxed:
            return self._sealed.is_dir()
        return self.os_user is None or self._sockets.lstat().st_uid == os.geteuid()

    def remove(self) -> None:
        for folder in {self.folder, self.runtime}:
            shutil.rmtree(folder, ignore_errors=True)
