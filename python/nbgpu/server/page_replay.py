"""One cell's output for the page that lacks it: where to begin to read, and what is shown of each piece. Pure."""

from __future__ import annotations

import json

from nbgpu import errors
from nbgpu.client.executions import is_over
from nbgpu.client.journal import Beginning, Piece
from nbgpu.replay import Output, Replay, display_output, joined, text_output
from nbgpu.words import dropped_in_words
from nbgpu_protocol.v1 import pool_pb2, session_pb2


class PageReplay:
    """What `nbgpu.client.journal.follow` yields, turned into what stands below the cell itself.

    Args:
        execution: As its agent lists it.
        last_number: Of the newest entry of the journal when it was listed.
    """

    def __init__(self, execution: pool_pb2.Execution, last_number: int) -> None:
        self._execution = execution
        self._replay = Replay(execution)
        # of one that waits for others nothing has come yet
        self._number = execution.first_number - 1 if execution.first_number else last_number
        self._known_until = 0
        self.is_caught_up = False
        """What comes is new."""
        self.dropped = 0
        """How many messages of the session from its time are not there any more."""

    @property
    def is_over(self) -> bool:
        """Nothing more comes."""
        return self._replay.is_over

    @property
    def after_number(self) -> int:
        """Where to begin to read."""
        return self._number

    def take(self, piece: Piece) -> list[Output]:
        """Returns what is shown of a piece."""
        shown: list[Output] = []
        for each in piece:
            if self.is_over:
                break
            if isinstance(each, Beginning):
                self._known_until = each.last_number
                shown += _shown_before(self._execution.shown_before)
                shown += self._skip(each.dropped_until)
            elif isinstance(each.said, session_pb2.Gap):
                shown += self._skip(each.said.until_number)
            else:
                self._number = max(self._number, each.number)
                shown += self._replay.take(each.said) if each.said is not None else []
        self.is_caught_up = self.is_caught_up or self.is_over or self._number >= self._known_until
        if self.is_caught_up and not self.is_over and is_over(self._execution):
            shown += self._replay.fail(errors.KernelDiedError("the end of the cell's output is not there any more"))
        return joined(shown)

    def _skip(self, until_number: int) -> list[Output]:
        if until_number <= self._number:
            return []
        first, self._number = self._number + 1, until_number
        self.dropped += until_number - first + 1
        return [text_output("stderr", f"nbgpu: {dropped_in_words(first, until_number)}\n")]


def _shown_before(text: str) -> list[Output]:
    try:
        outputs = json.loads(text) if text else []
    except ValueError:
        return []
    shown = []
    for each in outputs if isinstance(outputs, list) else []:
        if each.get("output_type") == "stream":
            shown.append(text_output("stderr", str(each.get("text", ""))))
        elif each.get("output_type") == "display_data":
            shown.append(display_output(each.get("data", {})))
    return shown
