"""The requests for sessions that pages made: on their way, withdrawn, or failed and not yet read."""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbgpu.server.ending import end_tasks
from nbgpu.server.problems import PoolLostError, RefusedError
from nbgpu.server.views import Phase, ProblemView, RequestView, SessionView

if TYPE_CHECKING:
    from nbgpu.server.hub import Hub
    from nbgpu.server.pool_calls import PoolCalls
    from nbgpu.spec import Spec

KEPT_AFTER_FAILURE_S = 60.0
MAX_REQUESTS = 100
SETTLE_S = 20.0
PATIENCE_S = 3.0
"""How long a pool that has not answered yet is waited for where another may have what is wanted."""
SHOWN_S = 2.0
"""How long a request stays until its session is in the pool's state."""


@dataclass(frozen=True)
class Wanted:
    """What a page asks for."""

    pool: str | None
    """None: whichever pool can grant the spec first."""
    spec: Spec | None
    spec_text: str
    notebook_id: str
    notebook_name: str
    python: str
    working_folder: str
    new: bool


@dataclass
class _Request:
    id: str
    wanted: Wanted
    pool: str
    """Under which it is shown: the one that is asked, or would be by default."""
    made_unix_s: float = field(default_factory=time.time)
    phase: Phase | None = None
    detail: str = "Looking for a pool"
    queue_position: int | None = None
    queue_length: int | None = None
    session_id: str | None = None
    problem: ProblemView | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def is_answered(self, sessions: Collection[SessionView]) -> bool:
        """Says whether its session is there already: a pool's state may come before the answer to the request."""
        return self.problem is None and any(
            _is_there(each, self.session_id or each["id"], self.wanted.notebook_id)
            and (self.session_id is not None or (each["attached_unix_s"] or 0) >= self.made_unix_s)
            for each in sessions
        )

    def view(self) -> RequestView:
        return RequestView(
            request_id=self.id,
            notebook_id=self.wanted.notebook_id or None,
            notebook_name=self.wanted.notebook_name or None,
            spec_text=self.wanted.spec_text,
            phase=self.phase,
            detail=self.detail,
            queue_position=self.queue_position,
            queue_length=self.queue_length,
            session_id=self.session_id,
            problem=self.problem,
        )


class OpenRequests:
    """Makes the requests, each in a task of its own. For the hub's event loop."""

    def __init__(self, hub: Hub, *, kept_s: float = KEPT_AFTER_FAILURE_S) -> None:
        self._hub = hub
        self._kept_s = kept_s
        self._requests: dict[str, _Request] = {}

    def views(self, pool: str, sessions: Collection[SessionView]) -> list[RequestView]:
        """Returns what a pool's page shows of them, given its sessions."""
        return [
            request.view()
            for request in self._requests.values()
            if request.pool == pool and not request.is_answered(sessions)
        ]

    def start(self, wanted: Wanted) -> str:
        """Begins a request; returns its id.

        Raises:
            RefusedError: There is no such pool, or there are too many requests.
        """
        pool = self._hub.link(wanted.pool).name if wanted.pool is not None else self._hub.links()[0].name
        if len(self._requests) >= MAX_REQUESTS:
            raise RefusedError(f"{MAX_REQUESTS} requests are open already", "withdraw some", "too_many_requests", 429)
        request = _Request(secrets.token_hex(8), wanted, pool)
        self._requests[request.id] = request
        request.task = asyncio.create_task(self._run(request), name=f"nbgpu: request {request.id}")
        self._hub.on_change()
        return request.id

    async def withdraw(self, request_id: str) -> None:
        """Withdraws a request, which leaves nothing behind, or dismisses one that has failed. Idempotent."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        await end_tasks([request.task])
        self._hub.on_change()

    async def close(self) -> None:
        """Withdraws all."""
        for request_id in list(self._requests):
            await self.withdraw(request_id)

    async def _run(self, request: _Request) -> None:
        try:
            async with self._hub.in_use():
                await self._open(request)
        except (PoolLostError, RefusedError) as error:
            self._fail(request, error.view())
        except Exception as error:  # noqa: BLE001 - a page must show what went wrong, whatever it is
            hint = "the log of the Jupyter server has the details"
            self._hub.log_failure(f"the request for {request.wanted.spec_text or 'a session'} failed")
            message = f"The session cannot be opened: {type(error).__name__}: {error}"
            self._fail(request, ProblemView(message=message, hint=hint))
        else:
            self._requests.pop(request.id, None)
            self._hub.on_change()

    async def _open(self, request: _Request) -> None:
        wanted = request.wanted
        name, calls = await self._choose(wanted)
        request.pool, request.detail = name, ""
        self._hub.on_change()
        session_id = await calls.open_session(
            wanted.spec,
            notebook_id=wanted.notebook_id,
            notebook_name=wanted.notebook_name,
            python=wanted.python,
            working_folder=wanted.working_folder,
            new=wanted.new,
            on_update=functools.partial(self._update, request),
        )
        await self._hub.let_go_elsewhere(wanted.notebook_id, calls)
        # Else a page would see neither the request nor its session for a moment.
        await self._hub.link(name).settle_until(
            lambda state: any(_is_there(each, session_id, wanted.notebook_id) for each in state["sessions"]), SHOWN_S
        )

    async def _choose(self, wanted: Wanted) -> tuple[str, PoolCalls]:
        links = self._hub.links()
        first = links[0]
        if wanted.pool is not None:
            first = self._hub.link(wanted.pool)
        elif len(links) > 1 and wanted.spec is None:
            first = self._hub.link_of_notebook(wanted.notebook_id) or first
        elif len(links) > 1:
            await self._hub.settle(PATIENCE_S)
            from nbgpu.server import pool_calls  # imported: a pool is connected, or else there is nothing to choose

            connected = {link.name: link.calls for link in links if link.calls is not None}
            assert wanted.spec is not None
            if (name := pool_calls.choose(wanted.spec, connected)) is not None:
                return name, connected[name]
        return first.name, await first.connection(SETTLE_S)

    def _update(
        self,
        request: _Request,
        phase: Phase | None,
        detail: str,
        queue_position: int | None,
        queue_length: int | None,
        session_id: str | None,
    ) -> None:
        request.phase, request.detail, request.session_id = phase, detail, session_id
        request.queue_position, request.queue_length = queue_position, queue_length
        self._hub.on_change()

    def _fail(self, request: _Request, problem: ProblemView) -> None:
        if request.id not in self._requests:
            return  # withdrawn
        request.phase, request.detail, request.problem = None, "", problem
        request.queue_position = request.queue_length = None
        self._hub.on_change()
        asyncio.get_running_loop().call_later(self._kept_s, self._forget, request.id)

    def _forget(self, request_id: str) -> None:
        if self._requests.pop(request_id, None) is not None:
            self._hub.on_change()


def _is_there(session: SessionView, session_id: str, notebook_id: str) -> bool:
    return session["id"] == session_id and session["phase"] == "ready" and (session["notebook_id"] or "") == notebook_id
