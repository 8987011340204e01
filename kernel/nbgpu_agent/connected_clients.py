"""Which processes are connected to a session now."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator


class ConnectedClients:
    """The clients of a session, by the ids that they gave themselves; one may have several streams.

    Args:
        on_change: Called after every change of who else than observers is connected.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._streams: collections.Counter[str] = collections.Counter()
        self._notebooks = 0
        self._on_change = on_change

    def __contains__(self, client_id: str) -> bool:
        return bool(client_id) and self._streams[client_id] > 0

    @property
    def has_notebook(self) -> bool:
        """Whether one is connected that is no observer."""
        return self._notebooks > 0

    @contextlib.contextmanager
    def connected(self, client_id: str, *, observer: bool) -> Iterator[None]:
        """Counts a stream of the client for as long as the block lasts."""
        self._streams[client_id] += 1
        self._count_notebooks(0 if observer else 1)
        try:
            yield
        finally:
            self._streams[client_id] -= 1
            if not self._streams[client_id]:
                del self._streams[client_id]
            self._count_notebooks(0 if observer else -1)

    def _count_notebooks(self, change: int) -> None:
        if change:
            self._notebooks += change
            self._on_change()
