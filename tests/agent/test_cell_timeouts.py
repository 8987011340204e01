"""Cells that run for longer than they may: interrupted, told of, and ended with their kernel if nothing else helps."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from nbgpu_agent import cell_timeouts
from nbgpu_agent.cell_timeouts import BoundedCell, is_over_within, timeout_of
from session_clients import DEADLINE_S, Client, connect, run_service

SLEEPS = """
import time
def waits_here():
    print('begun', flush=True)
    time.sleep(600)
waits_here()
"""
STUBBORN = """
import time
while True:
    try:
        print('begun', flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print('no', flush=True)
"""
SAVES = """
import time
try:
    print('begun', flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print('saved')
"""


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"nbgpu": {"timeout_s": 1.5}}, 1.5),
        ({"nbgpu": {"timeout_s": 600}}, 600.0),
        ({"nbgpu": {"timeout_s": 0}}, None),
        ({"nbgpu": {"timeout_s": True}}, None),
        ({"nbgpu": {"timeout_s": "10m"}}, None),
        ({"nbgpu": {"timeout_s": float("inf")}}, None),
        ({"nbgpu": None}, None),
        ({}, None),
        ([], None),
    ],
)
def test_what_a_request_says_of_its_limit(metadata: object, expected: float | None) -> None:
    assert timeout_of(json.dumps(metadata).encode()) == expected
    assert timeout_of(b"no JSON") is None


class Limits:
    """Stands in for time: a limit is over when the test says so, and not before."""

    def __init__(self) -> None:
        self.over: set[float] = set()
        self.asked: list[float] = []

    async def __call__(self, cell: BoundedCell, timeout_s: float) -> bool:
        self.asked.append(timeout_s)
        while not cell.over and timeout_s not in self.over:
            await cell.changed_within(0.02)
        return cell.over


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    limits = Limits()
    monkeypatch.setattr(cell_timeouts, "is_over_within", limits)
    return limits


async def begun(client: Client, request: str) -> None:
    await client.until(lambda: any("begun" in each.content.get("text", "") for each in client.messages_of(request)))


@pytest.mark.asyncio
async def test_a_cell_is_interrupted_when_its_time_is_over(tmp_path: Path, limits: Limits) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            request = await client.execute(SLEEPS, count=4, timeout_s=10)
            behind = await client.execute("print('in time')", timeout_s=20)
            await begun(client, request)
            assert limits.asked == [10]  # one that waits has its own time, from when it begins
            limits.over.add(10)
            assert (await client.result(request)).reply["ename"] == "KeyboardInterrupt"
            event = (await client.event("cell_timed_out")).cell_timed_out
            assert (event.request_id, event.timeout_s) == (request, 10)
            assert "in waits_here" in event.processes[0].dump
            assert list(event.cells.values()) == [4]
            assert (await client.result(behind)).text() == "in time\n"
            assert (await client.run("print('next')")).text() == "next\n"
            assert 20 in limits.asked
            assert session.info().executing is None
            assert [each for each in client.events if each.WhichOneof("body") == "cell_timed_out"] == []


@pytest.mark.asyncio
async def test_nobody_need_be_there(tmp_path: Path, limits: Limits) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            request = await client.execute(SLEEPS, timeout_s=10)
            await begun(client, request)
        limits.over.add(10)
        deadline = time.monotonic() + DEADLINE_S
        while session.info().executing is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        async with connect(service) as client:  # and sees what became of it
            await client.event("cell_timed_out")
            assert (await client.result(request)).reply["ename"] == "KeyboardInterrupt"


@pytest.mark.asyncio
async def test_a_cell_that_does_not_stop_loses_its_kernel(tmp_path: Path, limits: Limits) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            request = await client.execute(STUBBORN, timeout_s=10)
            await begun(client, request)
            limits.over.add(10)
            await client.until(lambda: any("no\n" in m.content.get("text", "") for m in client.messages_of(request)))
            assert session.info().executing is not None
            limits.over.add(cell_timeouts.GRACE_S)
            assert (await client.ended()).exit.asked_for is True
            assert session.info().phase.value == "ready"
            await client.restart()
            assert (await client.run("print('fresh')")).text() == "fresh\n"


@pytest.mark.asyncio
async def test_a_cell_may_save_what_it_has(tmp_path: Path, limits: Limits) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            request = await client.execute(SAVES, timeout_s=10)
            await begun(client, request)
            limits.over.add(10)
            result = await client.result(request)
            assert result.reply["status"] == "ok"
            assert "saved\n" in result.text()


class Cell:
    """A cell that ends when a test says so."""

    request_id = "r"
    over = False

    async def changed_within(self, timeout_s: float) -> None:
        await asyncio.sleep(min(timeout_s, 0.01))


@pytest.mark.asyncio
async def test_waiting_for_the_end_of_a_cell() -> None:
    cell = Cell()
    assert await is_over_within(cell, 0.05) is False
    cell.over = True
    assert await is_over_within(cell, 3600) is True
