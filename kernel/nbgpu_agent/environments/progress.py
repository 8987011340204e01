"""What uv says while it installs, as progress: how many distributions are on the node, and which one comes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from nbgpu_agent.model import EnvironmentFacts

_DOWNLOADING = re.compile(r"^\s*Downloading (\S+)(?: \(([^)]+)\))?$")
_DOWNLOADED = re.compile(r"^\s*Downloaded (\S+)$")
_BUILDING = re.compile(r"^\s*Building (\S+?)(?: @ .*|==.*)?$")
_BUILT = re.compile(r"^\s*Built (\S+?)(?: @ .*|==.*)?$")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"^([\d.]+)\s*(B|KiB|MiB|GiB)$")
_TELLING_BYTES = 10e6
_PREPARED = re.compile(r"^Prepared (\d+) packages? in")


@dataclass(frozen=True)
class Progress:
    """Of a build."""

    done: int
    total: int
    """0: not known yet."""
    current: str = ""
    """In words, such as "torch 2.13.0, 180 MB"."""

    def in_words(self) -> str:
        if not self.total:
            return self.current
        return f"Installing {self.done} of {self.total}" + (f": {self.current}" if self.current else "")

    def facts(self) -> EnvironmentFacts:
        """Returns what is told of the environment while it is built."""
        known = bool(self.total)
        return EnvironmentFacts(
            own=True, done=self.done if known else None, total=self.total if known else None, current=self.current
        )


OnProgress = Callable[[Progress], None]


class DownloadRate:
    """Measures how quickly the large downloads of a build come, whose sizes uv says."""

    def __init__(self) -> None:
        self._sizes: dict[str, float] = {}
        self._bytes = 0.0
        self._began_s: float | None = None
        self._ended_s = 0.0

    def take(self, line: str, now_s: float) -> None:
        """Takes note of a line of uv's."""
        if match := _DOWNLOADING.match(line):
            size = _SIZE.match(match.group(2) or "")
            if size:
                self._sizes[match.group(1)] = float(size.group(1)) * _UNITS[size.group(2)]
                self._began_s = now_s if self._began_s is None else self._began_s
        elif match := _DOWNLOADED.match(line):
            self._bytes += self._sizes.pop(match.group(1), 0.0)
            self._ended_s = now_s

    @property
    def bytes_per_s(self) -> float | None:
        """None if less came than tells anything: 10 MB."""
        took_s = self._ended_s - (self._began_s or 0.0)
        return self._bytes / took_s if self._bytes >= _TELLING_BYTES and took_s > 0 else None


class InstallProgress:
    """Follows the lines of one `uv pip install`.

    Args:
        versions: Of what is installed, by name.
        cached: How many of these need not be fetched.
    """

    def __init__(self, versions: dict[str, str], cached: int) -> None:
        self._versions = versions
        self._done = cached
        self._current = ""

    def take(self, line: str) -> Progress | None:
        """Returns the progress after a line of uv's; None for one that says nothing of it."""
        if match := _DOWNLOADING.match(line):
            size = f", {match.group(2).replace('MiB', ' MB').replace('GiB', ' GB')}" if match.group(2) else ""
            self._current = self._named(match.group(1)) + size
        elif match := _BUILDING.match(line):
            self._current = f"building {self._named(match.group(1))}"
        elif _DOWNLOADED.match(line) or _BUILT.match(line):
            self._done = min(self._done + 1, len(self._versions))
        elif _PREPARED.match(line):
            self._done, self._current = len(self._versions), "linking files"
        else:
            return None
        return self.progress()

    def progress(self) -> Progress:
        return Progress(self._done, len(self._versions), self._current)

    def _named(self, name: str) -> str:
        return f"{name} {self._versions[name]}" if self._versions.get(name) else name
