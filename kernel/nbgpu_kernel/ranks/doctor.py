"""Decides whether ranks hang: from what was seen of each of them, one look after another, and a clock. Does no I/O.

A rank waits where it is in a collective. That alone says nothing: ranks of a program that is busy with collectives are
found in one at every look, at the same line. They hang where they also get nowhere: no collective has been begun since
(the counters of torch's process groups), or where those are not known the rank has used no processor time; and nothing
has been written for all that time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nbgpu_kernel.ranks.stacks import Frame, collective

BACKWARD = "backward"
_IDLE_SHARE = 0.05
"""A rank that used less of one processor than this between two looks has waited all the while."""


@dataclass(frozen=True)
class RankLook:
    """What was seen of one rank."""

    rank: int
    stack: tuple[Frame, ...] = ()
    """Of its main thread, the innermost first; empty: it did not show it."""
    has_returned: bool = False
    counts: tuple[tuple[str, int], ...] | None = None
    """How many collectives it has begun in each process group; None: not known."""
    pending: str = ""
    """The collective that it has begun and that is not done, as far as torch can tell; it need not wait for it."""
    processor_s: float | None = None
    """Processor time that it has used, in seconds; None: not known."""


@dataclass(frozen=True)
class Look:
    """What was seen of all ranks at one time."""

    time_s: float
    ranks: tuple[RankLook, ...]
    written_bytes: int
    """By all ranks, since they were started."""


@dataclass(frozen=True)
class RankProgress:
    """One rank, as it was at the last look, and since when it has been there."""

    look: RankLook
    waits_in: str
    """Name of a collective; "backward"; empty: it does not wait for another rank."""
    since_s: float
    """It has got no further since; if it waits, it has waited since."""


@dataclass(frozen=True)
class Progress:
    """What is to be remembered of all looks up to now."""

    time_s: float
    quiet_since_s: float
    written_bytes: int
    ranks: Mapping[int, RankProgress] = field(default_factory=dict)


@dataclass(frozen=True)
class Hang:
    """No rank that waits has got further for too long.

    Attributes:
        since_s: Since when nothing has got further, nor been written.
        waiting: Ranks that wait in a collective, in order.
        missing: Ranks that are elsewhere, in order.
        returned: Ranks that have returned, in order, and will not come.
    """

    since_s: float
    waiting: tuple[RankProgress, ...]
    missing: tuple[RankProgress, ...]
    returned: tuple[int, ...]

    @property
    def is_mismatch(self) -> bool:
        """Whether ranks wait in different collectives."""
        return len({each.waits_in for each in self.waiting}) > 1

    @property
    def behind(self) -> dict[int, int]:
        """Returns by how many collectives ranks are behind the one that is furthest; without those that are not."""
        counts = {
            each.look.rank: sum(count for _, count in each.look.counts)
            for each in (*self.waiting, *self.missing)
            if each.look.counts is not None
        }
        most = max(counts.values(), default=0)
        return {rank: most - count for rank, count in counts.items() if count < most}


def observe(progress: Progress | None, look: Look) -> Progress:
    """Returns what is to be remembered after a look.

    Args:
        progress: Of the looks before; None: it is the first.
        look: What was seen now.
    """
    if progress is None or look.written_bytes != progress.written_bytes:
        quiet_since_s = look.time_s
    else:
        quiet_since_s = progress.quiet_since_s
    before = progress.ranks if progress is not None else {}
    elapsed_s = look.time_s - progress.time_s if progress is not None else 0.0
    ranks = {each.rank: _step(before.get(each.rank), each, elapsed_s, look.time_s) for each in look.ranks}
    return Progress(look.time_s, quiet_since_s, look.written_bytes, ranks)


def diagnose(progress: Progress, hang_after_s: float) -> Hang | None:
    """Returns the hang, if there is one.

    Args:
        progress: After the last look.
        hang_after_s: For how long nothing may get further.
    """
    returned = tuple(sorted(rank for rank, each in progress.ranks.items() if each.look.has_returned))
    live = sorted(
        (each for each in progress.ranks.values() if not each.look.has_returned), key=lambda each: each.look.rank
    )
    waiting = tuple(each for each in live if each.waits_in)
    missing = tuple(each for each in live if not each.waits_in)
    if not waiting:
        return None
    since_s = max(progress.quiet_since_s, *(each.since_s for each in waiting))
    if progress.time_s - since_s < hang_after_s:
        return None
    return Hang(since_s, waiting, missing, returned)


def _step(before: RankProgress | None, look: RankLook, elapsed_s: float, now_s: float) -> RankProgress:
    is_idle = before is not None and _is_idle(before.look, look, elapsed_s)
    waits_in = collective(list(look.stack))
    if not waits_in or (waits_in == BACKWARD and not is_idle):  # which may take as long as it likes to compute
        waits_in = look.pending
    is_still = before is not None and _is_still(before.look, look, is_idle=is_idle)
    # A first look cannot know whether a backward pass computes.
    same = before is not None and is_still and before.waits_in == waits_in
    return RankProgress(look, waits_in, before.since_s if before is not None and same else now_s)


def _is_still(before: RankLook, now: RankLook, *, is_idle: bool) -> bool:
    if before.stack != now.stack or not now.stack:
        return False
    if before.counts is not None and now.counts is not None:
        return before.counts == now.counts
    return is_idle


def _is_idle(before: RankLook, now: RankLook, elapsed_s: float) -> bool:
    if before.processor_s is None or now.processor_s is None or elapsed_s <= 0:
        return False
    return now.processor_s - before.processor_s < _IDLE_SHARE * elapsed_s
