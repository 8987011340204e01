"""Looks at the pools: whether they answer, in which versions, and by which clock. Starts no agent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from nbgpu import errors, words
from nbgpu.client.discovery import PoolAddress, default_pool_name, find_address
from nbgpu.client.pool import Pool
from nbgpu.client.pools import PoolsFileError, read_pools
from nbgpu.doctor.findings import Finding, fail, ok, warn
from nbgpu_protocol.v1 import pool_pb2

ANSWER_TIMEOUT_S = 10.0
CLOCKS_APART_S = 5.0
_STARTS_ONE = "the first `%%gpu` cell, or `nbgpu agent start`, starts one"


async def look_at_pools() -> AsyncIterator[Finding]:
    """Yields what is found of every pool."""
    try:
        address = await find_address(start=False)
    except errors.Error as error:
        yield fail("pool", f"{default_pool_name()}: {error.message()}", error.hint or "see `nbgpu pool list`")
    else:
        if address is None:
            yield ok("pool", f"no agent runs on this machine; {_STARTS_ONE}")
        else:
            yield await look_at_pool(default_pool_name(), address)
    try:
        configured = read_pools()
    except PoolsFileError as error:
        yield fail("pools", error.message(), error.hint)
        return
    for pool in configured:
        yield await look_at_pool(pool.name, PoolAddress(pool.address, pool.token, trust=pool.trust()))


_ISOLATIONS = {
    pool_pb2.ISOLATION_OS_USERS: "; sessions of its users run as users of the operating system of their own",
    pool_pb2.ISOLATION_BUBBLEWRAP: "; sessions of its users run in sandboxes of bubblewrap's",
}


async def look_at_pool(name: str, address: PoolAddress) -> Finding:
    """Says whether a pool answers, speaks this version, and has a clock like this machine's."""
    try:
        async with Pool(address.address, address.token, address.trust) as pool:
            return await asyncio.wait_for(_ask(name, pool), ANSWER_TIMEOUT_S)
    except asyncio.TimeoutError:
        hint = "is the agent running, and the tunnel to it open?"
        return fail("pool", f"{name} did not answer within {ANSWER_TIMEOUT_S:g} s", hint)
    except errors.Error as error:
        return fail("pool", f"{name}: {error.message()}", error.hint or "see `nbgpu pool list`")


async def _ask(name: str, pool: Pool) -> Finding:
    answer = await pool.handshake()
    began_s = time.time()
    async with contextlib.aclosing(pool.watch()) as states:  # type: ignore[type-var]
        state = await anext(aiter(states))
    middle_s = (began_s + time.time()) / 2
    offered = ", ".join(f"{each.type} {words.offer_in_words(each)}" for each in state.offers) or "nothing"
    text = f"{name} answers, on {answer.node.hostname} with nbgpu {answer.agent_version}: {offered}"
    apart_s = state.time_unix_s - middle_s if state.time_unix_s else 0.0
    if abs(apart_s) > CLOCKS_APART_S:
        side = "ahead of" if apart_s > 0 else "behind"
        return warn(
            "pool",
            f"{text}; its clock is {abs(apart_s):.0f} s {side} this machine's",
            "set both by NTP, as `timedatectl set-ntp true` does: ages and times are wrong until then",
        )
    if answer.isolation_problem:
        hint = f"for the agent's owner: {answer.isolation_hint}"
        return warn("pool", f"{text}; {answer.isolation_problem}", hint)
    return ok("pool", f"{text}{_ISOLATIONS.get(answer.isolation, '')}")
