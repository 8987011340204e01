"""What a notebook says of itself and one of its sessions: how its environment differs, and what is shared."""

from __future__ import annotations

from dataclasses import dataclass

LISTED = 100
"""Of anything, at most so many are named; counts say how many there are."""


@dataclass(frozen=True)
class PackageChange:
    name: str
    before: str
    """Version that the session has; empty: none."""
    now: str
    """Version that the notebook has; empty: none."""


@dataclass(frozen=True)
class EnvironmentDifference:
    """How the notebook's environment differs from the one that the session was given; empty: not at all."""

    package_count: int = 0
    packages: tuple[PackageChange, ...] = ()
    file_count: int = 0
    files: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    """Names of environment variables that the session is yet to get."""


@dataclass(frozen=True)
class SharedVariable:
    name: str
    size_bytes: int | None = None


@dataclass(frozen=True)
class SharedVariables:
    """What the session has of the notebook's variables; the largest are named."""

    sent_count: int = 0
    sent: tuple[SharedVariable, ...] = ()
    handle_count: int = 0
    handles: tuple[SharedVariable, ...] = ()
    sent_bytes: int = 0


@dataclass(frozen=True)
class NotebookFacts:
    difference: EnvironmentDifference | None = None
    """None: not known, or there is nothing that could differ."""
    variables: SharedVariables | None = None
    """None: not known."""
