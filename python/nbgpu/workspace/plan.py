"""Decides what becomes of each file: what changed here goes there, what changed there comes here."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Direction(enum.Enum):
    """Which way files go."""

    BOTH = "both"
    TO = "to"
    FROM = "from"


class Step(enum.Enum):
    """What becomes of one path."""

    AGREE = "agree"
    """Both sides have the same."""
    SEND = "send"
    SEND_AND_KEEP = "send and keep"
    """Both sides changed: the notebook's goes there, and the session's is kept beside it."""
    REMOVE = "remove"
    """It was deleted here, and is there as it was."""
    BRING = "bring"
    BRING_BACK = "bring back"
    """It was deleted here, and changed there."""
    GONE_THERE = "gone there"
    """It was deleted there; it is kept here."""
    DIFFER = "differ"
    """Both sides changed, and only files from there are wanted: it stays as it is on both."""
    FORGET = "forget"
    """Neither side has it any more."""
    LEAVE = "leave"
    """It would go the way that is not wanted."""


SENT = frozenset({Step.SEND, Step.SEND_AND_KEEP})
BROUGHT = frozenset({Step.BRING, Step.BRING_BACK})


def plan(
    local: Mapping[str, str],
    remote: Mapping[str, str],
    noted: Mapping[str, str],
    direction: Direction = Direction.BOTH,
) -> dict[str, Step]:
    """Returns the step for every path that either side has, or that both had after the last sync.

    Args:
        local: Versions in the notebook's folder, by path.
        remote: Versions in the session's.
        noted: Versions that both had after the last sync.
        direction: Which way files go.
    """
    paths = sorted(local.keys() | remote.keys() | noted.keys())
    steps = {path: _step(local.get(path), remote.get(path), noted.get(path)) for path in paths}
    return {path: _directed(step, direction) for path, step in steps.items()}


def _step(here: str | None, there: str | None, before: str | None) -> Step:
    if here == there:
        return Step.AGREE if here is not None else Step.FORGET
    if here == before:
        return Step.BRING if there is not None else Step.GONE_THERE
    if there == before:
        return Step.SEND if here is not None else Step.REMOVE
    if here is None:
        return Step.BRING_BACK
    return Step.SEND if there is None else Step.SEND_AND_KEEP


def _directed(step: Step, direction: Direction) -> Step:
    if direction is Direction.TO:
        if step in BROUGHT:
            return Step.LEAVE
        if step is Step.GONE_THERE:
            return Step.SEND
    if direction is Direction.FROM:
        if step is Step.SEND_AND_KEEP:
            return Step.DIFFER
        if step in (Step.SEND, Step.REMOVE):
            return Step.LEAVE
    return step
