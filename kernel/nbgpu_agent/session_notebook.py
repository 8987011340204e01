"""The notebook that a session is attached to: which it is, since when, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nbgpu_agent.model import SessionRequest
from nbgpu_agent.notebook_facts import NotebookFacts


class SessionNotebook:
    """A session's notebook, which may be none.

    Attributes:
        request: What the session was opened with, with its notebook as it is now.
        attached_unix_s: Since when it is this notebook's; 0: it is none's.
        facts: What the notebook said last; None: nothing.

    Args:
        now: The time, in seconds since the epoch.
        on_change: Called after every change.
    """

    def __init__(self, request: SessionRequest, *, now: Callable[[], float], on_change: Callable[[], None]) -> None:
        self.request = request
        self.attached_unix_s = now() if request.notebook_id else 0.0
        self.facts: NotebookFacts | None = None
        self._now = now
        self._on_change = on_change

    def attach(self, notebook_id: str, name: str, key: str) -> None:
        """Makes the session another notebook's; of none, if the id is empty. An empty name or key stays as it was."""
        if notebook_id != self.request.notebook_id:
            self.facts = None
        self.request = replace(
            self.request,
            notebook_id=notebook_id,
            notebook_name=name or self.request.notebook_name,
            notebook_key=key or self.request.notebook_key,
        )
        self.attached_unix_s = self._now() if notebook_id else 0.0
        self._on_change()

    def note(self, notebook_id: str, facts: NotebookFacts) -> None:
        """Notes what a notebook says, in the place of what it said before; passed over if the session is another's."""
        if notebook_id and notebook_id == self.request.notebook_id and facts != self.facts:
            self.facts = facts
            self._on_change()

    def forget_variables(self) -> None:
        """Notes that the kernel that had them has ended."""
        if self.facts is not None:
            self.facts = replace(self.facts, variables=None)
