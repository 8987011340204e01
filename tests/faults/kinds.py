"""All faults of one session's cell by their names, what each needs, and what is to come of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

from faults import clocks, folders, links, network, scenes
from faults.scenes import Fault, Outcome, Place, is_beginning, is_part, lost

FAULTS: dict[str, Fault] = {
    "link cut": scenes.cut_link,
    "link cut for 1 s": links.cut_for_a_second,
    "link half-open": scenes.half_open,
    "link slow": scenes.slow_link,
    "agent killed": scenes.kill_agent,
    "agent killed twice": scenes.kill_agent_twice,
    "agent killed, back late": scenes.kill_agent_for_long,
    "second agent": folders.start_another_agent,
    "kernel killed": scenes.kill_kernel,
    "disk full": folders.fill_disk,
    "clock set forwards": clocks.set_forwards,
    "clock set back": clocks.set_backwards,
    "journal truncated": folders.truncate_journal,
    "journal bytes flipped": folders.flip_journal,
    "journal index gone": folders.remove_index,
}
DAMAGES = frozenset({"journal truncated", "journal bytes flipped", "journal index gone"})
"""After which something may be missing, if that is said."""


def place_for(name: str, place: Place) -> AbstractContextManager[None]:
    """Prepares a place, whose agent is not started yet, for the fault of that name."""
    prepare: Callable[[Place], AbstractContextManager[None]] | None = {"disk full": folders.small_disk}.get(name)
    if name.startswith("clock "):
        clocks.with_own_clock(place)
    return prepare(place) if prepare is not None else contextlib.nullcontext()


def why_not(name: str) -> str:
    """Returns why there cannot be such a fault here; empty: there can."""
    if name.startswith("network "):
        return network.why_no_network()
    return folders.why_no_disk() if name == "disk full" else ""


def judge(name: str, outcome: Outcome, undisturbed: Outcome) -> str:
    """Returns what is wrong with the outcome, in words; empty: nothing is."""
    if name == "kernel killed":
        if outcome.error != "KernelDiedError":
            return f"ended with {outcome.error or 'no error'}"
        return "" if is_beginning(outcome, undisturbed) else "what came is not how the output begins"
    if name in DAMAGES and outcome.error == "" and outcome.dropped:
        return "" if is_part(outcome, undisturbed) else "what came is not a part of the output"
    return lost(outcome, undisturbed)
