"""What a page has done with pools: list, add, try, remove."""

from __future__ import annotations

import asyncio
import importlib
import json
from typing import ClassVar

from jupyter_server.auth.decorator import authorized
from tornado.web import authenticated

from nbgpu.server.api import Operation, PoolBody, PoolsBody, PoolSummary
from nbgpu.server.handlers import NbgpuHandler
from nbgpu.server.hub import default_target
from nbgpu.server.problems import RefusedError
from nbgpu.server.views import PoolTestView


async def _import_calls() -> None:
    await asyncio.to_thread(importlib.import_module, "nbgpu.server.pool_calls")


class PoolsHandler(NbgpuHandler):
    """Lists and adds pools. Tokens are taken, and never told."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "get": Operation("The pools that there are", response=PoolsBody),
        "post": Operation("Adds a pool, in the place of one that has its name", body=PoolBody, status=204),
    }

    @authenticated
    @authorized
    async def get(self) -> None:
        await self.hub.look_for_pools()
        summaries = [
            PoolSummary(
                name=link.name,
                address=link.target.address,
                embedded=link.target.embedded,
                removable=link.target.removable,
            )
            for link in self.hub.links()
        ]
        self.finish(json.dumps(PoolsBody(pools=summaries)))

    @authenticated
    @authorized
    async def post(self) -> None:
        await _import_calls()
        from nbgpu.server import pool_calls

        candidate = pool_calls.read_candidate(self.body())
        if candidate.name == default_target().name:
            raise RefusedError(f"{candidate.name!r} is the name of the default pool", "choose another name")
        await pool_calls.add_pool(candidate)
        await self.hub.look_for_pools()
        self.set_status(204)
        self.finish()


class PoolTestHandler(NbgpuHandler):
    """Tries a pool before it is added, or one that was."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "post": Operation(
            "Tries to reach a pool by its address and token; without an address, the one of that name",
            body=PoolBody,
            response=PoolTestView,
        )
    }

    @authenticated
    @authorized
    async def post(self) -> None:
        await _import_calls()
        from nbgpu.server import pool_calls

        self.finish(json.dumps(await pool_calls.test_pool(pool_calls.read_candidate(self.body()))))


class PoolHandler(NbgpuHandler):
    """Removes a pool."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "delete": Operation("Removes a pool that was added; its sessions go on", status=204)
    }

    @authenticated
    @authorized
    async def delete(self, name: str) -> None:
        if name == default_target().name:
            raise RefusedError(f"{name!r} is the default pool, and cannot be removed", None, "not_removable", 409)
        await _import_calls()
        from nbgpu.server import pool_calls

        await asyncio.to_thread(pool_calls.remove_pool, name)
        await self.hub.look_for_pools()
        self.set_status(204)
        self.finish()
