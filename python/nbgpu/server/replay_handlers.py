"""Brings a page the output that cells of its notebook lack, and hears what the notebook's file has by now."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, ClassVar

from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.utils import ensure_async
from tornado.web import HTTPError, authenticated
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from nbgpu.cell_record import source_digest
from nbgpu.server.api import AUTH_RESOURCE, Operation, SavedBody
from nbgpu.server.ending import end_tasks
from nbgpu.server.handlers import NbgpuHandler
from nbgpu.server.hub import LOOK_UP_DEADLINE_S, Hub
from nbgpu.server.notebooks import has_kernel
from nbgpu.server.problems import PoolLostError, RefusedError
from nbgpu.server.recovery import find_unsaved, give_back, note_saved
from nbgpu.server.unsaved import Cell, CellExecution
from nbgpu.server.views import OutputView, ReplayMessage

if TYPE_CHECKING:
    from nbgpu.server.pool_calls import PoolCalls

MAX_CELLS = 10_000
_NORMAL, _TRY_AGAIN = 1000, 1013


class ReplayHandler(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """WebSocket that takes a notebook's cells, and sends what they lack, until it is all there.

    Only what sessions hold is sent that are the notebook's own, by the id of its kernel, which this server has to run,
    and that the agent knows to be the user's.
    """

    auth_resource = AUTH_RESOURCE
    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "get": Operation(
            'WebSocket: the page sends {"kind": "cells", "cells": [{"id", "source"}]} once. It is sent, of each cell'
            " whose last execution in a session of the notebook has output that nobody has noted to be in its file,"
            " that output from its beginning on, and what comes until it ends. Then the server closes with 1000; with"
            " 1013 where a pool was lost meanwhile. A notebook whose kernel is new gets the sessions back that it had"
            " with one that is gone.",
            response=ReplayMessage,
            status=101,
        )
    }

    def initialize(self, hub: Hub) -> None:
        self._hub = hub
        self._kernel_id = ""
        self._sender: asyncio.Task[None] | None = None

    @ws_authenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        if not await ensure_async(self.authorizer.is_authorized(self, self.current_user, "write", self.auth_resource)):
            raise HTTPError(403)
        if not has_kernel(self.settings, args[0]):
            raise HTTPError(404, f"the server has no kernel {args[0]!r:.100}")
        self._kernel_id = args[0]
        await super().get(*args, **kwargs)

    def on_message(self, message: str | bytes) -> None:
        """Takes the cells; anything else, and what comes later, is passed over."""
        cells = read_cells(message)
        if cells is not None and self._sender is None:
            self._sender = asyncio.ensure_future(self._send(cells))

    def on_close(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
        super().on_close()

    async def _send(self, cells: list[Cell]) -> None:
        code = _NORMAL
        with contextlib.suppress(WebSocketClosedError):
            try:
                async with self._hub.in_use():
                    await self._hub.settle(LOOK_UP_DEADLINE_S)
                    await give_back(self._hub, self.settings, self._kernel_id)
                    found = await find_unsaved(self._hub, self._kernel_id, cells)
                    await self._replay_all(found)
            except PoolLostError:
                code = _TRY_AGAIN
            except Exception:  # noqa: BLE001 - the page is to know that there will be nothing more
                self._hub.log_failure("the output of a notebook's cells cannot be shown again")
                code = 1011
            self.close(code)

    async def _replay_all(self, found: list[tuple[PoolCalls, CellExecution]]) -> None:
        tasks = [asyncio.ensure_future(self._replay(*each)) for each in found]
        try:
            await asyncio.gather(*tasks)
        finally:  # where one fails the page asks for all again
            await end_tasks([task for task in tasks if not task.done()], self.log)

    async def _replay(self, calls: PoolCalls, execution: CellExecution) -> None:
        with contextlib.suppress(RefusedError):  # the session was closed meanwhile
            async with contextlib.aclosing(calls.replay(execution.session_id, execution.id)) as pieces:
                async for piece in pieces:
                    message = ReplayMessage(
                        kind="outputs",
                        cell_id=execution.cell_id,
                        request_id=execution.message_id,
                        execution_count=execution.execution_count,
                        outputs=[OutputView(msg_type=each.kind, content=each.content) for each in piece.outputs],
                        dropped=piece.dropped,
                        caught_up=piece.is_caught_up,
                        over=piece.is_over,
                    )
                    await self.write_message(json.dumps(message, separators=(",", ":")))


class SavedHandler(NbgpuHandler):
    """Hears what is saved."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "post": Operation(
            "Notes that the notebook's file has what these cells have put out until now, or that a person cleared it",
            body=SavedBody,
            status=204,
        )
    }

    @authenticated
    @authorized
    async def post(self, kernel_id: str) -> None:
        cell_ids = self.body().get("cell_ids", [])
        if not has_kernel(self.settings, kernel_id):
            raise RefusedError(f"the server has no kernel {kernel_id!r:.100}", None, "no_such_kernel", 404)
        async with self.hub.in_use():
            await self.hub.settle(LOOK_UP_DEADLINE_S)
            await note_saved(self.hub, kernel_id, cell_ids)
        self.set_status(204)
        self.finish()


def read_cells(message: str | bytes) -> list[Cell] | None:
    """Returns the cells that a page tells of; None for anything else."""
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        return None
    cells = value.get("cells") if isinstance(value, dict) and value.get("kind") == "cells" else None
    if not isinstance(cells, list) or len(cells) > MAX_CELLS or not all(isinstance(each, dict) for each in cells):
        return None
    texts = [(each.get("id"), each.get("source")) for each in cells]
    return [Cell(id, source_digest(text)) for id, text in texts if isinstance(id, str) and isinstance(text, str)]
