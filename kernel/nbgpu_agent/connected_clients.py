"""Which processes are connected to a session now."""

from __future__ import annotations

import collections


class ConnectedClients:
    """The clients of a session, by the ids that they gave themselves; one may have several streams."""

    def __init__(self) -> None:
        self._streams: collections.Counter[str] = collections.Counter()

    def __contains__(self, client_id: str) -> bool:
        return bool(client_id) and self._streams[client_id] > 0

    def join(self, client_id: str) -> None:
        """Notes that a stream of the client has begun."""
        self._streams[client_id] += 1

    def leave(self, client_id: str) -> None:
        """Notes that one has ended."""
        self._streams[client_id] -= 1
        if not self._streams[client_id]:
            del self._streams[client_id]
