"""What a process in a sandbox of bubblewrap's sees of the machine: the system, read-only, and what is its user's.

It runs with the agent's own user id, and is kept from others by what there is for it at all: other processes, other
folders, shared memory and devices are not there. The network is the machine's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbgpu_agent.isolation.os_user import OsUser

_ALONE = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-cgroup-try")
_RUN = Path("/run")
_OF_RUN = ("systemd/resolve", "resolvconf", "NetworkManager", "nscd", "nvidia-persistenced", "nvidia-fabricmanager")
"""Sockets and files of the system's in /run that programs need: names are looked up by some. All else there is hidden,
such as the sockets of Docker and of the user's own systemd, which start processes outside."""
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))


@dataclass(frozen=True)
class Sandbox:
    """That of the processes of one user.

    Attributes:
        program: Path of bwrap.
        user: Whose name and home processes have; None: the agent's owner, who keeps their own.
        hidden: Folders of which nothing is seen but what is named below: homes.
        needed: What is seen in those all the same: Python, and nbgpu.
        secret: Folders of the agent's, of which nothing is seen but the following; and files, which are empty.
        readable: The user's: environments.
        writable: The user's, and what is shared by all users.
    """

    program: str
    user: OsUser | None
    hidden: tuple[Path, ...]
    needed: tuple[Path, ...]
    secret: tuple[Path, ...]
    readable: tuple[Path, ...]
    writable: tuple[Path, ...]

    def command(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        temporary: Path | None = None,
        readable: Iterable[Path] = (),
        writable: Iterable[Path] = (),
        devices: Iterable[Path] = (),
        ends_with_agent: bool = False,
    ) -> list[str]:
        """Returns the command that runs another one in the sandbox, by the environment variables that it is given.

        Args:
            arguments: Of the other one.
            folder: To run in.
            temporary: What /tmp is; None: a folder in memory.
            readable: Files and folders, beside those of the user. All that is named has to be there.
            writable: As well.
            devices: Device files, and folders of them.
            ends_with_agent: Whether it is killed when the thread that starts it ends.
        """
        wrapped = [self.program, *_ALONE, *(["--die-with-parent"] if ends_with_agent else [])]
        wrapped += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm"]
        secret = [path for path in _existing(self.secret) if path.is_dir()]
        hidden = _existing((*self.hidden, _RUN))
        temporaries = _existing(_TEMPORARY)
        for path in sorted({*hidden, *temporaries}):
            is_on_disk = path in temporaries and temporary is not None
            wrapped += ["--bind", str(temporary), str(path)] if is_on_disk else ["--tmpfs", str(path)]
        options = dict.fromkeys((*self.readable, *readable), "--ro-bind")
        options |= dict.fromkeys((*self.writable, *writable, *([temporary] if temporary else ())), "--bind")
        # A home may have the agent's folders in it, and those what is the session's: outer ones first.
        outer = {path: each for path, each in options.items() if any(_is_in(one, _real(path)) for one in secret)}
        inside = [*hidden, *temporaries]
        needed = _existing((*(_RUN / name for name in _OF_RUN), *self.needed))
        outer |= {path: "--ro-bind" for path in needed if any(_is_in(path, each) for each in inside)}
        links = _Links()
        for path, option in sorted(outer.items(), key=lambda each: _real(each[0])):
            wrapped += [*links.to(path, inside), *_bound(option, path)]
        for path in secret:
            wrapped += ["--tmpfs", str(path)]
        for path, option in sorted(options.items(), key=lambda each: _real(each[0])):
            if path not in outer:
                wrapped += [*links.to(path, [*inside, *secret]), *_bound(option, path)]
        for device in devices:
            wrapped += ["--dev-bind", str(device), str(device)]
        for path in _existing(self.secret):
            if path not in secret and not any(_is_in(path, each) for each in secret):
                wrapped += ["--ro-bind", os.devnull, str(path)]
        bound = {_real(path) for path in options}
        for path in (*hidden, *secret):
            if path not in bound:
                wrapped += ["--remount-ro", str(path)]
        return [*wrapped, "--chdir", str(folder), "--", *arguments]


class _Links:
    """Links on the way to what is bound, in folders that are hidden: each is made once."""

    def __init__(self) -> None:
        self._made: set[Path] = set()

    def to(self, path: Path, hidden: Iterable[Path]) -> Iterator[str]:
        for link in (*reversed(path.parents), path):
            if link in self._made or not link.is_symlink() or not any(_is_in(link, each) for each in hidden):
                continue
            self._made.add(link)
            yield from ("--symlink", os.path.realpath(link), str(link))


def _bound(option: str, path: Path) -> list[str]:
    # Where it is, without links: bwrap would look for those outside of what it makes.
    return [option, str(path), os.path.realpath(path)]


def _existing(paths: Iterable[Path]) -> list[Path]:
    """Returns folders and files that are there, without links, each once."""
    return list(dict.fromkeys(_real(path) for path in paths if os.path.exists(path)))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _is_in(path: Path, folder: Path) -> bool:
    """Says whether it is below the folder, or the folder itself."""
    return path.is_relative_to(folder)
