"""Paths that a notebook's folder and a session's have in common, which of them a sync is about, and their links."""

from __future__ import annotations

import fnmatch
import functools
import os
from dataclasses import dataclass

READ = "/nbgpu.v1.WorkspaceContents/Read"
CONTENTS_SERVICE = "nbgpu.v1.WorkspaceContents"
CHUNK_BYTES = 1 << 20
MAX_FILES = 200_000
MAX_LISTED = 1000
"""In one message."""
MAX_PATH_BYTES = 3000
MAX_PATTERNS = 1000
OWN_FOLDER = ".nbgpu"
"""In both folders, for what is on its way; never itself in step."""
NEVER = frozenset({".git", ".hg", ".svn", ".ipynb_checkpoints", "__pycache__", OWN_FOLDER})
"""Names of folders and files that stay where they are, also where they are asked for."""
ENVIRONMENT_FILE = "pyvenv.cfg"
"""Makes a folder a virtual environment, which stays where it is."""

_MAX_NAME_BYTES = 255
_LINK = "link:"


def path_problem(path: str) -> str:
    """Says why a path cannot be one of a session's folder; empty where it can."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    parts = path.split("/")
    if len(encoded) > MAX_PATH_BYTES or any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        return "its name is too long"
    if "\0" in path or {"", ".", ".."} & set(parts):
        return "it is no relative path"
    if os.sep != "/" and any(character in path for character in '\\:*?"<>|'):
        return f"a file cannot have that name on {os.name}"
    never = NEVER.intersection(parts)
    return f"{min(never)} stays where it is" if never else ""


@dataclass(frozen=True)
class Choice:
    """Which paths a sync is about: those that were named, those below them, and those that match a glob."""

    patterns: tuple[str, ...]
    """Paths and globs, relative, with `/`; empty for the whole folder. `**` stands for any number of folders."""

    def chooses(self, path: str) -> bool:
        parts = tuple(path.split("/"))
        return any(_matches(parts, _parts(pattern)) for pattern in self.patterns)

    def names(self, path: str) -> bool:
        """Says whether the path itself was named."""
        return path in self.patterns

    def may_choose_below(self, folder: str) -> bool:
        """Says whether a folder can hold anything that is chosen."""
        parts = tuple(folder.split("/")) if folder else ()
        return any(_may_match_below(parts, _parts(pattern)) for pattern in self.patterns)


def is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


@functools.lru_cache(maxsize=MAX_PATTERNS)
def _parts(pattern: str) -> tuple[str, ...]:
    parts = pattern.split("/") if pattern else []
    return tuple(part for index, part in enumerate(parts) if part != "**" or parts[index - 1 : index] != ["**"])


def _matches(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    # From the left, all ways at once: trying one `**` after the other takes for ever where there are many.
    ends = {0}
    """How many parts of the path the pattern so far can stand for."""
    for part in pattern:
        if part == "**":
            ends = set(range(min(ends), len(path)))
        else:
            ends = {end + 1 for end in ends if end < len(path) and _same(path[end], part)}
        if not ends:
            return False
    return True  # all below a folder that matches


def _may_match_below(folder: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    for name, part in zip(folder, pattern, strict=False):
        if part == "**":
            return True
        if not _same(name, part):
            return False
    return True


def _same(name: str, pattern: str) -> bool:
    # A name that has a glob's characters in it can be meant as it is.
    return name == pattern or (is_glob(pattern) and fnmatch.fnmatchcase(name, pattern))


def version_of_link(target: str) -> str:
    return _LINK + target


def link_target(version: str) -> str | None:
    """Returns where the link leads; None for what is none."""
    return version[len(_LINK) :] if version.startswith(_LINK) else None


def leads_out(path: str, target: str) -> bool:
    """Says whether a link at the path leads out of the folder, by what it says."""
    if not target or target.startswith("/") or os.path.isabs(target):
        return True
    # A link to a link's parent could lead out where its text does not.
    depth = path.count("/")
    for index, part in enumerate(parts := target.split("/")):
        if part == "..":
            depth -= 1
            if depth < 0 or any(each not in ("..", ".", "") for each in parts[:index]):
                return True
    return bool(NEVER.intersection(parts))
