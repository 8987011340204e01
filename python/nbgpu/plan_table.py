"""Says in words what a node would do to have a notebook's environment: the table of `%gpu plan`."""

from __future__ import annotations

import collections

from nbgpu.words import duration_in_words, table
from nbgpu_protocol.v1 import environment_pb2

_ACTIONS = {
    environment_pb2.IMPOSSIBLE: "impossible",
    environment_pb2.LEAVE_OUT: "leave out",
    environment_pb2.SWAP: "swap",
    environment_pb2.BUILD: "build",
    environment_pb2.SEND: "send",
    environment_pb2.PROVIDED: "provided",
    environment_pb2.FETCH: "fetch",
    environment_pb2.CACHED: "cached",
}
"""In the order in which a person wants to know of them."""
_COUNTED = {
    environment_pb2.IMPOSSIBLE: "impossible",
    environment_pb2.LEAVE_OUT: "left out",
    environment_pb2.SWAP: "swapped",
    environment_pb2.BUILD: "built from source",
    environment_pb2.SEND: "sent",
    environment_pb2.PROVIDED: "provided by the node",
    environment_pb2.FETCH: "fetched",
    environment_pb2.CACHED: "cached",
}
_PLAIN = (environment_pb2.CACHED, environment_pb2.FETCH)
_FETCHED = (environment_pb2.FETCH, environment_pb2.SWAP, environment_pb2.BUILD)
_MAX_WHY = 60
"""Characters to which a reason is cut, so that the table fits into a notebook; below it stands in whole."""


def plan_table(plan: environment_pb2.PlanResponse, *, everything: bool = False) -> str:
    """Returns what becomes of each distribution; those that are simply cached or fetched only if `everything`.

    With the counts, the size of what is fetched, as far as it is known, and about how long it would take.
    """
    order = list(_ACTIONS)
    shown = [each for each in plan.distributions if everything or each.action not in _PLAIN or each.why]
    shown.sort(key=lambda each: (order.index(each.action), each.added, each.name))
    rows = [(each.name, each.version, _ACTIONS[each.action], _size(each), _shortened(each.why)) for each in shown]
    blocks = [table(("PACKAGE", "VERSION", "ACTION", "SIZE", "WHY"), rows)] if rows else []
    details = [f"{each.name}: {each.why}" for each in shown if _shortened(each.why) != each.why]
    return "\n\n".join([*blocks, *(["\n".join(details)] if details else []), "\n".join(_summary(plan))])


def size_in_words(size_bytes: int) -> str:
    """Returns "12.3 MB"."""
    if size_bytes >= 10**9:
        return f"{size_bytes / 1e9:.1f} GB"
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 10**5 else f"{size_bytes / 1e3:.0f} KB"


def _summary(plan: environment_pb2.PlanResponse) -> list[str]:
    counts = collections.Counter(each.action for each in plan.distributions)
    added = sum(each.added for each in plan.distributions)
    parts = [f"{counts[action]} {_COUNTED[action]}" for action in _ACTIONS if counts[action]]
    lines = [
        f"{len(plan.distributions)} packages for Python {plan.python_version}: {', '.join(parts)}"
        + (f"; {added} of them the notebook does not have" if added else "")
    ]
    if not plan.environment_id:
        return [*lines, "as it is, this environment cannot be built there"]
    if plan.built:
        return [*lines, "the environment is there already"]
    fetched = sum(each.action in _FETCHED for each in plan.distributions)
    if not fetched:
        return [*lines, f"nothing is to fetch; building it takes about {duration_in_words(plan.estimated_s)}"]
    known = fetched - plan.unknown_sizes
    packages = "1 package" if known == 1 else f"{known} packages"
    sizes = [f"{size_in_words(plan.download_bytes)} in {packages}"] if known else []
    if plan.unknown_sizes:
        sizes.append(f"{plan.unknown_sizes} of unknown size")
    lines.append(f"to fetch: {', and '.join(sizes)}")
    rate = f"{plan.bytes_per_s / 1e6:.0f} MB/s"
    basis = f"{rate}, as its last downloads came" if plan.rate_measured else f"an assumed {rate}"
    without = "more than " if plan.unknown_sizes else "about "
    lines.append(f"building it takes {without}{duration_in_words(plan.estimated_s)}, at {basis}")
    return lines


def _size(each: environment_pb2.PlannedDistribution) -> str:
    if each.HasField("size_bytes"):
        return size_in_words(each.size_bytes) if each.size_bytes else "cached"
    return "unknown" if each.action in _FETCHED else ""


def _shortened(why: str) -> str:
    return why if len(why) <= _MAX_WHY else f"{why[: _MAX_WHY - 1].rstrip()}…"
