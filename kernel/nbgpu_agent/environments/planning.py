"""Decides what becomes of each distribution of a snapshot on this node. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from nbgpu_agent.environments.estimate import estimate
from nbgpu_agent.environments.plan import (
    OURS,
    TORCH_FAMILY,
    Action,
    NodeFacts,
    Pins,
    Plan,
    PlannedDistribution,
    Python,
    Resolution,
)
from nbgpu_agent.environments.platforms import (
    SYSTEM_NAMES,
    Target,
    cuda_of_driver,
    only_elsewhere,
    python_minor,
    target_of,
    wheel_fits,
)
from nbgpu_agent.environments.provided import choose_provided
from nbgpu_protocol.snapshot import EDITABLES, Distribution, Origin, Snapshot

KERNEL_NEEDS = {"ipykernel": "ipykernel>=6.29", "cloudpickle": "cloudpickle>=3"}
"""What a session's kernel needs, besides what the notebook has."""
_FEW = 10


def choose_python(snapshot: Snapshot, pythons: tuple[Python, ...], running: str = "") -> Python | None:
    """Returns the interpreter of the snapshot's minor version, of its exact version if there is one.

    Another minor version does only for who asked for any: pickled code of one crashes the interpreter of another. It
    is the nearest then, and of two as near the newer.

    Args:
        running: Version of the kernel that the environment is for, if it runs already: it stays of that minor version.
    """
    if running and snapshot.any_python:
        pythons = tuple(python for python in pythons if python.minor == python_minor(running))
    same = [python for python in pythons if python.implementation == snapshot.implementation]
    fitting = [python for python in same if python.minor == snapshot.python_minor]
    if fitting or not snapshot.any_python:
        return max(
            fitting, key=lambda each: (each.version == snapshot.python_version, version_key(each.version)), default=None
        )
    major, minor = version_key(snapshot.python_minor)
    near = [python for python in same if version_key(python.version)[0] == major]
    return max(
        near, key=lambda each: (-abs(version_key(each.version)[1] - minor), version_key(each.version)), default=None
    )


def make_pins(snapshot: Snapshot, facts: NodeFacts, python: Python, wheels: Mapping[str, Path]) -> Pins:
    """Returns what to ask uv for.

    Args:
        wheels: Files of the wheels that came with the snapshot, by digest.
    """
    client = target_of(snapshot)
    node = Target(facts.platform, facts.machine, python.version, python.implementation)
    provided = choose_provided(snapshot.distributions, client, node, facts.base)
    left_out = dict(only_elsewhere(snapshot.distributions, client, node)) | dict(provided.left_out)
    requirements: dict[str, str] = {}
    swapped: dict[str, str] = {}
    impossible: dict[str, str] = {}
    for distribution in snapshot.distributions:
        name = distribution.name
        if name in left_out or name in provided.used:
            continue
        if name in OURS:
            left_out[name] = "install in the notebook instead"
        elif distribution.origin is Origin.WHEEL and not _may_run(distribution, client, node):
            came_from = f"{SYSTEM_NAMES.get(client.platform, client.platform)} {client.machine}"
            impossible[name] = f"built on {came_from} from local files; install it from an index or a repository"
        elif distribution.origin is not Origin.EDITABLE:
            requirements[name], swap = _pin(distribution, facts, wheels)
            if swap:
                swapped[name] = swap
    for name, requirement in KERNEL_NEEDS.items():
        if name not in provided.used:
            requirements.setdefault(name, requirement)
    editables = {each.name for each in snapshot.distributions if each.origin is Origin.EDITABLE}
    excluded = frozenset({*left_out, *impossible, *editables, *provided.used})
    return Pins(
        python,
        requirements,
        left_out,
        swapped,
        impossible,
        excluded,
        provided.used,
        remarks=provided.differing,
        other_python=python.minor != snapshot.python_minor,
    )


def split_known(snapshot: Snapshot, facts: NodeFacts, pins: Pins) -> tuple[Mapping[str, str], Mapping[str, str]] | None:
    """Returns the requirements that can be had, and a few of which uv is to say whether they can, on their own.

    What works together in a notebook of the same platform is complete here, and what uv has in its cache can be had. So
    a package that was installed between two cells is all that is asked about, and not with it the 300 that were there,
    which takes uv seconds. None where it is not so simple.
    """
    if (snapshot.platform, snapshot.machine) != (facts.platform, facts.machine) or pins.impossible:
        return None
    if pins.other_python:
        return None
    versions = {each.name: each.version for each in snapshot.distributions}
    known: dict[str, str] = {}
    unknown: dict[str, str] = {}
    for name, requirement in pins.requirements.items():
        if name not in versions or name in pins.swapped:
            return None
        if requirement.endswith(".whl") and " @ file:" in requirement:
            known[name] = requirement
        elif (name, versions[name]) in facts.cached:
            known[name] = requirement if " @ " in requirement else f"{name}=={versions[name]}"
        elif requirement == f"{name}=={versions[name]}" and name not in TORCH_FAMILY:
            unknown[name] = requirement
        else:
            return None
    return (known, unknown) if len(unknown) <= _FEW and len(unknown) <= len(known) else None


def make_plan(snapshot: Snapshot, facts: NodeFacts, pins: Pins, resolution: Resolution) -> Plan:
    """Returns what becomes of each distribution, by name, and of those that come in addition."""
    installed = {each.name: each for each in snapshot.distributions}
    planned = []
    for name in sorted({*installed, *resolution.requirements, *pins.requirements, *pins.impossible, *pins.provided}):
        version = installed[name].version if name in installed else ""
        if name in pins.left_out:
            planned.append(PlannedDistribution(name, version, Action.LEAVE_OUT, pins.left_out[name]))
        elif name in pins.provided:
            why = "on the node already" + (f", for {version}" if version not in ("", pins.provided[name]) else "")
            added = name not in installed
            planned.append(PlannedDistribution(name, pins.provided[name], Action.PROVIDED, why, added=added))
        elif why := pins.impossible.get(name) or resolution.impossible.get(name, ""):
            planned.append(PlannedDistribution(name, version, Action.IMPOSSIBLE, why))
        elif name in installed and installed[name].origin is Origin.EDITABLE:
            size_bytes = sum(file.size_bytes for file in snapshot.files if file.path.startswith(f"{EDITABLES}/{name}/"))
            why = "editable: its files are sent"
            planned.append(PlannedDistribution(name, version, Action.SEND, why, size_bytes))
        elif name in resolution.requirements:
            planned.append(_installed(name, installed.get(name), facts, pins, resolution))
    requirements = tuple(resolution.requirements[name] for name in sorted(resolution.requirements))
    base = facts.base if pins.provided else None
    return Plan(pins.python, tuple(planned), requirements, estimate(planned, facts.bytes_per_s), base)


def _installed(
    name: str, wanted: Distribution | None, facts: NodeFacts, pins: Pins, resolution: Resolution
) -> PlannedDistribution:
    requirement = resolution.requirements[name]
    version = requirement.partition("==")[2] or (wanted.version if wanted else "")
    added = wanted is None
    cached = (name, version) in facts.cached
    size_bytes = None if cached else facts.sizes.get(name)
    why = resolution.remarks.get(name) or pins.remarks.get(name, "")
    action = Action.CACHED if cached else Action.FETCH
    if wanted is None:
        why = "needed by the kernel" if name in KERNEL_NEEDS else "needed on this platform"
        action = Action.BUILD if name in resolution.builds else action
    elif wanted.origin is Origin.WHEEL:
        action, why, size_bytes = Action.SEND, "installed from local files: sent as a wheel", facts.sizes.get(name)
    elif name in pins.swapped or name in resolution.relaxed:
        action, why = Action.SWAP, resolution.relaxed.get(name) or pins.swapped[name]
        size_bytes = 0 if cached else size_bytes
    elif name in resolution.builds or wanted.origin is Origin.VCS:
        action, why = Action.BUILD, why or "from source"
    return PlannedDistribution(name, version, action, why, size_bytes, added)


def _pin(distribution: Distribution, facts: NodeFacts, wheels: Mapping[str, Path]) -> tuple[str, str]:
    """Returns the distribution as a requirement, and why it is not the notebook's own build; empty if it is."""
    name = distribution.name
    public, _, local = distribution.version.partition("+")
    if distribution.origin is Origin.WHEEL:
        return f"{name} @ {wheels[distribution.location].as_uri()}", ""
    if name in TORCH_FAMILY:
        return f"{name}=={public}", _torch_swap(local, facts)
    if distribution.origin in (Origin.URL, Origin.VCS) and _url_fits(distribution.location, facts.platform):
        return f"{name} @ {distribution.location}", ""
    if distribution.origin is Origin.URL:
        return f"{name}=={public}", "its URL is of a wheel for another platform; from the index instead"
    if local:
        return f"{name}=={public}", f"the build +{local} is the notebook's; the index's build of the same version"
    return f"{name}=={public}", ""


def _torch_swap(local: str, facts: NodeFacts) -> str:
    cuda = cuda_of_driver(facts.driver_version)
    had_cuda = local.startswith("cu") and not local.startswith("cpu")
    if cuda is None:
        return "no NVIDIA driver here: the CPU build" if had_cuda else ""
    if had_cuda and local[2:4] == cuda.split()[1][:2]:
        return ""
    return f"the {cuda} build, for driver {facts.driver_version}"


def _may_run(distribution: Distribution, client: Target, node: Target) -> bool:
    same = (client.platform, client.machine) == (node.platform, node.machine)
    return distribution.pure or same


def _url_fits(url: str, platform: str) -> bool:
    file = url.partition("#")[0].rpartition("/")[2]
    if not file.endswith(".whl"):
        return True
    try:
        return wheel_fits((tag.platform for tag in parse_wheel_filename(file)[3]), platform)
    except InvalidWheelFilename:
        return True


def version_key(version: str) -> tuple[int, ...]:
    """Returns by what versions of Python are in order."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())
