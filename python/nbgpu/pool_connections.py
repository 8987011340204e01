"""This process's connections to pools: the default one and those that the person added, made when they are needed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from nbgpu import errors
from nbgpu.client.discovery import PoolAddress, connect, default_pool_name
from nbgpu.client.pool import Pool
from nbgpu.client.pool_choice import choose_pool
from nbgpu.client.pools import PoolsFileError, read_pools
from nbgpu.spec import Spec
from nbgpu_protocol.v1 import pool_pb2

OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class _Connection:
    pool: Pool
    address: PoolAddress


class PoolConnections:
    """Connections by the pools' names. For the background loop.

    A pool that is not reached is passed over where several are asked, and is an error where it alone is meant.
    """

    def __init__(self) -> None:
        self._connections: dict[str, _Connection] = {}

    async def get(self, name: str | None = None, *, start: bool = True, on_progress: OnProgress | None = None) -> Pool:
        """Returns the connection to a pool, made when it is first needed, and again when its agent is gone.

        Args:
            name: None: the default pool.
            start: Start this machine's agent if that is the pool, and it does not run.
            on_progress: Told what takes long.

        Raises:
            NoSuchPoolError: There is no pool of that name.
            AgentUnreachableError: It does not answer.
        """
        name = name or default_pool_name()
        known = self._connections.get(name)
        if known is not None and not known.address.is_agent_gone():
            return known.pool
        pool, address = await connect(start=start, on_progress=on_progress, pool_name=name)
        current = self._connections.get(name)
        if current is not None:
            if (current.address.address, current.address.token) == (address.address, address.token):
                # An agent that came in the place of another: what is open on the connection goes on.
                await pool.close()
                pool = current.pool
            else:
                await current.pool.close()
        self._connections[name] = _Connection(pool, address)
        return pool

    def is_agent_gone(self, pool: Pool) -> bool:
        """Returns whether the agent of a pool is known to have ended."""
        address = self.address_of(pool)
        return address is None or address.is_agent_gone()

    async def revive(self, pool: Pool) -> None:
        """Has an agent in the place of one of this machine's that is gone.

        Raises:
            AgentUnreachableError: The pool is not this machine's, or it is reached in another way by now.
            AgentStartError: It did not start.
        """
        name = next((name for name, each in self._connections.items() if each.pool is pool), None)
        if name is None or await self.get(name) is not pool:
            raise errors.AgentUnreachableError("the agent is gone")

    def address_of(self, pool: Pool) -> PoolAddress | None:
        """Returns how a pool was reached; None for one that is no longer connected."""
        return next((each.address for each in self._connections.values() if each.pool is pool), None)

    def names(self) -> list[str]:
        """Returns the names of all pools, the default one first. Reads a small file."""
        default = default_pool_name()
        try:
            added = [each.name for each in read_pools()]
        except PoolsFileError:  # what only the default pool is needed for goes on; `nbgpu pool list` says it
            added = []
        return [default, *(name for name in added if name != default)]

    async def all(self, *, start: bool = False) -> dict[str, Pool]:
        """Returns the pools that are reached, by their names, the default one first.

        Args:
            start: Start this machine's agent if it does not run.
        """
        names = self.names()
        found = await asyncio.gather(
            *(self.get(name, start=start and name == names[0]) for name in names), return_exceptions=True
        )
        reached: dict[str, Pool] = {}
        for name, each in zip(names, found, strict=True):
            if isinstance(each, Pool):
                reached[name] = each
            elif not isinstance(each, errors.Error) or len(names) == 1:
                raise each
        return reached

    async def choose(self, spec: Spec, *, on_progress: OnProgress | None = None) -> Pool:
        """Returns the pool to ask for a spec: the first that could grant it now, else that ever could.

        Where none ever could that is the default one, which says so in its own words.
        """
        if len(self.names()) > 1:
            await self.get(on_progress=on_progress)
            pools = await self.all()
            offers = {name: await self._offers(pool) for name, pool in pools.items()}
            if (name := choose_pool(spec, offers)) is not None:
                return pools[name]
        return await self.get(on_progress=on_progress)

    async def sessions_of(self, notebook_id: str) -> list[tuple[Pool, pool_pb2.SessionInfo]]:
        """Returns the sessions of a notebook that are ready, in all pools that are reached; the one it uses first."""
        found = []
        for pool in (await self.all()).values():
            with contextlib.suppress(errors.InfrastructureError):
                found += [
                    (pool, info)
                    for info in await pool.list_sessions()
                    if notebook_id and info.notebook_id == notebook_id and info.phase == pool_pb2.READY
                ]
        return sorted(found, key=lambda each: (each[1].attached_unix_s, each[1].last_active_unix_s), reverse=True)

    async def choose_session(
        self, pool: Pool, session_id: str, notebook_id: str, notebook_name: str, notebook_key: str = ""
    ) -> None:
        """Tells the agents which session the notebook uses from now on."""
        if not notebook_id:
            return
        await pool.attach_session(session_id, notebook_id, notebook_name, notebook_key)
        if len(self.names()) > 1:
            others = {id(other): other for other, _ in await self.sessions_of(notebook_id) if other is not pool}
            for other in others.values():
                with contextlib.suppress(errors.InfrastructureError):
                    await other.attach_session("", notebook_id)

    async def close(self) -> None:
        connections, self._connections = self._connections, {}
        for each in connections.values():
            await each.pool.close()

    @staticmethod
    async def _offers(pool: Pool) -> list[pool_pb2.Offer]:
        try:
            return await pool.list_offers()
        except errors.InfrastructureError:
            return []
