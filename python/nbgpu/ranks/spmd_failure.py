"""Tells how a cell failed that ran on several ranks: one exception, of the real type, for all of them."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from nbgpu.errors import KernelDiedError, PlatformError
from nbgpu.ranks.failure import Places, failure_of, not_launched, others_in_words, traceback_of, with_notes
from nbgpu.remote_exceptions import exception_to_raise, unpickle_exception
from nbgpu.values.errors import NotPicklableError
from nbgpu_kernel.ranks.lines import ranks_in_words

_LOST_GROUPS = "the ranks' process groups are given up: `init_process_group` makes a new one"


def spmd_failure(answer: Mapping[str, Any]) -> BaseException:
    """Returns the exception to be raised for a cell that did not end well on its ranks.

    Args:
        answer: The outcome, as the session's kernel tells it.
    """
    kind = answer["kind"]
    if kind == "unsendable":
        return NotPicklableError(str(answer["text"]), "make it in a `--spmd` cell, on every rank for itself")
    if kind == "not_launched":
        return not_launched(answer)
    notes = [_LOST_GROUPS] if answer.get("lost_groups") else []
    packed = {failure["rank"]: failure.get("exception") for failure in answer["failures"]}
    if kind == "interrupted":
        return _interrupted(answer, notes)
    if kind == "failed":
        return failure_of(
            answer, str(answer["hostname"]), lambda rank: unpickle_exception(packed.get(rank)), notes=notes
        )
    return PlatformError(f"the session tells of a cell on ranks that {kind!r}, which is nothing known")


def kernel_died(error: KernelDiedError, wish: Mapping[str, Any]) -> KernelDiedError:
    """Returns the error for a cell on ranks whose session's kernel ended, which is rank 0.

    Args:
        error: As for any cell.
        wish: What the kernel was told; see `nbgpu.ranks.spmd.wish_for`.
    """
    others = [rank for rank in range(wish["world_size"]) if rank]
    text = f"rank 0 of {wish['world_size']} ended, with which {ranks_in_words(others)} ended: {error.message()}"
    if not others:
        text = f"rank 0 of 1 ended: {error.message()}"
    return KernelDiedError(text, error.hint)


def _interrupted(answer: Mapping[str, Any], notes: list[str]) -> BaseException:
    size = answer["world_size"]
    stopped = [failure for failure in answer["failures"] if failure.get("chain")]
    ranks = sorted(failure["rank"] for failure in answer["failures"])
    text = f"the cell was interrupted on {ranks_in_words(ranks)} of {size}"
    places = Places(answer["places"])
    shown = []
    if stopped:
        name = f"rank {stopped[0]['rank']} of {size} on {answer['hostname']}"
        link = {**stopped[0]["chain"][0], "relation": "", "notes": [], "lines": [], "ename": "KeyboardInterrupt"}
        shown.append(traceback_of({**link, "evalue": text}, name, places))
    else:
        shown.append(f"KeyboardInterrupt: {text}")
    notes = [*_where_they_were(stopped, answer.get("others", []), places), *notes]
    shown += ["\n".join(["", *notes])] if notes else []
    return with_notes(exception_to_raise(KeyboardInterrupt(text), "KeyboardInterrupt", text, shown), notes)


def _where_they_were(
    stopped: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], places: Places
) -> list[str]:
    """Says at which lines of the person's code ranks were that an interrupt ended; nothing where all were at one."""
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for failure in stopped:
        frames = failure["chain"][0]["frames"]
        own = [frame for frame in frames if not places.name(frame["file"]).startswith("File ")] or frames
        if own:
            groups[places.frame(own[-1])].append(failure["rank"])
    if len(groups) < 2 and not others:
        return []
    were = {True: "was", False: "were"}
    lines = [f"{ranks_in_words(ranks)} {were[len(ranks) == 1]} in {where}" for where, ranks in groups.items()]
    return [*lines, *others_in_words(others, places, "when they were stopped")]
