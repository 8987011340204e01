"""How two snapshots differ, as a person wants to know it: packages by version, and files. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from nbgpu_protocol.snapshot import Distribution, Snapshot


@dataclass(frozen=True)
class Difference:
    """What a session would be given before its next cell. Empty: nothing, it is in sync."""

    packages: tuple[tuple[str, str, str], ...] = ()
    """By name: name, version that it has, version that it would have; an empty version: none."""
    files: tuple[str, ...] = ()
    """That differ, by path, as in `LocalFile` without the folder of all files of the notebook."""
    variables: tuple[str, ...] = ()
    """Names of environment variables."""

    def __bool__(self) -> bool:
        return bool(self.packages or self.files or self.variables)


def compare(before: Snapshot, now: Snapshot) -> Difference:
    """Returns what changed in packages and files from one snapshot to another; variables are not in them."""
    return Difference(_packages(before, now), _files(before, now))


def _packages(before: Snapshot, now: Snapshot) -> tuple[tuple[str, str, str], ...]:
    if before.distributions is now.distributions:
        return ()
    old = {each.name: each for each in before.distributions}
    new = {each.name: each for each in now.distributions}
    return tuple(
        (name, _version(old.get(name)), _version(new.get(name)))
        for name in sorted(old.keys() | new.keys())
        if _identity(old.get(name)) != _identity(new.get(name))
    )


def _files(before: Snapshot, now: Snapshot) -> tuple[str, ...]:
    old = {each.path: (each.digest, each.executable) for each in before.files}
    new = {each.path: (each.digest, each.executable) for each in now.files}
    differing = (path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    return tuple(sorted(path.partition("/")[2] or path for path in differing))


def _version(distribution: Distribution | None) -> str:
    return "" if distribution is None else distribution.version


def _identity(distribution: Distribution | None) -> tuple[str, ...] | None:
    """The version alone does not tell: another commit, or another build of a folder, may have the same."""
    return None if distribution is None else (distribution.version, distribution.origin.value, distribution.location)
