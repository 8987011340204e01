"""Keeps what a cell writes into one environment out of uv's cache, and so out of every other environment.

uv links files from its cache, and a hard link is the same file: `open(torch.__file__, "a")` in a cell would change it
for all. What stops that, measured for 115 packages of 563 MB in 21,000 files on ext4:

- Where the file system can clone (Btrfs, XFS), uv does, and every file is the environment's own.
- Not root: hard links (0.3 s), made read-only (another 0.1 s), which the links in the cache then are too. Folders stay
  writable, as Python puts its compiled files there; a file that is put in another's place is a file of its own.
- Root, as in most containers, whom no permission stops: copies (1.0 to 2.6 s). CUDA's libraries stay hard links: they
  are the bulk of an environment, and no source that anybody edits.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

_LIBRARIES = ("cuda-", "nvidia-", "triton")
_FICLONE = 0x40049409
"""ioctl(2) of Linux that makes one file share another's blocks until either is written to, linux/fs.h."""
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def link_modes(names: Iterable[str], *, clones: bool, as_root: bool) -> dict[str, list[str]]:
    """Returns which names are installed in which of uv's link modes, in that order; no mode has an empty list."""
    modes: dict[str, list[str]] = {}
    for name in names:
        linked = "copy" if as_root and not name.startswith(_LIBRARIES) else "hardlink"
        mode = "clone" if clones else linked
        modes.setdefault(mode, []).append(name)
    return modes


def can_clone(source_folder: Path, target_folder: Path) -> bool:
    """Says whether a file of the one folder can be cloned into the other. Blocks."""
    if sys.platform == "darwin":
        return True  # APFS; elsewhere uv links
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    name = f".nbgpu-{secrets.token_hex(8)}"
    source, target = source_folder / name, target_folder / f"{name}.clone"
    try:
        with open(source, "wb") as file:
            file.write(b"x" * 4096)
        with open(source, "rb") as file, open(target, "wb") as clone:
            fcntl.ioctl(clone.fileno(), _FICLONE, file.fileno())
    except OSError:
        return False
    finally:
        for path in (source, target):
            with contextlib.suppress(OSError):
                path.unlink()
    return True


def make_read_only(environment: Path) -> None:
    """Takes the right to write from every file of the environment that is a hard link. Blocks."""
    stack = [os.fspath(environment)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                    continue
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and status.st_mode & _WRITABLE:
                    os.chmod(entry.path, stat.S_IMODE(status.st_mode) & ~_WRITABLE)
