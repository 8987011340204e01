"""Reads what a journal holds now: a stretch of it, or what answers one execution."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from nbgpu_agent.journal import Batch, CellTimedOut, Entry, Journal, Message
from nbgpu_agent.model import Execution


def selected(
    journal: Journal, after_number: int, until_number: int = 0, execution: Execution | None = None
) -> Iterator[Batch]:
    """Yields what is there, in batches; what comes while the reader is busy is not waited for.

    Args:
        after_number: Entries up to this one are left out.
        until_number: The last one that is wanted; 0: the newest there is now.
        execution: Only what answers this one: messages, and that its time was over; None: every entry.
    """
    last = min(until_number or journal.last_number, journal.last_number)
    if execution is not None:
        after_number = max(after_number, execution.first_number - 1)
        if not execution.first_number:
            return
    while after_number < last and (batch := journal.read(after_number)) is not None:
        after_number = batch.entries[-1].number
        entries = [
            each for each in batch.entries if each.number <= last and (execution is None or _answers(each, execution))
        ]
        if entries or batch.gap_until:
            yield replace(batch, entries=entries, gap_until=min(batch.gap_until, last))


def _answers(entry: Entry, execution: Execution) -> bool:
    if not isinstance(entry.body, Message):
        return isinstance(entry.body, CellTimedOut) and entry.body.request_id == execution.request_id
    parent = bytes(entry.body.parts[1])
    if execution.message_id.encode() not in parent:  # most of what does not: sooner found than decoded
        return False
    header = json.loads(parent)
    answered = header.get("nbgpu_request") or execution.request_id
    return bool(header.get("msg_id") == execution.message_id and answered == execution.request_id)
