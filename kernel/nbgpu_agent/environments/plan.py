"""What a plan consists of: the node's facts, what uv is asked and answers, and what becomes of each distribution."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nbgpu_agent.environments.platforms import python_minor
from nbgpu_protocol.snapshot import Distribution

TORCH_FAMILY = frozenset({"torch", "torchaudio", "torchtext", "torchvision"})
OURS = frozenset({"pip"})
"""Environments are shared and never change, so that what would change them is left out."""


class Action(enum.Enum):
    CACHED = "cached"
    FETCH = "fetch"
    BUILD = "build"
    SWAP = "swap"
    LEAVE_OUT = "leave out"
    IMPOSSIBLE = "impossible"
    SEND = "send"
    PROVIDED = "provided"


@dataclass(frozen=True)
class Python:
    """An interpreter that the node has."""

    version: str
    path: Path
    implementation: str = "cpython"

    @property
    def minor(self) -> str:
        return python_minor(self.version)


@dataclass(frozen=True)
class BaseEnvironment:
    """An environment that the node's owner provides: tested together, and on the node already."""

    python: Python
    site_packages: Path
    distributions: tuple[Distribution, ...]


@dataclass(frozen=True)
class NodeFacts:
    """What the plan depends on."""

    platform: str
    machine: str
    pythons: tuple[Python, ...]
    driver_version: str | None = None
    cached: frozenset[tuple[str, str]] = frozenset()
    """Names and versions in uv's cache."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Of downloads, in bytes, by name, as far as they are known."""
    bytes_per_s: float | None = None
    """How quickly the last downloads came; None before any was measured."""
    base: BaseEnvironment | None = None


@dataclass(frozen=True)
class Pins:
    """What uv is asked to resolve."""

    python: Python
    requirements: Mapping[str, str]
    """By name, as lines of a requirements file."""
    left_out: Mapping[str, str]
    """Why, by name."""
    swapped: Mapping[str, str]
    impossible: Mapping[str, str]
    excluded: frozenset[str] = frozenset()
    """Names that are not to be resolved, whatever needs them: left out, impossible, provided, or among the files."""
    provided: Mapping[str, str] = field(default_factory=dict)
    """Versions, by name, of what is used from the node's base environment."""
    remarks: Mapping[str, str] = field(default_factory=dict)
    """What a person should know of others, by name."""
    other_python: bool = False
    """The interpreter is of another minor version than the notebook's: what is not made for it may be of another."""

    @property
    def torch(self) -> bool:
        """Whether the torch family is among them."""
        return not TORCH_FAMILY.isdisjoint(self.requirements)


@dataclass(frozen=True)
class Resolution:
    """What uv made of the pins."""

    requirements: Mapping[str, str]
    """By name, exact: `name==version` or `name @ url`."""
    impossible: Mapping[str, str] = field(default_factory=dict)
    """Why, by name."""
    builds: frozenset[str] = frozenset()
    """Names of which there is no wheel."""
    remarks: Mapping[str, str] = field(default_factory=dict)
    """What a person should know, by name."""
    relaxed: Mapping[str, str] = field(default_factory=dict)
    """Why they are of another version than was pinned, by name."""


@dataclass(frozen=True)
class PlannedDistribution:
    name: str
    version: str
    action: Action
    why: str = ""
    size_bytes: int | None = None
    """Of what travels to the node; None if that is unknown, or nothing does."""
    added: bool = False
    """The notebook does not have it."""


@dataclass(frozen=True)
class Estimate:
    """How long a build takes, and what that is based on."""

    seconds: float
    """Without the downloads of unknown size."""
    download_bytes: int
    unknown_sizes: int
    """Downloads whose size is not known."""
    bytes_per_s: float
    rate_measured: bool
    """Else the rate is assumed."""


@dataclass(frozen=True)
class Plan:
    """What building a snapshot here takes."""

    python: Python
    distributions: tuple[PlannedDistribution, ...]
    requirements: tuple[str, ...]
    """The exact list to install."""
    estimate: Estimate
    base: BaseEnvironment | None = None
    """From which what is provided is taken."""

    @property
    def impossible(self) -> tuple[PlannedDistribution, ...]:
        return tuple(each for each in self.distributions if each.action is Action.IMPOSSIBLE)

    @property
    def provided(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.distributions if each.action is Action.PROVIDED)

    @property
    def environment_id(self) -> str:
        """Names what is built: equal for snapshots that differ only in what is not installed."""
        lines = [self.python.version, str(self.python.path), *self.requirements]
        if self.provided:
            assert self.base is not None
            versions = {each.name: each.version for each in self.base.distributions}
            lines += [str(self.base.site_packages), *(f"{name}=={versions[name]}" for name in self.provided)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
