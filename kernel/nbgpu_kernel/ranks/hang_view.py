"""Shows under the cell that the ranks of its call hang, for as long as they do, in one display that is updated."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbgpu_kernel.ranks.hang_file import read_hang
from nbgpu_kernel.ranks.hang_words import PlaceOf, hang_in_words

_OUTDATED_AFTER = 1.5
"""Times as long as was said."""


def _write_to_stderr(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


class HangView:
    """Follows what the launcher says of a hang.

    Args:
        path: Of its file.
        publish: As `IPython.display.publish_display_data`; None where nothing can be updated: what is said is written
            to standard error, once when the ranks hang and once when they go on.
        place_of: Names files.
        write: Writes a text to standard error.
    """

    def __init__(
        self,
        path: Path,
        publish: Callable[..., None] | None,
        place_of: PlaceOf,
        write: Callable[[str], None] = _write_to_stderr,
    ) -> None:
        self._path = path
        self._publish = publish
        self._place_of = place_of
        self._write = write
        self._seen: tuple[int, int] | None = None
        self._shown: dict[str, Any] | None = None
        """The hang that is on show and not over."""
        self._display_id = ""

    def refresh(self) -> None:
        """Called often. Shows what has changed, and else the time that has passed, ever more seldom.

        A person who has unfolded a stack and reads it loses that with every update.
        """
        found = self._news()
        if found is not None and (self._shown is None or _is_other(self._shown, found)):
            self._show(found, has_ended=False)

    def finish(self, *, has_returned: bool) -> None:
        """Called once, when the call is over.

        Args:
            has_returned: All ranks have, so they went on in the end, unseen.
        """
        found = self._news() or self._shown
        if found is not None:
            self._show({**found, "is_over": found["is_over"] or has_returned}, has_ended=True)

    def _news(self) -> dict[str, Any] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        seen = (status.st_mtime_ns, status.st_ino)
        if seen == self._seen:
            return None
        self._seen = seen
        return read_hang(self._path)

    def _show(self, hang: dict[str, Any], *, has_ended: bool) -> None:
        words = hang_in_words(hang, self._place_of, has_ended=has_ended)
        is_new = self._shown is None or self._shown["number"] != hang["number"]
        if self._publish is not None:
            if is_new and not (hang["is_over"] and self._display_id):
                self._display_id = uuid.uuid4().hex
                is_update = False
            else:
                is_update = True
            data = {"text/html": words.html(), "text/plain": words.text()}
            self._publish(data, transient={"display_id": self._display_id}, update=is_update)
        elif is_new or hang["is_over"]:
            self._write(words.text() + "\n")
        self._shown = None if hang["is_over"] else hang


def _is_other(shown: dict[str, Any], found: dict[str, Any]) -> bool:
    """Says whether a hang is to be shown anew: it is over, other ranks wait or elsewhere, or much time has passed."""
    return _shape(shown) != _shape(found) or found["for_s"] >= _OUTDATED_AFTER * shown["for_s"]


def _shape(hang: dict[str, Any]) -> tuple[Any, ...]:
    places = [
        (each["rank"], each["waits_in"], each["behind"], (each["frame"] or {}).get("function"))
        for each in (*hang["waiting"], *hang["missing"])
    ]
    return hang["number"], hang["is_over"], tuple(hang["returned"]), tuple(places)
