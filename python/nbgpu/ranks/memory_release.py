"""Looks whether the accelerators have their memory back when a call has failed."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping

from nbgpu import errors
from nbgpu.client.background import background
from nbgpu.session_client import SessionClient
from nbgpu_protocol.v1 import pool_pb2

_WITHIN_S = 5.0
_HISTORY_S = 3.0
_TOLERANCE_BYTES = 512 << 20
"""What the driver and other processes of the session take and give back meanwhile is of no account."""


def memory_used(client: SessionClient) -> dict[str, int]:
    """Returns the bytes in use by accelerator, as last read; none of simulated ones, which have no memory."""
    held = _real(client)
    if not held:
        return {}
    with contextlib.suppress(errors.Error):
        return background().run(_read(client, held))
    return {}


def verify(client: SessionClient, before: Mapping[str, int]) -> None:
    """Waits until the accelerators use no more memory than before, for a while; says which of them do then."""
    if not before:
        return
    kept: dict[str, int] = {}
    with contextlib.suppress(errors.Error):
        kept = background().run(_wait(client, before))
    for accelerator_id, size_bytes in kept.items():
        text = f"{accelerator_id} still has {size_bytes / (1 << 30):.1f} GiB more in use than before the call"
        print(f"nbgpu: {text}; `%gpu restart` ends all processes of the session", file=sys.stderr, flush=True)


def still_held(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """Returns how many bytes more are in use, for the accelerators where it is more than a little."""
    more = {each: now[each] - before[each] for each in before if each in now}
    return {each: size_bytes for each, size_bytes in more.items() if size_bytes > _TOLERANCE_BYTES}


def _real(client: SessionClient) -> set[str]:
    return {each.id for each in client.info.accelerators if not each.simulated and not each.shared}


def _used(batch: pool_pb2.SampleBatch, held: set[str]) -> dict[str, int]:
    return {
        sample.accelerator_id: sample.memory_used_bytes
        for sample in batch.samples
        if sample.accelerator_id in held and sample.HasField("memory_used_bytes")
    }


async def _read(client: SessionClient, held: set[str]) -> dict[str, int]:
    async for batch in client.pool.watch_samples(history_s=_HISTORY_S):
        return _used(batch, held)
    return {}


async def _wait(client: SessionClient, before: Mapping[str, int]) -> dict[str, int]:
    kept: dict[str, int] = {}

    async def watch() -> None:
        nonlocal kept
        async for batch in client.pool.watch_samples(history_s=0):
            kept = still_held(before, _used(batch, set(before)))
            if not kept:
                return

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(watch(), _WITHIN_S)
    return kept
