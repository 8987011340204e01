"""Connects to an agent again after the link to it was cut: closely at first, and seldom when it has been gone for long.

gRPC's own attempts keep away from an agent for up to two seconds after one that failed, whatever has changed since. So
each attempt here has a channel of its own, which knows nothing of the ones before.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import grpc
import grpc.aio

FIRST_PAUSE_S = 0.1
"""Between attempts: half a round trip of a link on which one is noticed. An attempt that is refused costs 1 ms."""
PAUSE_SHARE = 0.01
"""Of the time for which the link has been gone: so much later than it could is it found again."""
MAX_PAUSE_S = 2.0
_ATTEMPT_S = 5.0
"""How long an attempt may take: a link that is slow has to say hello, and ask for a certificate."""
_OVERLAP_S = 0.5
"""An attempt that nothing answers is joined by another after this time: what it has sent may be lost."""
_AT_ONCE = 10


def pause_s(gone_s: float) -> float:
    """Returns the seconds between two attempts when the link has been gone for so long."""
    return min(max(FIRST_PAUSE_S, PAUSE_SHARE * gone_s), MAX_PAUSE_S)


class Mender:
    """Finds an agent again. For one event loop.

    Args:
        new_channel: Makes a channel to the agent that shares nothing with others.
    """

    def __init__(self, new_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._new_channel = new_channel
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        """Has the next attempt begin now: somebody waits, or something says that the link is there again."""
        self._hurried.set()

    async def connect(self) -> grpc.aio.Channel:
        """Returns a channel that stands, however long that takes. It is the caller's."""
        began_s = time.monotonic()
        attempts: set[asyncio.Task[grpc.aio.Channel | None]] = set()
        try:
            while True:
                started_s = time.monotonic()
                self._hurried.clear()
                if len(attempts) < _AT_ONCE:
                    attempts.add(asyncio.create_task(self._attempt()))
                pause = pause_s(started_s - began_s)
                done, attempts = await asyncio.wait(
                    attempts, timeout=max(pause, _OVERLAP_S), return_when=asyncio.FIRST_COMPLETED
                )
                channels = [channel for each in done if (channel := each.result()) is not None]
                for spare in channels[1:]:
                    await spare.close()
                if channels:
                    return channels[0]
                await self._pause(started_s + pause - time.monotonic())
        finally:
            await _abandon(attempts)

    async def _pause(self, left_s: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._hurried.wait(), max(left_s, 0.0))

    async def _attempt(self) -> grpc.aio.Channel | None:
        channel = self._new_channel()
        try:
            stands = await asyncio.wait_for(_stands(channel), _ATTEMPT_S)
        except asyncio.TimeoutError:
            stands = False
        except BaseException:
            await channel.close()
            raise
        if stands:
            return channel
        await channel.close()
        return None


async def _stands(channel: grpc.aio.Channel) -> bool:
    """Waits until the channel is connected, which it says, or has failed to."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            return False
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
    return True


async def _abandon(attempts: set[asyncio.Task[grpc.aio.Channel | None]]) -> None:
    for each in attempts:
        each.cancel()
    for found in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(found, grpc.aio.Channel):  # it was quicker than its end
            await found.close()
