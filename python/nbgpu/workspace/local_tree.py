"""The notebook's folder as a sync sees it: which files are chosen, what they are, and which stay here and why."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nbgpu.snapshot.ignored import IgnoreRules
from nbgpu.workspace.errors import OutsidePathError, TooManyFilesError, UnfitPathError
from nbgpu_protocol.file_versions import FileVersions, Inspected, stamp_of
from nbgpu_protocol.workspace import (
    ENVIRONMENT_FILE,
    MAX_FILES,
    NEVER,
    Choice,
    is_glob,
    leads_out,
    path_problem,
    version_of_link,
)

_MAX_LINKS = 40


@dataclass(frozen=True)
class LocalEntry:
    """A file or a link of the folder."""

    place: Path
    stamp: tuple[int, ...]
    inspected: Inspected
    link_target: str | None = None

    @property
    def version(self) -> str:
        return self.inspected.version


@dataclass(frozen=True)
class LocalFind:
    """The files that are chosen, not read yet."""

    choice: Choice
    """With what links lead to."""
    files: dict[str, os.stat_result]
    left_out: dict[str, str]

    @property
    def size_bytes(self) -> int:
        return sum(status.st_size for status in self.files.values())


@dataclass
class LocalScan:
    """What is chosen of the folder."""

    choice: Choice
    """With what links lead to."""
    entries: dict[str, LocalEntry] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Why, by path; not those that the ignore rules leave out."""


class LocalTree:
    """The notebook's folder. Blocks; for one thread at a time.

    Args:
        folder: The notebook's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.versions = FileVersions()
        self._rules: dict[str, IgnoreRules] = {}

    def patterns_of(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Returns paths as a person writes them in the form that a choice has.

        Raises:
            OutsidePathError: One is not below the folder.
            UnfitPathError: One stays where it is, or has a name that cannot travel.
        """
        return tuple(dict.fromkeys(pattern for path in paths for pattern in self._pattern_of(path)))

    def find(self, patterns: Sequence[str]) -> LocalFind:
        """Returns the files that the patterns choose, without reading them.

        Args:
            patterns: As `patterns_of` returns them.

        Raises:
            TooManyFilesError: They are more than are kept in step.
            UnfitPathError: The folder cannot be read.
        """
        self._rules.clear()
        walked: dict[str, os.stat_result] = {}
        left_out: dict[str, str] = {}
        waiting, taken = list(patterns), dict.fromkeys(patterns)
        while waiting:
            pattern = waiting.pop()
            found = self._found(pattern, left_out)
            for path, status in found.items():
                if path in walked:
                    continue
                walked[path] = status
                if len(walked) > MAX_FILES:
                    raise TooManyFilesError(f"there are more than {MAX_FILES} files to sync, at {path}")
                for led_to in self._led_to(path, status):
                    if led_to not in taken:
                        taken[led_to] = None
                        waiting.append(led_to)
        return LocalFind(Choice(tuple(taken)), walked, left_out)

    def read(self, found: LocalFind, on_progress: Callable[[int], None] = lambda _: None) -> LocalScan:
        """Returns what the files are; reads those that have changed since they were last read.

        Args:
            found: As `find` returns it.
            on_progress: Told how many more bytes are known.
        """
        scan = LocalScan(found.choice, left_out=dict(found.left_out))
        for path, status in sorted(found.files.items()):
            self._take(path, status, scan, on_progress)
        return scan

    def is_ignored(self, path: str, choice: Choice) -> bool:
        """Says whether the ignore rules leave out a path that may be on the other side only."""
        return not any(
            not self._ignored_below("" if is_glob(pattern) else pattern, path)
            for pattern in choice.patterns
            if Choice((pattern,)).chooses(path)
        )

    def has(self, path: str) -> bool:
        """Says whether anything is at a path."""
        return os.path.lexists(self.folder / path)

    def _pattern_of(self, text: str) -> list[str]:
        expanded = os.path.normpath(os.path.join(self.folder, os.path.expanduser(text)))
        # The folder may be known by a path with links in it.
        parent, name = os.path.split(expanded)
        for candidate in (expanded, os.path.join(os.path.realpath(parent), name)):
            relative = os.path.relpath(candidate, self.folder)
            if relative.partition(os.sep)[0] != os.pardir:
                break
        else:
            raise OutsidePathError(f"{shown(text)} is not in the notebook's folder {self.folder}")
        pattern = "" if relative == os.curdir else relative.replace(os.sep, "/")
        if pattern and (problem := path_problem(pattern)):
            raise UnfitPathError(f"{shown(pattern)} does not travel: {problem}")
        return self._resolved(pattern)

    def _resolved(self, pattern: str) -> list[str]:
        """Returns the pattern without links among its folders, and those links."""
        links: list[str] = []
        done, parts = "", pattern.split("/")
        while len(parts) > 1 and len(links) < _MAX_LINKS:
            part, *parts = parts
            path = f"{done}/{part}" if done else part
            if is_glob(part) or not (self.folder / path).is_symlink():
                done = path
                continue
            target = os.readlink(self.folder / path)
            if leads_out(path, target):
                raise OutsidePathError(f"{shown(path)} is a link that leads out of the notebook's folder")
            links.append(path)
            joined = os.path.normpath(f"{done}/{target}" if done else target).replace(os.sep, "/")
            done, parts = "", [*joined.split("/"), *parts]
        return [*links, f"{done}/{parts[-1]}" if done else parts[-1]]

    def _found(self, pattern: str, left_out: dict[str, str]) -> dict[str, os.stat_result]:
        if not is_glob(pattern) or self.has(pattern):
            try:
                status = os.lstat(self.folder / pattern)
            except OSError:
                return {}
            if not stat.S_ISDIR(status.st_mode):
                return {pattern: status}
            return self._walk(pattern, Choice((pattern,)), left_out)
        return self._walk("", Choice((pattern,)), left_out)

    def _walk(self, start: str, choice: Choice, left_out: dict[str, str]) -> dict[str, os.stat_result]:
        found: dict[str, os.stat_result] = {}
        stack = [start]
        while stack:
            folder = stack.pop()
            try:
                with os.scandir(self.folder / folder) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                if not folder:  # else all that was in it would count as deleted
                    raise UnfitPathError(f"the notebook's folder {self.folder} cannot be read: {error}") from error
                left_out[folder] = f"the folder cannot be read: {error.strerror}"
                continue
            if folder and any(entry.name == ENVIRONMENT_FILE for entry in listed):
                left_out[folder] = "it is a virtual environment"
                continue
            for entry in listed:
                path = f"{folder}/{entry.name}" if folder else entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if entry.name in NEVER or self._rules_of(folder).ignores(path, is_folder=is_folder):
                    continue
                if problem := path_problem(path):
                    left_out[path] = problem
                elif is_folder:
                    if choice.may_choose_below(path):
                        stack.append(path)
                elif choice.chooses(path):
                    found[path] = entry.stat(follow_symlinks=False)
        return found

    def _led_to(self, path: str, status: os.stat_result) -> list[str]:
        if not stat.S_ISLNK(status.st_mode):
            return []
        target = os.readlink(self.folder / path)
        if leads_out(path, target):
            return []
        joined = os.path.normpath(os.path.join(os.path.dirname(path), target)).replace(os.sep, "/")
        try:
            return [each for each in self._resolved(joined) if each != "." and not path_problem(each)]
        except OutsidePathError:
            return []

    def _take(self, path: str, status: os.stat_result, scan: LocalScan, on_progress: Callable[[int], None]) -> None:
        place = self.folder / path
        try:
            if stat.S_ISLNK(status.st_mode):
                target = os.readlink(place)
                if leads_out(path, target):
                    scan.left_out[path] = f"it is a link that leads out of the notebook's folder, to {shown(target)}"
                    return
                inspected = Inspected(version_of_link(target), 0, status.st_mtime_ns, ())
                scan.entries[path] = LocalEntry(place, stamp_of(status), inspected, target)
                return
            if not stat.S_ISREG(status.st_mode):
                scan.left_out[path] = "it is no file"
                return
            with open(place, "rb") as file:
                stamp = stamp_of(os.fstat(file.fileno()))
                read = self.versions.inspect(path, file, on_progress) or self._again(path, on_progress)
        except FileNotFoundError:  # deleted this moment
            return
        except OSError as error:
            scan.left_out[path] = f"it cannot be read: {(error.strerror or str(error)).lower()}"
            return
        if read is None:
            scan.left_out[path] = "it changes while it is read; sync it when it is written"
        else:
            scan.entries[path] = LocalEntry(place, stamp, read)

    def _again(self, path: str, on_progress: Callable[[int], None]) -> Inspected | None:
        with open(self.folder / path, "rb") as file:
            return self.versions.inspect(path, file, on_progress)

    def _rules_of(self, folder: str) -> IgnoreRules:
        if folder not in self._rules:
            above = self._rules_of(folder.rpartition("/")[0]) if folder else IgnoreRules()
            try:
                self._rules[folder] = above.within(self.folder / folder, folder)
            except OSError:
                self._rules[folder] = above
        return self._rules[folder]

    def _ignored_below(self, start: str, path: str) -> bool:
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            prefix = "/".join(parts[:count])
            if start == prefix or start.startswith(f"{prefix}/"):
                continue
            rules = self._rules_of("/".join(parts[: count - 1]))
            if rules.ignores(prefix, is_folder=count < len(parts)):
                return True
        return False


def shown(path: str) -> str:
    """Returns a path as it can stand in a line: as it is, or in quotes where it would break the line; not too long."""
    text = path if path.isprintable() else ascii(path)
    return text if len(text) <= 200 else f"{text[:120]}…{text[-60:]}"
