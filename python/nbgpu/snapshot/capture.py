"""Captures the snapshot of this process, and says what changed since it last did."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from nbgpu.snapshot.distributions import DistributionScan, Installed
from nbgpu.snapshot.local_files import LocalFileScan, editable_roots, imported_names, workspace_roots
from nbgpu.snapshot.wheels import pack, recorded_paths
from nbgpu_protocol.snapshot import Distribution, LocalFile, Origin, Snapshot, digest_of_bytes

Content = bytes | Path
"""What a blob holds: bytes, or those of a file."""


@dataclass(frozen=True)
class Captured:
    """A snapshot with what its digests stand for."""

    snapshot: Snapshot
    contents: Mapping[str, Content]
    """Of the files and wheels, by digest. A file may have changed since it was hashed."""
    notes: tuple[str, ...] = ()
    """What a person should know: packages that changed under modules which are imported already."""


@dataclass
class Capture:
    """Captures snapshots of this process; what has not changed since the last one is not read again.

    Args:
        folder: The notebook's.
        path: As `sys.path`; None for this process's.
        modules: As `sys.modules`.
    """

    folder: Path = field(default_factory=Path.cwd)
    path: Sequence[str] | None = None
    modules: Mapping[str, ModuleType] = field(default_factory=lambda: sys.modules)
    _distributions: DistributionScan = field(init=False)
    _files: LocalFileScan = field(default_factory=LocalFileScan)
    _installed: tuple[Installed, ...] | None = None
    _resolved: tuple[Distribution, ...] = ()
    _wheels: dict[Path, tuple[int, Distribution, bytes]] = field(default_factory=dict)
    _imported: set[str] = field(default_factory=set)
    _last: Captured | None = None

    def __post_init__(self) -> None:
        self._distributions = DistributionScan(self.path)

    def capture(self, *, cell: str = "", variables: Iterable[str] = ()) -> Captured:
        """Returns the environment as it is now.

        Args:
            cell: The code that is to run with it: local modules that it imports are captured, imported here or not.
            variables: Names of environment variables.

        Raises:
            LocalFilesTooLargeError, TooManyLocalFilesError: The local modules are too much to send.
            LocalDistributionError: What was installed from a folder or wheel of this machine cannot be packed.
        """
        installed = self._distributions.scan()
        notes: tuple[str, ...] = ()
        if installed is not self._installed:
            if self._installed is not None:
                notes = tuple(stale_modules(self._installed, installed, self.modules))
            self._resolved = tuple(self._resolve(each) for each in installed)
            self._installed = installed
        self._imported |= imported_names(cell)  # a later cell may use what this one imports over there
        editables, entries = editable_roots(installed)
        sources = [each.source for each in installed if each.source is not None]
        roots = workspace_roots(self.folder, self.modules, self._imported, [*sources, *editables.values()])
        files = self._files.scan({**editables, **roots})
        snapshot = Snapshot(
            python_version=platform.python_version(),
            implementation=sys.implementation.name,
            platform=sys.platform,
            machine=_MACHINE,
            libc=_LIBC,
            distributions=self._resolved,
            files=tuple(file for file, _ in files.values()),
            path_entries=entries,
            variables=tuple(sorted(set(variables))),
        )
        if self._last is not None and self._last.snapshot == snapshot:
            return replace(self._last, notes=notes)
        wheels: dict[str, Content] = {
            distribution.location: content for _, distribution, content in self._wheels.values()
        }
        contents = {**wheels, **{file.digest: path for file, path in _paths(files)}}
        self._last = Captured(snapshot, contents)
        return replace(self._last, notes=notes)

    def _resolve(self, installed: Installed) -> Distribution:
        """Returns the distribution as another machine can have it: a local one as a wheel."""
        distribution = installed.distribution
        if distribution.origin is not Origin.WHEEL:
            return distribution
        changed_ns = (installed.folder / "RECORD").stat().st_mtime_ns
        cached = self._wheels.get(installed.folder)
        if cached is None or cached[0] != changed_ns:
            name, content = pack(distribution, installed.folder)
            packed = replace(distribution, location=digest_of_bytes(content), wheel_name=name)
            cached = self._wheels[installed.folder] = (changed_ns, packed, content)
        return cached[1]


def stale_modules(
    before: Iterable[Installed], after: Iterable[Installed], modules: Mapping[str, ModuleType]
) -> list[str]:
    """Returns, in words, which packages are imported here in another version than is installed by now."""
    versions = {each.distribution.name: each.distribution.version for each in before}
    notes = []
    for each in after:
        name, version = each.distribution.name, each.distribution.version
        old = versions.get(name)
        if old is None or old == version or not any(top in modules for top in _top_level_names(each)):
            continue
        notes.append(f"{name} is {version} on disk, {old} in memory: restart this notebook's kernel")
    return notes


def _top_level_names(installed: Installed) -> set[str]:
    try:
        paths = recorded_paths(installed.folder)
    except OSError:
        return set()
    return {
        path.partition("/")[0].removesuffix(".py")
        for path in paths
        if path.endswith(".py") and path.partition("/")[0].removesuffix(".py").isidentifier()
    }


def _paths(files: Mapping[str, tuple[LocalFile, Path]]) -> Iterable[tuple[LocalFile, Path]]:
    return files.values()


_MACHINE = platform.machine()
_LIBC = " ".join(platform.libc_ver()) if sys.platform == "linux" and os.path.exists(sys.executable) else ""
