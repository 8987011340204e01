"""The hub against a real pool server on loopback: one connection for all pages, and words for all that goes wrong."""

import asyncio
import contextlib
import json
import logging
import socket

import pytest

from fakes import pool as fake
from nbgpu.server import hub as hub_module
from nbgpu.server.hub import Hub
from nbgpu.server.page import MAX_WAITING_READINGS
from nbgpu.server.pool_link import PoolTarget, connect_to
from nbgpu.server.problems import PoolLostError
from nbgpu_protocol.v1 import pool_pb2

LOG = logging.getLogger("test_hub")
DEADLINE_S = 60.0


@pytest.fixture
def pool(monkeypatch):
    with fake.run_fake_pool() as pool:
        monkeypatch.setenv("NBGPU_AGENT_ADDRESS", pool.address)
        monkeypatch.setenv("NBGPU_AGENT_TOKEN", pool.token)
        yield pool


async def no_pools():
    return []


@contextlib.asynccontextmanager
async def running_hub(**options):
    hub = Hub(log=LOG, **{"first_retry_s": 60.0, "find_pools": no_pools, **options})
    try:
        yield hub
    finally:
        await hub.close()


@contextlib.asynccontextmanager
async def open_page(hub, **options):
    with hub.page(**{"samples": False, **options}) as page:
        async with contextlib.aclosing(messages_of(page)) as messages:
            yield messages


async def messages_of(page):
    async with contextlib.aclosing(page.messages()) as texts:
        async for text in texts:
            yield json.loads(text)


async def until(messages, condition):
    """Returns the first message that meets the condition."""

    async def look():
        async for message in messages:
            if condition(message):
                return message
        raise AssertionError("the hub closed")

    return await asyncio.wait_for(look(), DEADLINE_S)


def is_state(message, link, position=0):
    return (
        message["kind"] == "state" and len(message["pools"]) > position and message["pools"][position]["link"] == link
    )


def connected(message):
    return is_state(message, "connected")


def unreachable(message):
    return is_state(message, "unreachable")


def is_samples(message):
    return message["kind"] == "samples"


def free_is(free):
    return lambda message: connected(message) and message["pools"][0]["offers"][0]["free"] == free


async def wait_for_watching(pool, condition):
    await asyncio.to_thread(pool.wait_for_watching, condition)


def sample(time_unix_s, accelerator="a", **fields):
    return pool_pb2.Sample(accelerator_id=accelerator, time_unix_s=time_unix_s, **fields)


@pytest.mark.asyncio
async def test_two_pages_share_one_watch_and_both_see_a_change(pool):
    pool.publish(pool_pb2.PoolState(offers=[fake.offer("H100", 8, 8)]))
    async with running_hub() as hub, open_page(hub) as one, open_page(hub) as two:
        for page in (one, two):
            assert (await until(page, connected))["pools"][0]["offers"][0]["free"] == 8

        pool.publish(pool_pb2.PoolState(offers=[fake.offer("H100", 8, 2)]))

        for page in (one, two):
            await until(page, free_is(2))
        assert pool.watches_begun == 1


@pytest.mark.asyncio
async def test_nothing_is_watched_while_there_is_no_page(pool):
    async with running_hub() as hub:
        assert pool.watches_begun == 0
        async with open_page(hub) as one:
            await until(one, connected)
            async with open_page(hub) as two:
                await until(two, connected)
            assert pool.watching == 1
        await wait_for_watching(pool, lambda count: count == 0)

        async with open_page(hub) as again:
            await until(again, connected)
        assert pool.watches_begun == 2


@pytest.mark.asyncio
async def test_a_page_that_comes_later_gets_the_state_at_once(pool):
    async with running_hub() as hub, open_page(hub) as early:
        await until(early, connected)
        async with open_page(hub) as late:
            assert connected(await late.__anext__())


@pytest.mark.asyncio
async def test_a_slow_page_gets_the_newest_state_and_not_every_one(pool):
    async with running_hub() as hub, open_page(hub) as fast, open_page(hub) as slow:
        await until(slow, connected)
        for free in range(1, 9):
            pool.publish(pool_pb2.PoolState(offers=[fake.offer("H100", 8, free)]))
            await until(fast, lambda m: connected(m) and m["pools"][0]["offers"] and free_is(free)(m))  # noqa: B023

        assert free_is(8)(await slow.__anext__())


@pytest.mark.asyncio
async def test_an_agent_that_ends_is_said_and_found_again(pool):
    async with running_hub() as hub, open_page(hub) as page:
        await until(page, connected)

        await asyncio.to_thread(pool.end_watches)

        lost = (await until(page, unreachable))["pools"][0]
        assert lost["problem"]["message"] == "The agent ended"
        assert (lost["sessions"], lost["accelerators"], lost["latency_ms"]) == ([], [], None)
        hub.retry()
        assert (await until(page, connected))["pools"][0]["latency_ms"] > 0


@pytest.mark.asyncio
async def test_it_tries_again_by_itself(pool):
    async with running_hub(first_retry_s=0.01) as hub, open_page(hub) as page:
        await until(page, connected)
        await asyncio.to_thread(pool.end_watches)
        await wait_for_watching(pool, lambda count: count == 1)
        assert pool.watches_begun >= 2
        pool.publish(pool_pb2.PoolState(offers=[fake.offer("H100", 8, 3)]))
        await until(page, lambda m: connected(m) and m["pools"][0]["offers"] and free_is(3)(m))


@pytest.mark.asyncio
async def test_a_wrong_token_is_said_with_a_hint(pool, monkeypatch):
    monkeypatch.setenv("NBGPU_AGENT_TOKEN", "wrong")
    async with running_hub() as hub:
        state = await hub.settled_state(DEADLINE_S)
    assert unreachable(state)
    assert "token" in state["pools"][0]["problem"]["message"]
    assert "NBGPU_AGENT_TOKEN" in state["pools"][0]["problem"]["hint"]


@pytest.mark.asyncio
async def test_another_version_is_said_in_the_agents_words(pool):
    pool.protocol_version = 999
    async with running_hub() as hub:
        state = await hub.settled_state(DEADLINE_S)
    problem = state["pools"][0]["problem"]
    assert problem["message"] == "the agent speaks protocol 999, the client 1"
    assert problem["hint"] == "update nbgpu on both sides"


@pytest.mark.asyncio
async def test_a_bug_becomes_words_and_a_log_entry(caplog):
    @contextlib.asynccontextmanager
    async def broken(on_progress):
        raise ValueError("odd")
        yield

    async with running_hub(connect=lambda target: broken) as hub:
        state = await hub.settled_state(DEADLINE_S)
    assert "ValueError: odd" in state["pools"][0]["problem"]["message"]
    assert "the watch of this machine failed" in caplog.text


class QuietCalls:
    """A connection on which the pool says one thing, and then nothing."""

    address = "quiet"
    embedded = False

    async def latency_ms(self):
        return 1.0

    async def states(self):
        yield {"node": None, "offers": [], "accelerators": [], "sessions": self.sessions()}
        await asyncio.Event().wait()

    def sessions(self):
        return []


def quiet(calls):
    @contextlib.asynccontextmanager
    async def connect(on_progress):
        yield calls

    return lambda target: connect


@pytest.mark.asyncio
async def test_progress_is_shown_until_there_is_a_state():
    go_on = asyncio.Event()

    @contextlib.asynccontextmanager
    async def slow(on_progress):
        on_progress("Starting this machine's agent")
        await go_on.wait()
        yield QuietCalls()

    async with running_hub(connect=lambda target: slow) as hub, open_page(hub) as page:
        await until(page, lambda state: state["pools"][0]["progress"] == "Starting this machine's agent")
        go_on.set()
        assert (await until(page, connected))["pools"][0]["progress"] is None


@pytest.mark.asyncio
async def test_a_quiet_pool_is_told_from_a_dead_connection():
    times = iter(range(1, 10000))
    options = {"keep_alive_s": 0.01, "now": lambda: float(next(times))}
    async with running_hub(connect=quiet(QuietCalls()), **options) as hub, open_page(hub) as page:
        first = await until(page, connected)
        second = await until(page, lambda state: state["sent_unix_s"] > first["sent_unix_s"])
    assert connected(second)


@pytest.mark.asyncio
async def test_what_a_session_has_used_is_counted_on_between_two_states():
    class Leased(QuietCalls):
        def sessions(self):
            held = [{"shared": False}, {"shared": False}]
            used = {"accelerator_seconds": 10.0, "cost": 1.0, "cost_per_hour": 3600.0}
            return [
                {"id": "s", "notebook_id": None, "accelerators": held, **used},
                {"id": "c", "notebook_id": None, "accelerators": [{"shared": True}], **used},
            ]

    async with running_hub(connect=quiet(Leased()), keep_alive_s=0.01) as hub, open_page(hub) as page:
        await until(page, connected)
        leased, shared = (await until(page, connected))["pools"][0]["sessions"]
    used_s = (leased["accelerator_seconds"] - 10.0) / 2
    assert used_s > 0
    assert leased["cost"] == pytest.approx(1.0 + used_s)
    assert (shared["accelerator_seconds"], shared["cost"]) == (10.0, 1.0)


@pytest.mark.asyncio
async def test_asking_without_waiting_starts_nothing(pool):
    async with running_hub() as hub:
        assert is_state(await hub.settled_state(0), "connecting")
    assert pool.watches_begun == 0


@pytest.mark.asyncio
async def test_closing_ends_the_pages_and_the_watch(pool):
    async with running_hub() as hub:
        with hub.page(samples=False) as page:
            messages = messages_of(page)
            await until(messages, connected)
            await hub.close()
            with pytest.raises(StopAsyncIteration):
                await asyncio.wait_for(messages.__anext__(), DEADLINE_S)
    await wait_for_watching(pool, lambda count: count == 0)


# -- Samples


@pytest.mark.asyncio
async def test_a_page_gets_what_is_recorded_and_then_what_is_new_without_a_gap(pool):
    pool.read([sample(1.0, utilisation_percent=5.0), sample(1.0, "b")])
    pool.read([sample(2.0)])
    async with running_hub() as hub, open_page(hub, history_s=60, samples=True) as page:
        recorded = await until(page, is_samples)
        assert [each["time_unix_s"] for each in recorded["samples"]] == [1.0, 1.0, 2.0]
        assert recorded["pool"] == pool.address
        assert recorded["samples"][0]["utilisation_percent"] == 5.0
        assert recorded["samples"][0]["power_watts"] is None
        await asyncio.to_thread(pool.wait_for_sampling, lambda count: count == 1)
        pool.read([sample(3.0)])
        assert [each["time_unix_s"] for each in (await until(page, is_samples))["samples"]] == [3.0]


@pytest.mark.asyncio
async def test_pages_share_one_watch_of_samples_that_ends_with_the_last(pool):
    async with running_hub() as hub:
        async with open_page(hub, samples=True) as one, open_page(hub, samples=True) as two:
            await until(one, connected)
            await asyncio.to_thread(pool.wait_for_sampling, lambda count: count == 1)
            pool.read([sample(1.0)])
            for page in (one, two):
                assert (await until(page, is_samples))["samples"][0]["time_unix_s"] == 1.0
            assert pool.sample_watches == 1
        await asyncio.to_thread(pool.wait_for_sampling, lambda count: count == 0)


@pytest.mark.asyncio
async def test_a_page_without_samples_has_none_watched(pool):
    async with running_hub() as hub, open_page(hub) as page:
        await until(page, connected)
        pool.publish(pool_pb2.PoolState(offers=[fake.offer("H100", 8, 2)]))
        await until(page, lambda m: connected(m) and bool(m["pools"][0]["offers"]))
        assert pool.sample_watches == 0


@pytest.mark.asyncio
async def test_a_page_that_is_paused_gets_no_samples_and_costs_no_memory(pool):
    async with running_hub() as hub:
        with hub.page(samples=True) as page:
            messages = messages_of(page)
            await until(messages, connected)
            page.pause()
            for number in range(3):
                hub.on_samples(pool.address, float(number), '{"number":1}')
            assert not page._readings
            page.resume()
            hub.on_samples(pool.address, 9.0, '{"number":9}')
            assert (await until(messages, is_samples))["samples"] == [{"number": 9}]
            await messages.aclose()


@pytest.mark.asyncio
async def test_a_page_that_does_not_read_loses_the_oldest_samples_and_keeps_a_bounded_number(pool):
    async with running_hub() as hub:
        with hub.page(samples=True) as page:
            messages = messages_of(page)
            await until(messages, connected)
            total = 10 * MAX_WAITING_READINGS
            for number in range(1, total + 1):
                hub.on_samples(pool.address, float(number), f'{{"number":{number}}}')
            assert len(page._readings) == MAX_WAITING_READINGS
            first = await until(messages, is_samples)
            assert first["samples"][0]["number"] == total - MAX_WAITING_READINGS + 1
            await messages.aclose()


@pytest.mark.asyncio
async def test_after_a_cut_a_page_gets_what_it_missed_once(pool):
    async with running_hub() as hub, open_page(hub, samples=True) as page:
        await until(page, connected)
        await asyncio.to_thread(pool.wait_for_sampling, lambda count: count == 1)
        pool.read([sample(1.0)])
        await until(page, is_samples)
        await asyncio.to_thread(pool.end_watches)
        await until(page, unreachable)
        pool.read([sample(2.0)])
        hub.retry()
        missed = await until(page, is_samples)
        assert [each["time_unix_s"] for each in missed["samples"]][-1] == 2.0


# -- Several pools


@pytest.mark.asyncio
async def test_each_pool_has_a_link_of_its_own_and_a_slow_one_holds_nobody_up(pool, monkeypatch):
    with socket.socket() as deaf:  # takes connections, and says nothing
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        target = PoolTarget("lab", f"127.0.0.1:{deaf.getsockname()[1]}", "token", embedded=False, removable=True)
        monkeypatch.setattr(hub_module, "HOUSEKEEPING_S", 0.01)

        async def find():
            return [target]

        @contextlib.asynccontextmanager
        async def unanswered(on_progress):
            on_progress("Connecting")
            await asyncio.Event().wait()
            yield

        def connect(wanted):
            return unanswered if wanted == target else connect_to(wanted)

        pool.publish(pool_pb2.PoolState(sessions=[fake.session("s1", "n1", "a.ipynb")]))
        async with running_hub(find_pools=find, connect=connect) as hub, open_page(hub) as page:
            state = await until(page, lambda m: connected(m) and is_state(m, "connecting", 1))
            assert [each["name"] for each in state["pools"]] == [pool.address, "lab"]
            assert [each["removable"] for each in state["pools"]] == [False, True]
            async with hub.in_use():  # commands too do not wait for it
                assert await asyncio.wait_for(hub.calls_for_session("s1"), 2) is hub.calls_of(pool.address)
            with pytest.raises(PoolLostError, match="lab is not reached yet: Connecting"):
                await hub.link("lab").connection(0.01)


@pytest.mark.asyncio
async def test_the_pool_of_a_notebook_is_the_one_whose_session_it_attached_last(pool):
    class Used(QuietCalls):
        def sessions(self):
            return [
                {"id": "s", "notebook_id": "n1", "accelerators": [], "attached_unix_s": self.attached_unix_s},
                {"id": "t", "notebook_id": "n2", "accelerators": [], "attached_unix_s": None},
            ]

    target = PoolTarget("lab", "127.0.0.1:1", "token", embedded=False, removable=True)

    async def find():
        return [target]

    def connect(wanted):
        calls = Used()
        calls.attached_unix_s = 2.0 if wanted == target else 1.0
        return quiet(calls)(wanted)

    async with running_hub(find_pools=find, connect=connect) as hub, hub.in_use():
        await hub.settle(DEADLINE_S)
        assert hub.link_of_notebook("n1").name == "lab"
        assert hub.link_of_notebook("n2").name == hub.links()[0].name
        assert hub.link_of_notebook("n3") is None
        assert hub.link_of_notebook("") is None


@pytest.mark.asyncio
async def test_pools_come_and_go_while_a_page_is_open(pool):
    found = []

    async def find():
        return list(found)

    async with running_hub(find_pools=find) as hub, open_page(hub) as page:
        await until(page, connected)
        with fake.run_fake_pool() as other:
            found.append(PoolTarget("<img src=x>", other.address, other.token, embedded=False, removable=True))
            hub._connect = lambda target: connect_to(PoolTarget(pool.address, "", "", False, False))
            await hub.look_for_pools()
            state = await until(page, lambda m: is_state(m, "connected", 1))
            assert state["pools"][1]["name"] == "<img src=x>"
            found.clear()
            await hub.look_for_pools()
            await until(page, lambda m: m["kind"] == "state" and len(m["pools"]) == 1)
            assert connected(hub.state())


@pytest.mark.asyncio
async def test_a_file_of_pools_that_cannot_be_used_is_said_and_the_default_pool_goes_on(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    (tmp_path / "nbgpu").mkdir()
    (tmp_path / "nbgpu/pools.json").write_text('{"pools": 3}')
    (tmp_path / "nbgpu/pools.json").chmod(0o600)
    async with running_hub(find_pools=hub_module.find_pools) as hub:
        state = await hub.settled_state(DEADLINE_S)
    assert connected(state)
    assert "cannot be understood" in state["problem"]["message"]
