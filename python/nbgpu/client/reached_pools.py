"""The pools that a command in the terminal looks at: all that there are, or the one that is named."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from nbgpu import errors
from nbgpu.client.discovery import connect, default_pool_name
from nbgpu.client.pool import Pool
from nbgpu.client.pools import read_pools
from nbgpu_protocol.v1 import pool_pb2


@dataclass(frozen=True)
class ReachedPools:
    """Connections by the names of pools, the default one first, and why others cannot be reached."""

    pools: Mapping[str, Pool]
    problems: Mapping[str, errors.Error] = field(default_factory=dict)

    async def offers(self) -> list[tuple[str, pool_pb2.Offer]]:
        """Returns what each pool offers, with the name of the pool."""
        return [(name, offer) for name, pool in self.pools.items() for offer in await pool.list_offers()]

    async def sessions(self) -> list[tuple[str, pool_pb2.SessionInfo]]:
        """Returns the sessions of each pool, with the name of the pool."""
        return [(name, info) for name, pool in self.pools.items() for info in await pool.list_sessions()]

    async def find(self, prefix: str) -> tuple[Pool, pool_pb2.SessionInfo]:
        """Returns the session whose id begins so, and its pool.

        Raises:
            NoSuchSessionError: None has it, or more than one.
        """
        matching = [(self.pools[name], info) for name, info in await self.sessions() if info.id.startswith(prefix)]
        if len(matching) != 1:
            many = "more than one session" if matching else "no session"
            text = f"{many} has an id that begins with {prefix}"
            if not matching and self.problems:
                text += f", where {', '.join(self.problems)} cannot be asked"
            raise errors.NoSuchSessionError(text, "list them by `nbgpu sessions`")
        return matching[0]


@contextlib.asynccontextmanager
async def reach_pools(name: str | None, *, start: bool, tell: Callable[[str], None]) -> AsyncIterator[ReachedPools]:
    """Connects to the pools, at once, and disconnects at the end.

    Args:
        name: Of the only one to look at; None: all. One of all that cannot be reached is told of, and passed over.
        start: Start this machine's agent if it does not run; it is passed over otherwise where there are other pools.
        tell: Told in words what takes long, and what cannot be reached.

    Raises:
        NoSuchPoolError: No pool has that name.
        AgentUnreachableError: The one that is named, or all, cannot be reached.
    """
    default = default_pool_name()
    names = [default, *(pool.name for pool in read_pools())] if name is None else [name]

    async def connected(each: str) -> Pool:
        pool_name = None if each == default else each
        pool, _ = await connect(start=start, on_progress=lambda text: tell(f"{text} …"), pool_name=pool_name)
        return pool

    answers = await asyncio.gather(*map(connected, names), return_exceptions=True)
    pools = {each: answer for each, answer in zip(names, answers, strict=True) if isinstance(answer, Pool)}
    try:
        problems: dict[str, errors.Error] = {}
        for each, answer in zip(names, answers, strict=True):
            if isinstance(answer, errors.Error) and pools:
                problems[each] = answer
                tell(f"nbgpu: pool {each} is left out: {answer.message()}")
            elif isinstance(answer, BaseException):
                raise answer
        yield ReachedPools(pools, problems)
    finally:
        for pool in pools.values():
            await pool.close()
