"""Which kernels are held ready, with kernels that are none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nbgpu_agent.errors import KernelFailedError
from nbgpu_agent.spare_kernels import SpareKernels

pytestmark = pytest.mark.asyncio

DEADLINE_S = 60


class FakeKernel:
    """Honours what is asked of a spare kernel."""

    def __init__(self, python: str) -> None:
        self.python = python
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.end_asked_for = False
        self.may_be_removed = asyncio.Event()

    @property
    def alive(self) -> bool:
        return not self.ended.done()

    async def end(self, *, grace_s: float) -> None:
        self.end_asked_for = True
        if not self.ended.done():
            self.ended.set_result(None)
        await self.may_be_removed.wait()


class Starts:
    """Starts kernels at once."""

    def __init__(self) -> None:
        self.started: list[FakeKernel] = []
        self.failing = ""

    async def __call__(self, python: str) -> Any:
        await asyncio.sleep(0)
        if python == self.failing:
            raise KernelFailedError("it does not start")
        self.started.append(FakeKernel(python))
        return self.started[-1]

    def of(self, python: str) -> list[FakeKernel]:
        return [each for each in self.started if each.python == python]


async def until(condition: Callable[[], object]) -> None:
    async def poll() -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), DEADLINE_S)


async def test_one_that_is_taken_while_another_is_ended_is_nobody_elses() -> None:
    starts = Starts()
    spares = SpareKernels(2, "old", starts)
    spares.replenish()
    await until(lambda: len(spares) == 2)
    first, second = starts.started
    spares.replenish("new")
    await until(lambda: first.end_asked_for)
    assert spares.take("old") is second
    first.may_be_removed.set()
    await until(lambda: len(spares) == 2)
    assert not second.end_asked_for
    assert len(starts.of("new")) == 2
    await spares.close()


async def test_one_that_ends_is_replaced_and_never_given_away() -> None:
    starts = Starts()
    spares = SpareKernels(1, "python", starts)
    spares.replenish()
    await until(lambda: len(spares) == 1)
    (first,) = starts.started
    first.may_be_removed.set()
    first.ended.set_result(None)
    assert spares.take("python") is None
    await until(lambda: len(starts.started) == 2 and len(spares) == 1)
    assert spares.take("python") is starts.started[1]
    assert spares.take("python") is None
    await spares.close()


async def test_starts_that_fail_end_when_another_interpreter_is_asked_for() -> None:
    starts = Starts()
    starts.failing = "broken"
    spares = SpareKernels(1, "broken", starts)
    spares.replenish()
    spares.replenish("python")
    await until(lambda: len(spares) == 1)
    assert spares.take("broken") is None
    assert spares.take("python") is starts.started[0]
    await spares.close()
    spares.replenish()
    assert len(starts.started) == 1
