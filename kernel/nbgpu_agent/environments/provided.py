"""Decides which of a snapshot's distributions are used from the environment that the node's owner provides. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from packaging.requirements import InvalidRequirement, Requirement

from nbgpu_agent.environments.plan import OURS, TORCH_FAMILY, BaseEnvironment
from nbgpu_agent.environments.platforms import Target, needs, python_minor
from nbgpu_protocol.snapshot import Distribution, Origin, normalised_name

_CUDA_PREFIXES = ("cuda-", "nvidia-", "pytorch-triton", "triton")


@dataclass(frozen=True)
class Provided:
    """What the base environment gives, and what follows from that."""

    used: Mapping[str, str] = field(default_factory=dict)
    """Versions, by name."""
    differing: Mapping[str, str] = field(default_factory=dict)
    """In words, what the base has of those that are installed in another version."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why, by name: CUDA libraries that the notebook's torch came with, and the base's does not use."""


def choose_provided(
    distributions: tuple[Distribution, ...], client: Target, node: Target, base: BaseEnvironment | None
) -> Provided:
    """Returns what is taken from the base: what it has in the notebook's version, whatever the local tag (`+cu126`).

    What these need, the base was tested with: it comes along where the notebook has none of its own. What they merely
    can use does not, such as pyarrow, with which pandas makes other strings than the notebook's does. The CUDA
    libraries of a torch that is provided come along in any case, as they are the ones that it was built against.
    """
    if base is None or base.python.minor != python_minor(node.python_version):
        return Provided()
    wanted = {each.name: each for each in distributions}
    at_hand = {each.name: each for each in base.distributions if each.name not in OURS}
    used: dict[str, str] = {}
    differing: dict[str, str] = {}
    for name in wanted.keys() & at_hand.keys():
        if wanted[name].origin not in (Origin.INDEX, Origin.CONDA, Origin.URL):
            continue  # somebody's own code
        if _public(wanted[name].version) == _public(at_hand[name].version):
            used[name] = at_hand[name].version
        else:
            differing[name] = f"the node's own is {at_hand[name].version}"
    with_torch = not TORCH_FAMILY.isdisjoint(used)
    reached = {(name, "") for name in used}
    seen = set(reached)
    while reached:
        name, extra = reached.pop()
        for needed in _needed(at_hand[name], extra, node) - seen:
            name = needed[0]
            of_torch = with_torch and name.startswith(_CUDA_PREFIXES)
            if name not in at_hand or (name in wanted and name not in used and not of_torch):
                continue
            used[name] = at_hand[name].version
            differing.pop(name, None)
            seen.add(needed)
            reached.add(needed)
    left_out = _unused_cuda(distributions, client, used) if with_torch else {}
    return Provided(used, differing, left_out)


def _unused_cuda(distributions: tuple[Distribution, ...], client: Target, used: Mapping[str, str]) -> dict[str, str]:
    needed = needs(distributions, client, client)
    found = {}
    for distribution in distributions:
        name = distribution.name
        if not name.startswith(_CUDA_PREFIXES) or name in used or name not in needed:
            continue
        if all(need.by in TORCH_FAMILY or need.by.startswith(_CUDA_PREFIXES) for need in needed[name]):
            found[name] = "the node's torch brings its own"
    return found


def _needed(distribution: Distribution, extra: str, node: Target) -> set[tuple[str, str]]:
    """Returns what a distribution, or an extra of it, needs on the node: names, each with no extra and with its own."""
    found: set[tuple[str, str]] = set()
    for text in distribution.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # of a distribution older than the rules
            continue
        if node.holds(requirement.marker, extra):
            name = normalised_name(requirement.name)
            found.update((name, each) for each in ("", *requirement.extras))
    return found


def _public(version: str) -> str:
    return version.partition("+")[0]
