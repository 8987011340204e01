"""Decides which accelerators a request gets. Pure: values in, values out.

Everything is granted at once or nothing is. Requests are served first come, first served per accelerator: what a
waiting request could use is withheld from all behind it, so that a large one is not starved by small ones, while
requests for other accelerators pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from nbgpu_agent.errors import AgentError, CanNeverFitError, NoSuchAcceleratorError
from nbgpu_agent.model import Accelerator, Alternative, Offer, Spec
from nbgpu_protocol.accelerator_types import CPU

_GB = 10**9
_GIB = 2**30


@dataclass(frozen=True)
class Grant:
    alternative: Alternative
    accelerators: tuple[Accelerator, ...]


@dataclass(frozen=True)
class Request:
    id: str
    spec: Spec


@dataclass(frozen=True)
class Waiting:
    """Where a request is in the queue."""

    position: int
    """1 is next."""
    length: int
    """Requests that wait for the same accelerators, this one among them."""
    detail: str
    """Such as "waiting for 4 of 8 H100": 4 of the 8 are not free for it yet."""


@dataclass(frozen=True)
class Decision:
    """What becomes of every request in a queue: it is either granted or waits."""

    grants: dict[str, Grant]
    waiting: dict[str, Waiting]


def matches(alternative: Alternative, accelerator: Accelerator) -> bool:
    """Whether the accelerator is one of those that the alternative asks for.

    An accelerator of 80 GB is met by 80 GB and by 80 GiB, since people say one and mean the other.
    """
    if accelerator.shared:
        return alternative.type == accelerator.type
    if alternative.type not in ("", accelerator.type):
        return False
    return accelerator.memory_bytes >= _asked_bytes(alternative.min_memory_bytes)


def satisfies(spec: Spec, accelerators: Sequence[Accelerator]) -> bool:
    """Whether accelerators that a session holds are what the spec asks for."""
    return any(
        len(accelerators) == alternative.count and all(matches(alternative, each) for each in accelerators)
        for alternative in spec.alternatives
    )


def check_fits(spec: Spec, free: Collection[Accelerator], everything: Sequence[Accelerator]) -> None:
    """Refuses a spec that would wait for ever.

    Raises:
        NoSuchAcceleratorError: Nothing here is of any type that the spec names.
        CanNeverFitError: There is the type, but never as many, or as large, as asked.
    """
    if any(_can_ever_fit(alternative, everything) for alternative in spec.alternatives):
        return
    offered = f"offered: {describe_offers(offers(free, everything, ()))}"
    known = [each for each in spec.alternatives if _of_type(each, everything)]
    if not known:
        names = " or ".join(_in_words(each, counted=False) for each in spec.alternatives)
        raise NoSuchAcceleratorError(f"no {names} here; {offered}", "list what there is with `%gpu offers`")
    raise _never_fits(known[0], everything, offered)


def place(spec: Spec, free: Collection[Accelerator], everything: Sequence[Accelerator]) -> Grant | None:
    """Returns what the first alternative that can be granted now gets, or None if the request must wait.

    Raises:
        NoSuchAcceleratorError, CanNeverFitError: As `check_fits`.
    """
    check_fits(spec, free, everything)
    return _place(spec, free, everything)


def decide(queue: Sequence[Request], free: Collection[Accelerator], everything: Sequence[Accelerator]) -> Decision:
    """Returns what every request gets now; the queue is in the order in which they came, all of them can ever fit."""
    left = {accelerator.id: accelerator for accelerator in free}
    decision = Decision({}, {})
    earlier: list[frozenset[str]] = []
    wanted = {request.id: _wanted(request.spec, everything) for request in queue}
    for request in queue:
        grant = _place(request.spec, left.values(), everything)
        if grant is not None:
            decision.grants[request.id] = grant
            taken = {each.id for each in grant.accelerators if not each.shared}
        else:
            position = 1 + sum(not wanted[request.id].isdisjoint(other) for other in earlier)
            decision.waiting[request.id] = Waiting(
                position, position, _missing(request.spec, left.values(), everything)
            )
            earlier.append(wanted[request.id])
            taken = set(wanted[request.id])
        left = {key: accelerator for key, accelerator in left.items() if key not in taken}
    lengths = {
        key: sum(not wanted[key].isdisjoint(wanted[other]) for other in decision.waiting) for key in decision.waiting
    }
    for key, waiting in decision.waiting.items():
        decision.waiting[key] = Waiting(waiting.position, lengths[key], waiting.detail)
    return decision


def preferred_spec(free: Collection[Accelerator]) -> Spec:
    """Returns what a session gets that asks for nothing: the free GPU with the most memory, else the CPU."""
    cpu = Alternative(CPU, 1)
    gpus = [accelerator for accelerator in free if not accelerator.shared]
    if not gpus:
        return Spec((cpu,), CPU)
    best = max(gpus, key=lambda gpu: (gpu.memory_bytes, -gpu.index))
    return Spec((Alternative(best.type, 1, best.memory_bytes), cpu), f"{best.type}|{CPU}")


def offers(
    free: Collection[Accelerator], everything: Iterable[Accelerator], queued: Iterable[Spec]
) -> tuple[Offer, ...]:
    """Returns what could be granted now, one offer for each type and memory, in the order of the accelerators."""
    free_ids = {accelerator.id for accelerator in free}
    groups: dict[tuple[str, int], list[Accelerator]] = {}
    for accelerator in everything:
        groups.setdefault((accelerator.type, accelerator.memory_bytes), []).append(accelerator)
    waiting = list(queued)
    return tuple(
        Offer(
            type=members[0].type,
            memory_bytes=members[0].memory_bytes,
            total=len(members),
            free=sum(member.id in free_ids for member in members),
            queued=sum(any(matches(each, members[0]) for each in spec.alternatives) for spec in waiting),
            simulated=members[0].simulated,
            shared=members[0].shared,
        )
        for members in groups.values()
    )


def describe_offers(offered: Sequence[Offer]) -> str:
    """Returns the offers in words, such as `A10 (2 free of 2), CPU`."""
    several = {offer.type for offer in offered if sum(other.type == offer.type for other in offered) > 1}
    words = []
    for offer in offered:
        name = offer.type
        if offer.type in several:
            name += f"-{offer.memory_bytes // _GB}GB"
        if offer.simulated:
            name = f"simulated {name}"
        words.append(name if offer.shared else f"{name} ({offer.free} free of {offer.total})")
    return ", ".join(words) or "nothing"


def _place(spec: Spec, free: Collection[Accelerator], everything: Sequence[Accelerator]) -> Grant | None:
    for alternative in spec.alternatives:
        if (chosen := _choose(alternative, free)) is not None:
            return Grant(alternative, chosen)
    return None


def _choose(alternative: Alternative, free: Collection[Accelerator]) -> tuple[Accelerator, ...] | None:
    """Returns accelerators of one type: with the smallest memory that is enough, and next to each other if they can be.

    Of one type but several memory sizes, equal ones are preferred to a mixture.
    """
    for group in _by_type([each for each in free if matches(alternative, each)]):
        sizes = sorted({each.memory_bytes for each in group})
        equal = ([each for each in group if each.memory_bytes == size] for size in sizes)
        for candidates in [*equal, group]:
            if len(candidates) >= alternative.count:
                return _closest(candidates, alternative.count)
    return None


def _by_type(accelerators: Iterable[Accelerator]) -> list[list[Accelerator]]:
    """Returns the accelerators of each type, the type with the smallest memory first."""
    groups: dict[str, list[Accelerator]] = {}
    for accelerator in accelerators:
        groups.setdefault(accelerator.type, []).append(accelerator)
    return sorted(groups.values(), key=lambda group: min((each.memory_bytes, each.index) for each in group))


def _closest(candidates: Sequence[Accelerator], count: int) -> tuple[Accelerator, ...]:
    """Returns the run of accelerators whose indexes span least, the lowest such run."""
    ordered = sorted(candidates, key=lambda each: each.index)
    runs = (ordered[start : start + count] for start in range(len(ordered) - count + 1))
    best = min(runs, key=lambda run: (run[-1].index - run[0].index, run[0].index))
    return tuple(best)


def _of_type(alternative: Alternative, everything: Iterable[Accelerator]) -> list[Accelerator]:
    return [each for each in everything if matches(Alternative(alternative.type, 1), each)]


def _can_ever_fit(alternative: Alternative, everything: Sequence[Accelerator]) -> bool:
    return _choose(alternative, everything) is not None


def _wanted(spec: Spec, everything: Sequence[Accelerator]) -> frozenset[str]:
    """Returns what could be granted for the spec some day, apart from what is shared."""
    return frozenset(
        accelerator.id
        for alternative in spec.alternatives
        for group in _by_type([each for each in everything if matches(alternative, each) and not each.shared])
        if len(group) >= alternative.count
        for accelerator in group
    )


def _missing(spec: Spec, left: Collection[Accelerator], everything: Sequence[Accelerator]) -> str:
    """Returns in words what a request waits for, given what is left for it."""
    words = []
    for alternative in spec.alternatives:
        if not _can_ever_fit(alternative, everything):
            continue
        most = max((len(group) for group in _by_type(each for each in left if matches(alternative, each))), default=0)
        name = _in_words(alternative, counted=False)
        words.append(f"{alternative.count - most} of {alternative.count} {name}")
    return f"waiting for {' or '.join(words)}"


def _never_fits(alternative: Alternative, everything: Sequence[Accelerator], offered: str) -> AgentError:
    asked = f"{_in_words(alternative, counted=True)} asked"
    large_enough = _by_type(each for each in everything if matches(alternative, each))
    most = max((len(group) for group in large_enough), default=0)
    if most:
        name = _in_words(alternative, counted=False)
        fits = f"`{alternative.type or 'any'}x{most}`" if not alternative.min_memory_bytes else f"{most} of them"
        of_one_type = " of one type" if not alternative.type else ""
        return CanNeverFitError(
            f"{asked}, this node has {most} {name}{of_one_type}", f"ask for {fits} at most; {offered}"
        )
    largest = max(each.memory_bytes for each in _of_type(alternative, everything)) // _GB
    kind = alternative.type or "GPU"
    return CanNeverFitError(f"{asked}, this node has {kind} of {largest} GB at most", f"ask for less; {offered}")


def _in_words(alternative: Alternative, *, counted: bool) -> str:
    """Returns `8 H100`, or `H100` not counted; `GPU of 24 GB or more` for any with that memory."""
    name = alternative.type or "GPU"
    if alternative.min_memory_bytes:
        name += f" of {_asked_bytes(alternative.min_memory_bytes) // _GB} GB or more"
    return f"{alternative.count} {name}" if counted else name


def _asked_bytes(min_memory_bytes: int) -> int:
    """Returns the nominal memory that was meant: whole GiB are taken for as many GB."""
    whole_gib, rest = divmod(min_memory_bytes, _GIB)
    return min_memory_bytes if rest else whole_gib * _GB
