"""Which pool a process uses: the one that the environment names, else this machine's own agent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from nbgpu import errors
from nbgpu.client.embedded import ensure_agent, find_agent, has_ended
from nbgpu.client.pool import Pool
from nbgpu.client.pools import THIS_MACHINE, find_pool
from nbgpu.client.trust import Trust, fetch_trust, is_tls

ADDRESS_VARIABLE = "NBGPU_AGENT_ADDRESS"
TOKEN_VARIABLE = "NBGPU_AGENT_TOKEN"
PIN_VARIABLE = "NBGPU_AGENT_PIN"
"""Of an agent with TLS, whose address begins with `grpcs://`."""


@dataclass(frozen=True)
class PoolAddress:
    """How to reach a pool."""

    address: str
    token: str
    agent_pid: int | None = None
    """Of an agent on this machine; None elsewhere."""
    trust: Trust | None = None
    """By what an agent with TLS is recognised."""

    @property
    def is_embedded(self) -> bool:
        return self.agent_pid is not None

    def is_agent_gone(self) -> bool:
        """Returns whether the agent is known to have ended; False for one that cannot be looked at from here."""
        return self.agent_pid is not None and has_ended(self.agent_pid)


def configured_address() -> PoolAddress | None:
    """Returns the pool that NBGPU_AGENT_ADDRESS and NBGPU_AGENT_TOKEN name, or None.

    Raises:
        AuthenticationError: There is an address without a token, or with what cannot be one.
    """
    address = os.environ.get(ADDRESS_VARIABLE)
    if not address:
        return None
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise errors.AuthenticationError(f"{ADDRESS_VARIABLE} is set to {address}, but {TOKEN_VARIABLE} is not set")
    if not token.isascii() or not token.isprintable():  # gRPC would abort the call in words of its own
        raise errors.AuthenticationError(f"{TOKEN_VARIABLE} holds characters that no token has")
    return PoolAddress(address, token)


async def _recognised(address: PoolAddress) -> PoolAddress:
    """Returns an address of the environment's with what its TLS needs, which NBGPU_AGENT_PIN says.

    Raises:
        UntrustedAgentError: There is no pin, or the agent shows another certificate.
        AgentUnreachableError: It does not answer.
    """
    if not is_tls(address.address):
        return address
    trust = await asyncio.to_thread(fetch_trust, address.address, os.environ.get(PIN_VARIABLE, ""))
    return replace(address, trust=trust)


async def find_address(*, start: bool, on_progress: Callable[[str], None] | None = None) -> PoolAddress | None:
    """Returns the pool to use.

    Args:
        start: Start this machine's agent if it does not run; otherwise None is returned then.
        on_progress: Told in words what takes long.
    """
    configured = configured_address()
    if configured is not None:
        return await _recognised(configured)
    record = await ensure_agent(on_progress=on_progress) if start else await find_agent()
    return PoolAddress(record.address, record.token, record.pid) if record else None


def default_pool_name() -> str:
    """Returns the name of the pool that is used where none is named: an address in the environment, if there is one."""
    return os.environ.get(ADDRESS_VARIABLE) or THIS_MACHINE


async def connect(
    *, start: bool, on_progress: Callable[[str], None] | None = None, pool_name: str | None = None
) -> tuple[Pool, PoolAddress]:
    """Connects to the pool to use, after comparing versions.

    Args:
        start: Start this machine's agent if that is the pool, and it does not run.
        on_progress: Told in words what takes long.
        pool_name: Of a pool that the person added; None: the default one.

    Raises:
        AgentUnreachableError: None runs, and `start` is not set.
        NoSuchPoolError: There is no pool of that name.
    """
    address: PoolAddress | None
    if pool_name is None or pool_name == default_pool_name():
        address = await find_address(start=start, on_progress=on_progress)
    else:
        configured = find_pool(pool_name)
        address = PoolAddress(configured.address, configured.token, trust=configured.trust())
    if address is None:
        raise errors.AgentUnreachableError("no agent runs on this machine", "the first `%%gpu` cell starts one")
    pool = Pool(address.address, address.token, address.trust)
    try:
        await pool.handshake()
    except BaseException:
        await pool.close()
        raise
    return pool, address
