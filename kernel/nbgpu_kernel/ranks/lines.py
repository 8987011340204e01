"""What ranks write, as lines: those that several of them have in common are one, with the ranks that wrote it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

MAX_LINES = 10_000
"""Of the lines in common, so many of the latest are remembered; the logs have all."""
_LOOK_AHEAD = 500
_MAX_LINE = 10_000
_NUMBER = re.compile(r"\d+")
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")


class LineSplitter:
    """Turns the bytes of one stream into lines, whatever pieces they come in.

    A carriage return starts the line anew, as it does in a terminal: of a progress bar the last state is left.
    """

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""

    def split(self, data: bytes, *, final: bool = False) -> list[str]:
        """Returns the lines that are complete now; with `final` also the one that has no end."""
        *whole, self._rest = (self._rest + self._decode(data, final)).split("\n")
        # Of what is overwritten only the last is kept, or a progress bar without an end would grow without one.
        kept = self._rest.rstrip("\r")
        self._rest = kept[kept.rfind("\r") + 1 :][-_MAX_LINE:] + self._rest[len(kept) :][:1]
        if final and self._rest:
            whole.append(self._rest)
            self._rest = ""
        return [_as_left(line) for line in whole]


def _as_left(line: str) -> str:
    line = line.rstrip("\r")
    return _ESCAPES.sub("", line[line.rfind("\r") + 1 :])[:_MAX_LINE]


@dataclass
class CommonLine:
    """A line, and who wrote it."""

    text: str
    ranks: set[int]
    since_s: float
    """When the first of them did, on the clock of whoever adds it."""


class CommonLines:
    """Puts the lines of several ranks together: each rank's keep their order, equal ones become one.

    A line that no other rank wrote yet is put before what its rank has not come to: what the others wrote after a
    line of their own ("rank 1 is ready") then still is in common.
    """

    def __init__(self) -> None:
        self.lines: list[CommonLine] = []
        self.dropped = 0
        """How many are not remembered any more."""
        self._next: dict[int, int] = {}
        """How far each rank is."""

    def add(self, rank: int, text: str, now_s: float) -> None:
        """Takes the next line of a rank."""
        start = self._next.get(rank, 0)
        end = min(len(self.lines), start + _LOOK_AHEAD)
        for position in range(start, end):
            if self.lines[position].text == text:
                self.lines[position].ranks.add(rank)
                break
        else:
            position = self._after_alike(start, end, text)
            self.lines.insert(position, CommonLine(text, {rank}, now_s))
            self._next = {each: at + (at > position) for each, at in self._next.items()}
        self._next[rank] = position + 1
        if len(self.lines) > MAX_LINES:
            self.drop(MAX_LINES // 10)

    def _after_alike(self, start: int, end: int, text: str) -> int:
        """Returns where the lines end that differ from this one in numbers alone, one of each other rank at most."""
        shape = _NUMBER.sub("", text)
        seen: set[int] = set()
        for position in range(start, end):
            line = self.lines[position]
            if line.ranks & seen or _NUMBER.sub("", line.text) != shape:
                return position
            seen |= line.ranks
        return end

    def drop(self, count: int) -> list[CommonLine]:
        """Forgets the first lines, and returns them."""
        gone = self.lines[:count]
        del self.lines[:count]
        self.dropped += len(gone)
        self._next = {rank: max(0, at - len(gone)) for rank, at in self._next.items()}
        return gone


def ranks_in_words(ranks: Collection[int]) -> str:
    """Returns "rank 3", "ranks 1-3", "ranks 0, 2-3"."""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(_runs(sorted(ranks)))}"


def _runs(ranks: Iterable[int]) -> list[str]:
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and runs[-1][1] == rank - 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]
