"""What a platform means to a distribution: markers, wheel tags, and what the driver can run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement

from nbgpu_protocol.snapshot import Distribution, Snapshot, normalised_name

SYSTEM_NAMES = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
_PLATFORM_SYSTEM = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
_WHEEL_PLATFORMS = {"linux": ("linux", "manylinux", "musllinux"), "darwin": ("macosx",), "win32": ("win",)}
# From uv, crates/uv-torch/src/backend.rs: the oldest Linux driver of each CUDA version.
_CUDA_OF_DRIVER = ((580, "CUDA 13"), (525, "CUDA 12"), (450, "CUDA 11.8"))


@dataclass(frozen=True)
class Target:
    """What distributions are made for."""

    platform: str
    """As `sys.platform`."""
    machine: str
    python_version: str
    implementation: str = "cpython"

    def marker_variables(self, extra: str) -> dict[str, str]:
        """Returns what PEP 508 markers are evaluated against."""
        return {
            "extra": extra,
            "implementation_name": self.implementation,
            "implementation_version": self.python_version,
            "os_name": "nt" if self.platform == "win32" else "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython" if self.implementation == "cpython" else "PyPy",
            "platform_release": "",
            "platform_system": _PLATFORM_SYSTEM.get(self.platform, self.platform),
            "platform_version": "",
            "python_full_version": self.python_version,
            "python_version": python_minor(self.python_version),
            "sys_platform": self.platform,
        }

    def holds(self, marker: Marker | None, extra: str = "") -> bool:
        return marker is None or marker.evaluate(self.marker_variables(extra))


def target_of(snapshot: Snapshot) -> Target:
    """Returns what the notebook's own distributions are made for."""
    return Target(snapshot.platform, snapshot.machine, snapshot.python_version, snapshot.implementation)


@dataclass(frozen=True)
class Need:
    """One distribution is needed by another on the notebook's machine."""

    by: str
    here_too: bool
    """On the node as well."""


def needs(distributions: Sequence[Distribution], client: Target, node: Target) -> dict[str, list[Need]]:
    """Returns, by name, what needs each distribution on the client, extras included."""
    found: dict[str, list[Need]] = {}
    for distribution in distributions:
        for text in distribution.requires:
            try:
                requirement = Requirement(text)
            except InvalidRequirement:  # of a distribution older than the rules
                continue
            extras = [extra for extra in extras_of(requirement.marker) if client.holds(requirement.marker, extra)]
            if extras:
                here_too = any(node.holds(requirement.marker, extra) for extra in extras)
                found.setdefault(normalised_name(requirement.name), []).append(Need(distribution.name, here_too))
    return found


def only_elsewhere(distributions: Sequence[Distribution], client: Target, node: Target) -> dict[str, str]:
    """Returns the distributions that the node needs not have, each with the reason, in words.

    These are what was made for other platforms, and what is needed by nothing but a marker that does not hold here.
    """
    left_out: dict[str, str] = {}
    needed = needs(distributions, client, node)
    where = SYSTEM_NAMES.get(client.platform, client.platform)
    changed = client.platform != node.platform
    while changed:
        changed = False
        for distribution in distributions:
            name = distribution.name
            if name in left_out:
                continue
            all_needs = needed.get(name, [])
            live = [need for need in all_needs if need.by not in left_out]
            unneeded = bool(all_needs) and not any(need.here_too for need in live)
            foreign = bool(distribution.operating_systems) and node.platform not in distribution.operating_systems
            if (unneeded and (foreign or not distribution.requested)) or (foreign and not distribution.pure):
                by = f", needed by {live[0].by} there" if live else ""
                left_out[name] = f"for {where} only{by}"
                changed = True
    return left_out


def wheel_fits(tags: Iterable[str], platform: str) -> bool:
    """Says whether a wheel with these platform tags (`macosx_11_0_arm64`, `any`) may run on the platform."""
    return any(tag == "any" or tag.startswith(_WHEEL_PLATFORMS.get(platform, ())) for tag in tags)


def cuda_of_driver(driver_version: str | None) -> str | None:
    """Returns what the driver can run, such as "CUDA 12"; None without a driver, or for one too old."""
    try:
        major = int((driver_version or "").partition(".")[0])
    except ValueError:
        return None
    return next((name for oldest, name in _CUDA_OF_DRIVER if major >= oldest), None)


def extras_of(marker: Marker | None) -> list[str]:
    """Returns none, and the extras that a marker names."""
    return ["", *re.findall(r"""extra == ["']([^"']+)["']""", str(marker))]


def python_minor(version: str) -> str:
    """Returns "3.12" of "3.12.7"."""
    return ".".join(version.split(".")[:2])
