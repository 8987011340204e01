"""How much a cell may print: what is beyond goes to the session's log instead of the notebook. Pure."""

from __future__ import annotations

import enum

DEFAULT_CELL_OUTPUT_BYTES = 64 * 10**6
"""A notebook with as much in a cell can hardly be opened again."""
_BOUNDED = frozenset({"stream", "display_data", "update_display_data"})


class Passage(enum.Enum):
    PASS = "pass"
    FIRST_BEYOND = "first beyond"
    BEYOND = "beyond"


class OutputAllowance:
    """Counts the output of one cell.

    Args:
        limit_bytes: None: no bound.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        self._limit_bytes = limit_bytes
        self._left_bytes = limit_bytes or 0

    def begin(self) -> None:
        """A cell begins."""
        self._left_bytes = self._limit_bytes or 0

    def take(self, message_type: str, size_bytes: int) -> tuple[Passage, int]:
        """Says what becomes of a message of the cell, and how many bytes of it still pass where not all do."""
        if self._limit_bytes is None or message_type not in _BOUNDED or self._left_bytes >= size_bytes:
            self._left_bytes -= size_bytes if message_type in _BOUNDED else 0
            return Passage.PASS, size_bytes
        left_bytes, self._left_bytes = self._left_bytes, -1
        return (Passage.FIRST_BEYOND, left_bytes) if left_bytes >= 0 else (Passage.BEYOND, 0)
