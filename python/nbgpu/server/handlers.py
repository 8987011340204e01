"""What the Jupyter server answers under `/nbgpu/api`: the state of the pool, pushed or asked for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.utils import ensure_async
from tornado.web import HTTPError, authenticated
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from nbgpu.server.hub import Hub

AUTH_RESOURCE = "nbgpu"
SETTLE_S = 20.0
"""Longer than an agent takes to start on a slow machine."""


class EventsHandler(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """WebSocket that pushes the state at once and after every change. Reads nothing from the page."""

    auth_resource = AUTH_RESOURCE

    def initialize(self, hub: Hub) -> None:
        self._hub = hub
        self._sender: asyncio.Task[None] | None = None

    @ws_authenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        if not await ensure_async(self.authorizer.is_authorized(self, self.current_user, "read", self.auth_resource)):
            raise HTTPError(403)
        await super().get(*args, **kwargs)

    def open(self, *args: Any, **kwargs: Any) -> None:
        super().open(*args, **kwargs)
        self._sender = asyncio.ensure_future(self._send_states())

    def on_message(self, message: str | bytes) -> None:
        """Passes over what a page says: commands come by REST."""

    def on_close(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
        super().on_close()

    async def _send_states(self) -> None:
        async with contextlib.aclosing(self._hub.states()) as states:  # type: ignore[type-var]
            async for state in states:
                try:
                    # resumes when the socket has taken it: a slow page skips states
                    await self.write_message(dict(state))
                except WebSocketClosedError:
                    return
        self.close(1001, "the Jupyter server is ending")


class StateHandler(APIHandler):
    """The same state as JSON, once it has settled; with `?settle_s=0` as it is, whatever that is."""

    auth_resource = AUTH_RESOURCE

    def initialize(self, hub: Hub) -> None:
        self._hub = hub

    @authenticated
    @authorized
    async def get(self) -> None:
        self.finish(dict(await self._hub.settled_state(self._settle_s())))

    def _settle_s(self) -> float:
        text = self.get_query_argument("settle_s", str(SETTLE_S))
        try:
            settle_s = float(text)
        except ValueError:
            settle_s = -1.0
        if not 0 <= settle_s <= SETTLE_S:
            raise HTTPError(400, f"settle_s is {text!r}, and must be a number from 0 to {SETTLE_S:g}")
        return settle_s


class RetryHandler(APIHandler):
    """Tries at once to reach a pool that was unreachable."""

    auth_resource = AUTH_RESOURCE

    def initialize(self, hub: Hub) -> None:
        self._hub = hub

    @authenticated
    @authorized
    async def post(self) -> None:
        self._hub.retry()
        self.set_status(204)
        self.finish()
