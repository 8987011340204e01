"""Connecting to an agent again: attempts over a link that is down, stalled and back, and what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from fakes.link import Link, link_to
from nbgpu import errors
from nbgpu.client import mending
from nbgpu.client.mending import Mender, pause_s
from nbgpu.client.pool import Pool
from nbgpu_protocol.v1 import pool_pb2, pool_pb2_grpc
from recorded_sessions import DEADLINE_S, until

pytestmark = pytest.mark.asyncio


class Offers(pool_pb2_grpc.PoolServicer):
    async def ListOffers(self, request: pool_pb2.ListOffersRequest, context: object) -> pool_pb2.ListOffersResponse:
        return pool_pb2.ListOffersResponse(offers=[pool_pb2.Offer(type="H100")])


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[int]:
    served = grpc.aio.server()
    pool_pb2_grpc.add_PoolServicer_to_server(Offers(), served)
    port = served.add_insecure_port("127.0.0.1:0")
    await served.start()
    try:
        yield port
    finally:
        await served.stop(None)


def mender_of(link: Link) -> Mender:
    return Mender(lambda: grpc.aio.insecure_channel(link.target, options=[("grpc.use_local_subchannel_pool", 1)]))


@pytest.mark.parametrize(("gone_s", "expected"), [(0.0, 0.1), (9.0, 0.1), (60.0, 0.6), (1e5, 2.0)])
async def test_attempts_follow_each_other_closely_at_first_and_seldom_later(gone_s: float, expected: float) -> None:
    assert pause_s(gone_s) == pytest.approx(expected)


async def test_a_pool_is_as_before_once_its_link_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "FIRST_PAUSE_S", 0.01)
    async with server() as port, link_to(port) as link, Pool(link.target, "token") as pool:
        (offer,) = await pool.list_offers()
        link.take_down()
        with pytest.raises(errors.AgentUnreachableError):
            await pool.list_offers()
        waiting = [asyncio.create_task(pool.mend()) for _ in range(2)]
        await until(lambda: link.refused >= 5)
        assert not any(each.done() for each in waiting)
        link.restore()
        await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE_S)
        assert await pool.list_offers() == [offer]
        await until(lambda: link.connections == 1)


async def test_a_pool_that_is_connected_has_nothing_to_mend() -> None:
    async with server() as port, link_to(port) as link, Pool(link.target, "token") as pool:
        await pool.list_offers()
        channel = pool.channel
        await asyncio.wait_for(pool.mend(), DEADLINE_S)
        assert pool.channel is channel


async def test_who_is_in_a_hurry_need_not_wait_for_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "FIRST_PAUSE_S", 3600.0)
    monkeypatch.setattr(mending, "MAX_PAUSE_S", 3600.0)
    async with server() as port, link_to(port) as link:
        link.take_down()
        mender = mender_of(link)
        connecting = asyncio.create_task(mender.connect())
        await until(lambda: link.refused)
        link.restore()
        mender.hurry()
        channel = await asyncio.wait_for(connecting, DEADLINE_S)
        await channel.close()


async def test_an_attempt_that_nothing_answers_does_not_stand_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "_ATTEMPT_S", 3600.0)
    async with server() as port, link_to(port) as link:
        link.silent = 1
        channel = await asyncio.wait_for(mender_of(link).connect(), DEADLINE_S)
        assert link.silent == 0
        await channel.close()


async def test_who_gives_up_leaves_no_connection() -> None:
    async with server() as port, link_to(port) as link:
        link.stall()
        connecting = asyncio.create_task(mender_of(link).connect())
        await until(lambda: link.connections >= 2)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        link.resume()
        await until(lambda: not link.connections)


async def test_a_pool_that_is_closed_says_so_as_one_that_is_not_reached() -> None:
    async with server() as port:
        pool = Pool(f"127.0.0.1:{port}", "token")
        await pool.list_offers()
        await pool.close()
        for call in (pool.list_offers, pool.list_sessions, pool.handshake):
            with pytest.raises(errors.AgentUnreachableError, match="the connection to the agent is closed"):
                await call()
