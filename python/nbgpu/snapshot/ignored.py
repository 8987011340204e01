"""Which files a project leaves out: its `.gitignore` and `.nbgpuignore` files, and what nobody wants to send."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

IGNORE_FILES = (".gitignore", ".nbgpuignore")
_ALWAYS_FOLDERS = frozenset(
    {
        ".cache", ".eggs", ".git", ".hg", ".hypothesis", ".ipynb_checkpoints", ".mypy_cache", ".nox", ".pytest_cache",
        ".ruff_cache", ".svn", ".tox", ".venv", "__pycache__", "node_modules",
    }
)  # fmt: skip
_ALWAYS_SUFFIXES = (".pyc", ".pyo", ".ipynb", ".dist-info", ".egg-info")


@dataclass(frozen=True)
class _Rule:
    pattern: re.Pattern[str]
    folders_only: bool
    negated: bool


@dataclass(frozen=True)
class IgnoreRules:
    """The rules that hold in a folder: those of its parents, and then its own, of which the last that matches counts.

    Attributes:
        rules: With the folder in which each was found, relative to the root; empty for the root's own.
    """

    rules: tuple[tuple[str, _Rule], ...] = ()

    def within(self, folder: Path, relative: str) -> IgnoreRules:
        """Returns these rules with those of the folder's own files, which is at the relative path."""
        found = [
            (relative, rule)
            for name in IGNORE_FILES
            if (folder / name).is_file()
            for rule in parse_rules((folder / name).read_text(encoding="utf-8", errors="replace").splitlines())
        ]
        return IgnoreRules((*self.rules, *found)) if found else self

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """Says whether the path, relative to the root and with `/`, is left out."""
        name = path.rpartition("/")[2]
        if (is_folder and name in _ALWAYS_FOLDERS) or name.endswith(_ALWAYS_SUFFIXES):
            return True
        for base, rule in reversed(self.rules):
            if rule.folders_only and not is_folder:
                continue
            if rule.pattern.fullmatch(path[len(base) + 1 :] if base else path):
                return not rule.negated
        return False


def parse_rules(lines: Iterable[str]) -> list[_Rule]:
    """Returns the rules of a file in the format of gitignore(5)."""
    rules = []
    for line in lines:
        text = line.rstrip("\n")
        text = text if text.endswith("\\ ") else text.rstrip()
        if not text or text.startswith("#"):
            continue
        negated = text.startswith("!")
        text = text[1:] if negated else text
        folders_only = text.endswith("/")
        text = text.rstrip("/")
        if text:
            rules.append(_Rule(_compiled(text), folders_only, negated))
    return rules


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    anchored = "/" in pattern
    parts = pattern.lstrip("/")
    expression = "" if anchored else "(?:.*/)?"
    index = 0
    while index < len(parts):
        rest = parts[index:]
        if rest.startswith("**/"):
            expression, index = expression + "(?:.*/)?", index + 3
        elif rest.startswith("**"):
            expression, index = expression + ".*", index + 2
        elif rest[0] == "*":
            expression, index = expression + "[^/]*", index + 1
        elif rest[0] == "?":
            expression, index = expression + "[^/]", index + 1
        elif rest[0] == "[" and (end := parts.find("]", index + 2)) > 0:
            inside = parts[index + 1 : end].replace("\\", "\\\\")
            inside = f"^{inside[1:]}" if inside.startswith("!") else inside
            expression, index = f"{expression}[{inside}]", end + 1
        elif rest[0] == "\\" and len(rest) > 1:
            expression, index = expression + re.escape(rest[1]), index + 2
        else:
            expression, index = expression + re.escape(rest[0]), index + 1
    try:
        return re.compile(expression)
    except re.error:
        return re.compile(re.escape(pattern))
