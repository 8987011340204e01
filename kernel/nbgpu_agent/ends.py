"""Remembers for a while which sessions ended and why, for whoever asks for one of them, or comes back to it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from nbgpu_agent.errors import NoSuchSessionError
from nbgpu_agent.model import SessionInfo

K = TypeVar("K")
_KEPT = 1000


@dataclass(frozen=True)
class SessionEnd:
    owner: str
    """The user whose session it was."""
    notebook_id: str
    spec_text: str
    reason: str
    ended_unix_s: float

    def in_words(self) -> str:
        """Returns "the session on H100x2 was closed at 14:03: it was idle for 60 min", by the node's clock."""
        at = datetime.fromtimestamp(self.ended_unix_s).astimezone().strftime("%H:%M")
        held = f" on {self.spec_text}" if self.spec_text else ""
        return f"the session{held} was closed at {at}: {self.reason}"


class RecentEnds:
    """The last ends, by session and by notebook."""

    def __init__(self) -> None:
        self._by_session: OrderedDict[str, SessionEnd] = OrderedDict()
        self._to_tell: OrderedDict[tuple[str, str], SessionEnd] = OrderedDict()
        self._lost: dict[str, str] = {}

    def note(self, info: SessionInfo, reason: str, now_unix_s: float, *, tell: bool) -> None:
        """Remembers an end.

        Args:
            tell: It was not its user's doing: the notebook is told when it opens the next.
        """
        spec_text = info.request.spec.text if info.request.spec else ""
        end = SessionEnd(info.request.owner, info.request.notebook_id, spec_text, reason, now_unix_s)
        _put(self._by_session, info.id, end)
        if tell and end.notebook_id:
            _put(self._to_tell, (end.owner, end.notebook_id), end)

    def note_lost(self, lost: Mapping[str, str]) -> None:
        """Remembers why sessions of an earlier agent could not be taken over, by their ids."""
        self._lost.update(lost)

    def why_lost(self, session_id: str) -> str:
        """Returns why a session ended with the agent that had it; empty: it did not, as far as is known."""
        return self._lost.get(session_id, "")

    def of_session(self, session_id: str) -> SessionEnd | None:
        return self._by_session.get(session_id)

    def take_of_notebook(self, owner: str, notebook_id: str) -> SessionEnd | None:
        """Returns what a user's notebook is to be told, once."""
        return self._to_tell.pop((owner, notebook_id), None)


def no_such_session(session_id: str, why: str = "") -> NoSuchSessionError:
    """Returns what is said of a session that is not there, and of another user's in the same words.

    Args:
        why: It ended with an earlier agent; empty: it did not, or that is nothing to be told.
    """
    return NoSuchSessionError(
        f"session {session_id!r} ended with the agent that had it: {why}"
        if why
        else f"no session {session_id!r} here; it is closed, or the agent was started anew",
        "open another with `%gpu attach`",
    )


def _put(ends: OrderedDict[K, SessionEnd], key: K, end: SessionEnd) -> None:
    ends[key] = end
    ends.move_to_end(key)
    if len(ends) > _KEPT:
        ends.popitem(last=False)
