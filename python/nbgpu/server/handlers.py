"""What all handlers have in common, and those that tell a page the state and the samples."""

from __future__ import annotations

import asyncio
import contextlib
import json
from http.client import responses
from typing import Any, ClassVar

from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.utils import ensure_async
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, authenticated
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from nbgpu.server.api import AUTH_RESOURCE, Operation, Parameter, RetryBody, read_body, read_number
from nbgpu.server.hub import LOOK_UP_DEADLINE_S, Hub
from nbgpu.server.page import MAX_HISTORY_S, Page
from nbgpu.server.problems import PoolLostError, RefusedError
from nbgpu.server.views import PageState, SamplesMessage

MAX_PAGE_MESSAGE_BYTES = 4096


class NbgpuHandler(APIHandler):
    """Answers in JSON, errors among it, to whoever has the server's token and comes from its own pages."""

    auth_resource = AUTH_RESOURCE
    OPERATIONS: ClassVar[dict[str, Operation]] = {}

    def initialize(self, hub: Hub) -> None:
        self.hub = hub

    def body(self) -> dict[str, Any]:
        """Returns the body, checked against the description of the operation.

        Raises:
            RefusedError: It is not as described.
        """
        kind = self.OPERATIONS[(self.request.method or "").lower()].body
        assert kind is not None
        return read_body(self.request.body, kind)

    def write_error(self, status_code: int, **arguments: Any) -> None:
        """Says what went wrong, without frames."""
        error = arguments.get("exc_info", (None, None, None))[1]
        message, hint = responses.get(status_code, "Unknown"), None
        reason = message.lower().replace(" ", "_")
        if isinstance(error, RefusedError | PoolLostError):
            status_code, message, hint, reason = error.status, error.message, error.hint, error.reason
        elif isinstance(error, HTTPError) and error.log_message:
            message = error.log_message
        self.set_status(status_code)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"message": message, "hint": hint, "reason": reason}))

    def log_exception(self, kind: Any, value: Any, frames: Any) -> None:
        """Passes over what is a person's or a pool's doing; the page is told of it."""
        if not isinstance(value, RefusedError | PoolLostError):
            super().log_exception(kind, value, frames)


class EventsHandler(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """WebSocket that pushes the state at once and after every change, and samples as they come."""

    auth_resource = AUTH_RESOURCE
    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "get": Operation(
            "WebSocket: the state at once, after every change and every 15 s; what is recorded of the last seconds,"
            ' then one batch of samples an interval. The page may send {"kind": "pause"} and {"kind": "resume"},'
            " which concern samples.",
            response=PageState,
            status=101,
            parameters=(Parameter("samples_s", "Seconds of recorded samples that come first, 0 to 3600", 0.0),),
        )
    }

    def initialize(self, hub: Hub) -> None:
        self._hub = hub
        self._page: Page | None = None
        self._sender: asyncio.Task[None] | None = None
        self._history_s = 0.0

    @ws_authenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        if not await ensure_async(self.authorizer.is_authorized(self, self.current_user, "read", self.auth_resource)):
            raise HTTPError(403)
        try:
            self._history_s = read_number("samples_s", self.get_query_argument("samples_s", "0"), MAX_HISTORY_S)
        except RefusedError as error:
            raise HTTPError(400, error.message) from error
        await super().get(*args, **kwargs)

    def open(self, *args: Any, **kwargs: Any) -> None:
        super().open(*args, **kwargs)
        self._sender = asyncio.ensure_future(self._send())

    def on_message(self, message: str | bytes) -> None:
        """Takes a page's wish for samples or none; commands come by REST, and all else is passed over."""
        if self._page is None or len(message) > MAX_PAGE_MESSAGE_BYTES:
            return
        with contextlib.suppress(ValueError, RecursionError):
            wish = json.loads(message)
            kind = wish.get("kind") if isinstance(wish, dict) else None
            if kind == "pause":
                self._page.pause()
            elif kind == "resume":
                self._page.resume()

    def on_close(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
        super().on_close()

    async def _send(self) -> None:
        with self._hub.page(history_s=self._history_s) as self._page:
            async with contextlib.aclosing(self._page.messages()) as messages:  # type: ignore[type-var]
                async for message in messages:
                    try:
                        # resumes when the socket has taken it: a slow page skips states and samples
                        await self.write_message(message)
                    except WebSocketClosedError:
                        return
        self.close(1001, "the Jupyter server is ending")


class StateHandler(NbgpuHandler):
    """The same state as JSON, once it has settled; with `?settle_s=0` as it is, whatever that is."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "get": Operation(
            "The state, once every pool is reached or found unreachable",
            response=PageState,
            parameters=(
                Parameter("settle_s", "Seconds to wait for that; 0 starts nothing, at most 20", LOOK_UP_DEADLINE_S),
            ),
        )
    }

    @authenticated
    @authorized
    async def get(self) -> None:
        text = self.get_query_argument("settle_s", str(LOOK_UP_DEADLINE_S))
        settle_s = read_number("settle_s", text, LOOK_UP_DEADLINE_S)
        self.finish(json.dumps(await self.hub.settled_state(settle_s)))


class SamplesHandler(NbgpuHandler):
    """The recorded samples, written in pieces as they come."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "get": Operation(
            "The recorded samples of one pool, or of all that are connected",
            response=SamplesMessage,
            parameters=(
                Parameter("history_s", "Of how many seconds, 0 to 3600", MAX_HISTORY_S),
                Parameter(
                    "step_s", "Of each accelerator the last sample of so many seconds; 0: all, at most 3600", 0.0
                ),
                Parameter("pool", "Name of the pool; empty: all", ""),
            ),
        )
    }

    @authenticated
    @authorized
    async def get(self) -> None:
        text = self.get_query_argument("history_s", str(MAX_HISTORY_S))
        history_s = read_number("history_s", text, MAX_HISTORY_S)
        step_s = read_number("step_s", self.get_query_argument("step_s", "0"), MAX_HISTORY_S)
        name = self.get_query_argument("pool", "")
        async with self.hub.in_use():
            if name:
                calls = [await self.hub.link(name).connection(LOOK_UP_DEADLINE_S)]
            else:
                await self.hub.settle(LOOK_UP_DEADLINE_S)
                calls = [link.calls for link in self.hub.links() if link.calls is not None]
            self.set_header("Content-Type", "application/json")
            self.write(f'{{"kind":"samples","pool":{json.dumps(name)},"samples":[')
            separator = ""
            for each in calls if history_s > 0 else []:
                try:
                    async for _, samples in each.recorded_samples(history_s, step_s):
                        self.write(separator + samples)
                        separator = ","
                        await self.flush()
                except PoolLostError:
                    continue  # what has come of it is true all the same
                except StreamClosedError:
                    return
            self.finish("]}")


class RetryHandler(NbgpuHandler):
    """Tries at once to reach a pool that was unreachable."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "post": Operation("Tries at once to reach a pool again, or all of them", body=RetryBody, status=204)
    }

    @authenticated
    @authorized
    async def post(self) -> None:
        self.hub.retry(self.body().get("pool"))
        self.set_status(204)
        self.finish()
