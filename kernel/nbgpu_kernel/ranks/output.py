"""Shows what the ranks of a call write, live: rank 0 in full, the others folded away, or with a prefix."""

from __future__ import annotations

import codecs
import html
import itertools
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from nbgpu_kernel.ranks.call_folder import CallFolder, parse_feed_line
from nbgpu_kernel.ranks.lines import CommonLine, CommonLines, LineSplitter, ranks_in_words

_SHOWN_LINES = 300
_INTERVAL_S = 0.1
_BYTES_A_SECOND = 200_000
"""The Jupyter server drops output above 1 MB/s: a large display is updated less often."""
_SETTLE_S = 0.25
"""A line is held back for so long where it cannot be changed once it is written: others may write the same."""
_MAX_CHUNK_BYTES = 1 << 20


class View(Protocol):
    """Shows output in one way."""

    def add(self, rank: int, is_stderr: bool, data: bytes) -> None: ...

    def refresh(self, *, final: bool = False) -> None:
        """Called often, and once at the end."""


class Follower:
    """Reads what the launcher keeps, as it grows, and hands it to a view.

    Args:
        folder: The call's.
        view: Takes it.
    """

    def __init__(self, folder: CallFolder, view: View) -> None:
        self._folder = folder
        self._view = view
        self._feed: Any = None
        self._feed_rest = b""
        self._logs: dict[int, Any] = {}

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._feed, *self._logs.values()):
            if file is not None:
                file.close()

    def look(self, *, final: bool = False) -> None:
        """Shows what has come since the last look."""
        if self._feed is None:
            try:
                self._feed = open(self._folder.feed, "rb")  # noqa: SIM115 - closed at the end
            except FileNotFoundError:
                return
        while True:
            content = self._feed.read(_MAX_CHUNK_BYTES)
            *lines, self._feed_rest = (self._feed_rest + content).split(b"\n")
            for line in lines:
                rank, is_stderr, size_bytes = parse_feed_line(line)
                self._view.add(rank, is_stderr, self._log(rank).read(size_bytes))
            if not content:
                break
        self._view.refresh(final=final)

    def _log(self, rank: int) -> Any:
        if rank not in self._logs:
            self._logs[rank] = open(self._folder.log(rank), "rb")  # noqa: SIM115 - closed at the end
        return self._logs[rank]


Write: TypeAlias = Callable[[str, bool], None]
"""Shows text, as standard error or not."""


def write_here(text: str, is_stderr: bool) -> None:
    """Writes to this process's own streams."""
    stream = sys.stderr if is_stderr else sys.stdout
    stream.write(text)
    stream.flush()


class _FirstRank:
    """The first rank as if it wrote here: every character, in its stream."""

    def __init__(self, write: Write) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decode = [decoder("replace").decode, decoder("replace").decode]
        self._write = write

    def write(self, is_stderr: bool, data: bytes) -> None:
        self._write(self._decode[is_stderr](data), is_stderr)


class FoldedView:
    """One rank in full, the others in one display that can be opened, and is updated in place.

    Args:
        publish: As `IPython.display.publish_display_data`.
        clock: In seconds.
        first: The one in full.
        write: Shows its output.
    """

    def __init__(
        self,
        publish: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
        *,
        first: int = 0,
        write: Write = write_here,
    ) -> None:
        self._publish = publish
        self._clock = clock
        self._first = first
        self._own = _FirstRank(write)
        self._splitters: dict[tuple[int, bool], LineSplitter] = {}
        self._common = CommonLines()
        self._ranks: set[int] = set()
        self._display_id = uuid.uuid4().hex
        self._published = False
        self._changed = False
        self._next_s = float("-inf")

    def add(self, rank: int, is_stderr: bool, data: bytes) -> None:
        if rank == self._first:
            self._own.write(is_stderr, data)
        else:
            self._take(rank, is_stderr, data)

    def _take(self, rank: int, is_stderr: bool, data: bytes, *, final: bool = False) -> None:
        splitter = self._splitters.setdefault((rank, is_stderr), LineSplitter())
        for text in splitter.split(data, final=final):
            self._common.add(rank, text, self._clock())
            self._ranks.add(rank)
            self._changed = True

    def refresh(self, *, final: bool = False) -> None:
        if final:
            for rank, is_stderr in list(self._splitters):
                self._take(rank, is_stderr, b"", final=True)
        now = self._clock()
        if not self._changed or (now < self._next_s and not final):
            return
        data = {"text/html": self._html(), "text/plain": self._text()}
        self._publish(data, transient={"display_id": self._display_id}, update=self._published)
        self._published, self._changed = True, False
        size_bytes = sum(map(len, data.values()))
        self._next_s = now + max(_INTERVAL_S, size_bytes / _BYTES_A_SECOND)

    def _summary(self) -> str:
        count = self._common.dropped + len(self._common.lines)
        return f"{ranks_in_words(self._ranks)}: {count} {'line' if count == 1 else 'lines'}"

    def _shown(self) -> tuple[str, list[CommonLine]]:
        lines = self._common.lines[-_SHOWN_LINES:]
        hidden = self._common.dropped + len(self._common.lines) - len(lines)
        return (f"… {hidden} earlier lines: %gpu logs --rank N" if hidden else ""), lines

    def _html(self) -> str:
        hidden, lines = self._shown()
        body = "\n".join(
            f'<span style="opacity: 0.6">{ranks_in_words(line.ranks)}:</span> {html.escape(line.text)}'
            for line in lines
        )
        first = f"{html.escape(hidden)}\n" if hidden else ""
        return f"<details><summary>{html.escape(self._summary())}</summary><pre>{first}{body}</pre></details>"

    def _text(self) -> str:
        hidden, lines = self._shown()
        return "\n".join([*([hidden] if hidden else []), *(prefixed(line) for line in lines)])


class PrefixedView:
    """For where nothing can be updated: one rank in full, lines of the others with a prefix, those in common once.

    Args:
        clock: In seconds.
        first: The one in full.
        write: Shows output.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, first: int = 0, write: Write = write_here
    ) -> None:
        self._clock = clock
        self._first = first
        self._write = write
        self._own = _FirstRank(write)
        self._splitters: dict[tuple[int, bool], LineSplitter] = {}
        self._common = CommonLines()

    def add(self, rank: int, is_stderr: bool, data: bytes) -> None:
        if rank == self._first:
            self._own.write(is_stderr, data)
        else:
            self._take(rank, is_stderr, data)

    def _take(self, rank: int, is_stderr: bool, data: bytes, *, final: bool = False) -> None:
        splitter = self._splitters.setdefault((rank, is_stderr), LineSplitter())
        for text in splitter.split(data, final=final):
            self._common.add(rank, text, self._clock())

    def refresh(self, *, final: bool = False) -> None:
        if final:
            for rank, is_stderr in list(self._splitters):
                self._take(rank, is_stderr, b"", final=True)
        settled_s = self._clock() - _SETTLE_S
        ready = itertools.takewhile(lambda line: final or line.since_s <= settled_s, self._common.lines)
        written = self._common.drop(len(list(ready)))
        if written:
            self._write("".join(f"{prefixed(line)}\n" for line in written), False)


class FullView:
    """Every line of every rank, as it comes, with its rank.

    Args:
        write: Shows output.
    """

    def __init__(self, *, write: Write = write_here) -> None:
        self._write = write
        self._splitters: dict[tuple[int, bool], LineSplitter] = {}

    def add(self, rank: int, is_stderr: bool, data: bytes) -> None:
        self._show(rank, is_stderr, data)

    def _show(self, rank: int, is_stderr: bool, data: bytes, *, final: bool = False) -> None:
        splitter = self._splitters.setdefault((rank, is_stderr), LineSplitter())
        lines = splitter.split(data, final=final)
        if lines:
            self._write("".join(f"[rank {rank}] {text}\n" for text in lines), is_stderr)

    def refresh(self, *, final: bool = False) -> None:
        if final:
            for rank, is_stderr in list(self._splitters):
                self._show(rank, is_stderr, b"", final=True)


def prefixed(line: CommonLine) -> str:
    return f"[{ranks_in_words(line.ranks)}] {line.text}"
