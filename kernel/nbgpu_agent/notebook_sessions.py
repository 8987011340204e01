"""Which session a notebook uses, of those that it has. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from nbgpu_agent.model import Phase, SessionInfo, SessionRequest
from nbgpu_agent.placement import satisfies


def find_session(request: SessionRequest, sessions: Iterable[SessionInfo]) -> SessionInfo | None:
    """Returns the notebook's session that satisfies the request, the one attached last if there are several."""
    if not request.notebook_id:
        return None
    return max(
        (each for each in sessions if _belongs(each, request)),
        key=lambda info: (info.attached_unix_s, info.last_active_unix_s),
        default=None,
    )


def _belongs(info: SessionInfo, request: SessionRequest) -> bool:
    return (
        info.phase is Phase.READY
        and info.request.owner == request.owner
        and info.request.notebook_id == request.notebook_id
        and (request.spec is None or (info.lease is not None and satisfies(request.spec, info.lease.accelerators)))
    )
