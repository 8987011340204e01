"""The hub against a real pool server on loopback: one watch for all pages, and words for all that goes wrong."""

import asyncio
import contextlib
import logging

import pytest

from fakes import pool as fake
from nbgpu.server.hub import Hub
from nbgpu.server.upstream import watch_agent
from nbgpu_protocol.v1 import pool_pb2

LOG = logging.getLogger("test_hub")
DEADLINE_S = 15.0


@pytest.fixture
def pool(monkeypatch):
    with fake.run_fake_pool() as pool:
        monkeypatch.setenv("NBGPU_AGENT_ADDRESS", pool.address)
        monkeypatch.setenv("NBGPU_AGENT_TOKEN", pool.token)
        yield pool


@contextlib.asynccontextmanager
async def running_hub(watch=watch_agent, **options):
    hub = Hub(watch, log=LOG, **{"first_retry_s": 60.0, **options})
    try:
        yield hub
    finally:
        await hub.close()


async def until(states, condition):
    """Returns the first state that meets the condition."""

    async def look():
        async for state in states:
            if condition(state):
                return state
        raise AssertionError("the hub closed")

    return await asyncio.wait_for(look(), DEADLINE_S)


def connected(state):
    return state["link"] == "connected"


def unreachable(state):
    return state["link"] == "unreachable"


async def wait_for_watching(pool, condition):
    await asyncio.to_thread(pool.wait_for_watching, condition)


@pytest.mark.asyncio
async def test_two_pages_share_one_watch_and_both_see_a_change(pool):
    pool.publish(pool_pb2.PoolState(offers=[fake.offer("H100", 8, 8)]))
    async with running_hub() as hub, contextlib.aclosing(hub.states()) as one, contextlib.aclosing(hub.states()) as two:
        for page in (one, two):
            assert (await until(page, connected))["pool"]["offers"][0]["free"] == 8

        pool.publish(pool_pb2.PoolState(offers=[fake.offer("H100", 8, 2)]))

        for page in (one, two):
            await until(page, lambda state: state["pool"]["offers"][0]["free"] == 2)
        assert pool.watches_begun == 1


@pytest.mark.asyncio
async def test_nothing_is_watched_while_there_is_no_page(pool):
    async with running_hub() as hub:
        assert pool.watches_begun == 0
        async with contextlib.aclosing(hub.states()) as one:
            await until(one, connected)
            async with contextlib.aclosing(hub.states()) as two:
                await until(two, connected)
            assert pool.watching == 1
        await wait_for_watching(pool, lambda count: count == 0)

        async with contextlib.aclosing(hub.states()) as again:
            await until(again, connected)
        assert pool.watches_begun == 2


@pytest.mark.asyncio
async def test_a_page_that_comes_later_gets_the_state_at_once(pool):
    async with running_hub() as hub, contextlib.aclosing(hub.states()) as early:
        await until(early, connected)
        async with contextlib.aclosing(hub.states()) as late:
            assert connected(await late.__anext__())


@pytest.mark.asyncio
async def test_a_slow_page_gets_the_newest_state_and_not_every_one(pool):
    async with (
        running_hub() as hub,
        contextlib.aclosing(hub.states()) as fast,
        contextlib.aclosing(hub.states()) as slow,
    ):
        await until(slow, connected)
        for free in range(1, 9):
            pool.publish(pool_pb2.PoolState(offers=[fake.offer("H100", 8, free)]))
            await until(
                fast,
                lambda state: (
                    state["pool"] and state["pool"]["offers"] and state["pool"]["offers"][0]["free"] == free  # noqa: B023
                ),
            )

        assert (await slow.__anext__())["pool"]["offers"][0]["free"] == 8


@pytest.mark.asyncio
async def test_an_agent_that_ends_is_said_and_found_again(pool):
    async with running_hub() as hub, contextlib.aclosing(hub.states()) as page:
        await until(page, connected)

        await asyncio.to_thread(pool.end_watches)

        lost = await until(page, unreachable)
        assert lost["problem"]["message"] == "The agent ended"
        assert lost["pool"] is None
        hub.retry()
        await until(page, connected)


@pytest.mark.asyncio
async def test_it_tries_again_by_itself(pool):
    async with running_hub(first_retry_s=0.01) as hub, contextlib.aclosing(hub.states()) as page:
        await until(page, connected)
        await asyncio.to_thread(pool.end_watches)
        await until(page, unreachable)
        await until(page, connected)


@pytest.mark.asyncio
async def test_a_wrong_token_is_said_with_a_hint(pool, monkeypatch):
    monkeypatch.setenv("NBGPU_AGENT_TOKEN", "wrong")
    async with running_hub() as hub:
        state = await hub.settled_state(DEADLINE_S)
    assert unreachable(state)
    assert "token" in state["problem"]["message"]
    assert "NBGPU_AGENT_TOKEN" in state["problem"]["hint"]


@pytest.mark.asyncio
async def test_another_version_is_said_in_the_agents_words(pool):
    pool.protocol_version = 999
    async with running_hub() as hub:
        state = await hub.settled_state(DEADLINE_S)
    assert state["problem"]["message"] == "the agent speaks protocol 999, the client 1"
    assert state["problem"]["hint"] == "update nbgpu on both sides"


@pytest.mark.asyncio
async def test_a_bug_becomes_words_and_a_log_entry(caplog):
    async def broken(on_progress):
        raise ValueError("odd")
        yield

    async with running_hub(broken) as hub:
        state = await hub.settled_state(DEADLINE_S)
    assert "ValueError: odd" in state["problem"]["message"]
    assert "the watch of the pool failed" in caplog.text


@pytest.mark.asyncio
async def test_progress_is_shown_until_there_is_a_state():
    reported, go_on = asyncio.Event(), asyncio.Event()

    async def slow(on_progress):
        on_progress("Starting this machine's agent")
        reported.set()
        await go_on.wait()
        yield {"node": None, "offers": [], "accelerators": [], "sessions": []}
        await asyncio.Event().wait()

    async with running_hub(slow) as hub, contextlib.aclosing(hub.states()) as page:
        await until(page, lambda state: state["progress"] == "Starting this machine's agent")
        go_on.set()
        assert (await until(page, connected))["progress"] is None


@pytest.mark.asyncio
async def test_a_quiet_pool_is_told_from_a_dead_connection():
    async def quiet(on_progress):
        yield {"node": None, "offers": [], "accelerators": [], "sessions": []}
        await asyncio.Event().wait()

    times = iter(range(1, 1000))
    hub_options = {"keep_alive_s": 0.01, "now": lambda: float(next(times))}
    async with running_hub(quiet, **hub_options) as hub, contextlib.aclosing(hub.states()) as page:
        first = await until(page, connected)
        second = await until(page, connected)
    assert first["pool"] == second["pool"]
    assert second["sent_unix_s"] > first["sent_unix_s"]


@pytest.mark.asyncio
async def test_asking_without_waiting_starts_nothing(pool):
    async with running_hub() as hub:
        assert (await hub.settled_state(0))["link"] == "connecting"
    assert pool.watches_begun == 0


@pytest.mark.asyncio
async def test_closing_ends_the_pages_and_the_watch(pool):
    async with running_hub() as hub:
        page = hub.states()
        await until(page, connected)
        await hub.close()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(page.__anext__(), DEADLINE_S)
    await wait_for_watching(pool, lambda count: count == 0)
