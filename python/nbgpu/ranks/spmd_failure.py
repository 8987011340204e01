"""Tells how a cell failed that ran on several ranks: one exception, of the real type, for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbgpu.errors import PlatformError
from nbgpu.ranks.failure import Places, failure_of, not_launched, traceback_of, with_notes
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


def _interrupted(answer: Mapping[str, Any], notes: list[str]) -> BaseException:
    size = answer["world_size"]
    stopped = [failure for failure in answer["failures"] if failure.get("chain")]
    ranks = sorted(failure["rank"] for failure in answer["failures"])
    text = f"the cell was interrupted on {ranks_in_words(ranks)} of {size}"
    shown = []
    if stopped:
        name = f"rank {stopped[0]['rank']} of {size} on {answer['hostname']}"
        link = {**stopped[0]["chain"][0], "relation": "", "notes": [], "lines": [], "evalue": text}
        shown.append(traceback_of(link, name, Places(answer["places"])))
    else:
        shown.append(f"KeyboardInterrupt: {text}")
    shown += ["\n".join(["", *notes])] if notes else []
    return with_notes(exception_to_raise(KeyboardInterrupt(text), "KeyboardInterrupt", text, shown), notes)
