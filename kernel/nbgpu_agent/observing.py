"""What others are told of the lives of sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbgpu_agent.model import SessionInfo


class SessionObserver:
    """Is told by the registry, on the event loop. What it raises is a bug of ours, so it raises nothing."""

    def session_ready(self, info: SessionInfo) -> None:
        """Its first kernel runs, and nobody has been told so yet."""

    def session_attached(self, info: SessionInfo) -> None:
        """It is another notebook's from now on; no notebook's, if the id is empty."""

    def session_ended(self, info: SessionInfo, reason: str) -> None:
        """Its processes have ended, and its lease is about to be released."""
