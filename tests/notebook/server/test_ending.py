"""Tasks end when they are to end, also those that lose a cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from nbgpu.server import ending
from nbgpu.server.ending import end_tasks

pytestmark = pytest.mark.asyncio


async def lose(times: int) -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        times -= 1
        if times < 0:
            return


async def test_a_task_that_loses_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "AGAIN_S", 0.01)
    tasks = [asyncio.create_task(lose(times)) for times in (0, 1, 3)]
    await asyncio.sleep(0)
    await end_tasks([*tasks, None])
    assert all(task.done() for task in tasks)


async def test_what_a_task_raises_is_not_raised_here() -> None:
    async def fail() -> None:
        raise ValueError

    task = asyncio.create_task(fail())
    await end_tasks([task])
    assert task.done()


async def test_a_task_that_never_ends_is_named_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ending, "AGAIN_S", 0.001)
    task = asyncio.create_task(lose(1000), name="a stubborn one")
    await asyncio.sleep(0)
    with caplog.at_level(logging.WARNING):
        await end_tasks([task])
    assert "a stubborn one does not end" in caplog.text
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
