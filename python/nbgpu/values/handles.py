"""The handles that a notebook has of one session's objects, and how they travel back to it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from nbgpu.values.errors import StaleHandleError
from nbgpu.values.handle import Handle, Home
from nbgpu_kernel.values.definitions import resolve_object


class Handles:
    """One an object, which is released with the last that refers to it.

    Args:
        home: Returns the session's kernel as it is now.
        fetch: Brings the value of a handle.
        look: What handles ask of their objects.
    """

    def __init__(
        self,
        home: Callable[[], Home],
        fetch: Callable[[Handle], Any],
        look: Callable[[Handle], dict[str, Any] | None],
    ) -> None:
        self._home = home
        self._fetch = fetch
        self._look = look
        self._known: weakref.WeakValueDictionary[str, Handle] = weakref.WeakValueDictionary()
        self.released: list[str] = []
        """Ids of objects to which nothing refers here any more, as long as the session does not know it."""

    def of(self, described: dict[str, Any]) -> Handle:
        """Returns the handle of an object: the one that there is, for as long as it is the same kernel's."""
        found = self._known.get(described["id"])
        if found is None or found.home != self._home():
            found = Handle(described["id"], described, self._home(), self._fetch, self.released.append, self._look)
            self._known[found.id] = found
        while found.id in self.released:
            self.released.remove(found.id)  # of one before it, which is gone
        return found

    def reduce(self, obj: Any) -> Any:
        """Returns how a handle is pickled for the session; NotImplemented for anything else.

        Raises:
            StaleHandleError: Its object is in another session, or gone.
        """
        if type(obj) is not Handle:
            return NotImplemented
        home = self._home()
        if obj.home.session_id != home.session_id:
            raise StaleHandleError(
                f"the object of {obj!r} is in another session than {home.session_id}, in which the cell runs",
                "run the cell in that session, or take the value with .fetch()",
            )
        if obj.home.generation != home.generation:
            raise StaleHandleError(f"the object of {obj!r} is gone: the session has a fresh kernel since")
        return resolve_object, (obj.id,)
