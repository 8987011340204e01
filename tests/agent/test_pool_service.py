"""The agent's server, over a Unix socket and over loopback, with sessions that have no kernel."""

from __future__ import annotations

import asyncio
import functools
import stat
import sys
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from fakes.session import FakeKernels
from nbgpu_agent.accelerators.cpu import CpuSource
from nbgpu_agent.accelerators.inventory import Inventory
from nbgpu_agent.accelerators.simulated import SimulatedSource, parse_simulated
from nbgpu_agent.errors import AddressRefusedError, KernelFailedError
from nbgpu_agent.listening import ListenAddress
from nbgpu_agent.model import Accelerator, Execution, Node
from nbgpu_agent.prices import PriceList, make_price_list
from nbgpu_agent.registry import SessionRegistry
from nbgpu_agent.sampling import Sampler
from nbgpu_agent.service.conversions import execution_message, session_info_message
from nbgpu_agent.service.pool import AgentIdentity, PoolService
from nbgpu_agent.service.server import bind, make_server
from nbgpu_agent.service.translated_errors import STATUS_OF_REASON
from nbgpu_protocol import ERROR_METADATA_KEY, VERSION, blobs
from nbgpu_protocol.v1 import (
    environment_pb2,
    environment_pb2_grpc,
    pool_pb2,
    pool_pb2_grpc,
    session_pb2_grpc,
)

pytestmark = pytest.mark.asyncio

TOKEN = "a-token-of-a-test"
DEADLINE_S = 60


NODE = Node("node", "gpu-node", sys.platform, 8, 64 * 10**9, None)


@dataclass
class Served:
    """One agent's server, and a client of it."""

    target: str
    registry: SessionRegistry
    kernels: FakeKernels
    sampler: Sampler
    stopped: list[bool]
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def channel(self) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(self.target, options=[("grpc.default_authority", "localhost")])
        self.channels.append(channel)
        return channel

    def pool(self) -> Any:
        return WithToken(pool_pb2_grpc.PoolStub(self.channel()))


class WithToken:
    """A stub whose RPCs carry the token."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, name: str) -> Any:
        return functools.partial(getattr(self._stub, name), metadata=authorization(f"Bearer {TOKEN}"))


def authorization(value: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", value),)


@asynccontextmanager
async def served(
    address: ListenAddress,
    *,
    simulate: str = "H100x4,A10x2",
    allow_client_python: bool = True,
    prices: PriceList | None = None,
) -> AsyncGenerator[Served, None]:
    kernels = FakeKernels()
    make: Any = kernels.make
    inventory = Inventory([SimulatedSource(parse_simulated(simulate)), CpuSource()])
    registry = SessionRegistry(inventory.accelerators, make)
    identity = AgentIdentity(NODE, "1.2.3", True, allow_client_python, prices=prices or PriceList())
    stopped: list[bool] = []
    with ThreadPoolExecutor(1) as executor:
        sampler = Sampler(inventory.sample, registry.held, executor)
        server = make_server(
            TOKEN, PoolService(identity, registry, sampler, lambda keep_sessions: stopped.append(True))
        )
        one = Served(bind(server, address), registry, kernels, sampler, stopped)
        await server.start()
        try:
            yield one
        finally:
            for channel in one.channels:
                await channel.close()
            kernels.may_start.set()
            kernels.may_end.set()
            await registry.close_all("the test ended")
            await server.stop(0)


@asynccontextmanager
async def on_socket(folder: Path, **options: Any) -> AsyncGenerator[Served, None]:
    async with served(ListenAddress(socket=folder / "agent.sock"), **options) as one:
        yield one


async def _to_its_end(call: Any) -> None:
    if hasattr(call, "__aiter__"):
        async for _ in call:
            pass
    else:
        await call


async def failure(call: Any) -> tuple[grpc.StatusCode, pool_pb2.Error]:
    """Returns how the RPC fails, whatever its kind."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _to_its_end(call)
    trailing = dict(caught.value.trailing_metadata() or ())
    return caught.value.code(), pool_pb2.Error.FromString(trailing[ERROR_METADATA_KEY])


def h100(count: int, **fields: Any) -> pool_pb2.OpenSessionRequest:
    spec = pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="H100", count=count)], text=f"H100x{count}")
    return pool_pb2.OpenSessionRequest(spec=spec, **fields)


async def until(condition: Callable[[], object]) -> None:
    async def poll() -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), DEADLINE_S)


def calls_of_every_kind(channel: grpc.aio.Channel, metadata: Any) -> list[Any]:
    """Returns one RPC of every kind, of every service; also of one that no server has."""
    pool: Any = pool_pb2_grpc.PoolStub(channel)
    environment: Any = environment_pb2_grpc.EnvironmentStub(channel)
    session: Any = session_pb2_grpc.SessionStub(channel)
    options = {"metadata": metadata, "timeout": DEADLINE_S}
    return [
        pool.Handshake(pool_pb2.HandshakeRequest(protocol_version=VERSION), **options),
        pool.WatchPool(pool_pb2.WatchPoolRequest(), **options),
        environment.Plan(environment_pb2.PlanRequest(), **options),
        channel.unary_stream(blobs.GET)(b"sha256:0", **options),
        channel.stream_unary(blobs.PUT)(iter([b"x"]), **options),
        session.Connect(**options),  # both sides wait for the other
        channel.unary_unary("/no.such/Method")(b"", **options),
    ]


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        TOKEN,
        "Bearer",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {TOKEN}",
        f"Basic {TOKEN}",
    ],
)
async def test_nobody_gets_in_without_the_token(tmp_path: Path, value: str | None) -> None:
    async with on_socket(tmp_path) as agent:
        for call in calls_of_every_kind(agent.channel(), authorization(value) if value is not None else None):
            code, error = await asyncio.wait_for(failure(call), DEADLINE_S)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert error.reason == pool_pb2.UNAUTHENTICATED
            assert TOKEN not in str(error)


async def test_two_authorizations_are_none(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        stub: Any = pool_pb2_grpc.PoolStub(agent.channel())
        twice = authorization(f"Bearer {TOKEN}") + authorization("Bearer wrong")
        code, _ = await failure(stub.ListOffers(pool_pb2.ListOffersRequest(), metadata=twice))
        assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_handshake_over_every_address(tmp_path: Path) -> None:
    for address in (
        ListenAddress(socket=tmp_path / "a.sock"),
        ListenAddress(host="127.0.0.1"),
        ListenAddress(host="::1"),
    ):
        async with served(address) as agent:
            assert not agent.target.endswith(":0")
            answer = await agent.pool().Handshake(pool_pb2.HandshakeRequest(protocol_version=VERSION))
            assert (answer.protocol_version, answer.agent_version, answer.embedded) == (VERSION, "1.2.3", True)
            assert (answer.node.hostname, answer.node.cpu_count) == ("gpu-node", 8)
            assert "environments" not in answer.capabilities


async def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    async with on_socket(tmp_path):
        assert stat.S_IMODE((tmp_path / "agent.sock").stat().st_mode) == 0o600


async def test_a_port_is_one_agents_alone() -> None:
    async with served(ListenAddress(host="127.0.0.1")) as agent:
        port = int(agent.target.rpartition(":")[2])
        with pytest.raises(AddressRefusedError, match="in use"):
            async with served(ListenAddress(host="127.0.0.1", port=port)):
                pass


@pytest.mark.parametrize(("version", "whose"), [(VERSION - 1, "notebook"), (VERSION + 1, "agent")])
async def test_other_versions_are_told_which_side_to_upgrade(tmp_path: Path, version: int, whose: str) -> None:
    async with on_socket(tmp_path) as agent:
        request = pool_pb2.HandshakeRequest(protocol_version=version, client_version="9.9")
        code, error = await failure(agent.pool().Handshake(request))
        assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, pool_pb2.VERSION_MISMATCH)
        assert "9.9" in error.message
        assert "1.2.3" in error.message
        assert f"upgrade nbgpu {'in the notebook' if whose == 'notebook' else 'on the agent'}" in error.hint


async def test_offers_are_marked_simulated(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        offers = (await agent.pool().ListOffers(pool_pb2.ListOffersRequest())).offers
        assert [(each.type, each.total, each.free, each.simulated, each.shared) for each in offers] == [
            ("H100", 4, 4, True, False),
            ("A10", 2, 2, True, False),
            ("CPU", 1, 1, False, True),
        ]
        assert offers[0].memory_bytes == 80 * 10**9
        assert offers[0].node_hostname == "gpu-node"


async def test_a_session_from_open_to_close(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        pool = agent.pool()
        updates = [each async for each in pool.OpenSession(h100(2, notebook_id="n1", notebook_name="digits.ipynb"))]
        assert [each.phase for each in updates] == [pool_pb2.PLACING, pool_pb2.STARTING, pool_pb2.READY]
        session = updates[-1].session
        assert session.notebook_name == "digits.ipynb"
        assert list(session.lease.accelerator_ids) == ["sim-h100-0", "sim-h100-1"]
        assert session.lease.expires_unix_s == 0
        assert [each.simulated for each in session.accelerators] == [True, True]
        again = [each async for each in pool.OpenSession(pool_pb2.OpenSessionRequest(notebook_id="n1"))]
        assert [(each.phase, each.existing, each.session.id) for each in again] == [(pool_pb2.READY, True, session.id)]
        listed = (await pool.ListSessions(pool_pb2.ListSessionsRequest())).sessions
        assert [each.id for each in listed] == [session.id]
        renewed = await pool.RenewLease(pool_pb2.RenewLeaseRequest(session_id=session.id, duration_s=60))
        assert renewed.lease.expires_unix_s > session.lease.granted_unix_s
        for _ in range(2):
            await pool.CloseSession(pool_pb2.CloseSessionRequest(session_id=session.id))
        assert not (await pool.ListSessions(pool_pb2.ListSessionsRequest())).sessions
        _, error = await failure(pool.RenewLease(pool_pb2.RenewLeaseRequest(session_id=session.id)))
        assert error.reason == pool_pb2.NO_SUCH_SESSION


async def test_the_pool_is_watched(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        pool = agent.pool()
        watch = pool.WatchPool(pool_pb2.WatchPoolRequest())
        state = await watch.read()
        assert [each.session_id for each in state.accelerators] == [""] * 7
        assert agent.registry.unused_s() == 0
        updates = [each async for each in pool.OpenSession(h100(4))]
        while not (state.sessions and state.sessions[0].phase == pool_pb2.READY):
            state = await asyncio.wait_for(watch.read(), DEADLINE_S)
        session_id = updates[-1].session.id
        assert [each.session_id for each in state.accelerators] == [session_id] * 4 + [""] * 3
        assert state.offers[0].free == 0
        waiting = pool.OpenSession(h100(1, notebook_id="n2"))
        while not state.offers[0].queued:
            state = await asyncio.wait_for(watch.read(), DEADLINE_S)
        waiting.cancel()
        while state.offers[0].queued:
            state = await asyncio.wait_for(watch.read(), DEADLINE_S)
        watch.cancel()


async def test_cancelling_while_queued_and_while_starting_leaves_nothing(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        pool = agent.pool()
        holder = [each async for each in pool.OpenSession(h100(4))][-1].session
        waiting = pool.OpenSession(h100(2, notebook_id="n2"))
        update = await waiting.read()
        assert (update.phase, update.queue_position, update.detail) == (
            pool_pb2.QUEUED,
            1,
            "waiting for 2 of 2 H100",
        )
        agent.kernels.may_start.clear()
        await pool.CloseSession(pool_pb2.CloseSessionRequest(session_id=holder.id))
        await until(lambda: agent.kernels.starting == 2)
        assert agent.registry.ledger.offers()[0].free == 2
        waiting.cancel()
        await until(lambda: agent.registry.ledger.offers()[0].free == 4)
        await until(lambda: agent.registry.unused_s() > 0)
        assert agent.registry.infos() == []


@pytest.mark.parametrize(
    ("request_message", "reason"),
    [
        (h100(5), pool_pb2.CAN_NEVER_FIT),
        (h100(0), pool_pb2.INVALID_REQUEST),
        (h100(1 << 31), pool_pb2.INVALID_REQUEST),
        (pool_pb2.OpenSessionRequest(spec=pool_pb2.Spec()), pool_pb2.INVALID_REQUEST),
        (pool_pb2.OpenSessionRequest(notebook_name="x" * 10_000), pool_pb2.INVALID_REQUEST),
        (h100(1, python="python3"), pool_pb2.INVALID_REQUEST),
        (h100(1, python="/no/such/python"), pool_pb2.INVALID_REQUEST),
        (h100(1, python="/"), pool_pb2.INVALID_REQUEST),
        (h100(1, existing_only=True), pool_pb2.NO_SUCH_SESSION),
        (
            pool_pb2.OpenSessionRequest(spec=pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="CPU", count=2)])),
            pool_pb2.INVALID_REQUEST,
        ),
        (
            pool_pb2.OpenSessionRequest(spec=pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="T4", count=1)])),
            pool_pb2.NO_SUCH_ACCELERATOR,
        ),
    ],
)
async def test_bad_requests_are_refused_and_leave_nothing(
    tmp_path: Path, request_message: pool_pb2.OpenSessionRequest, reason: pool_pb2.Reason
) -> None:
    async with on_socket(tmp_path) as agent:
        code, error = await failure(agent.pool().OpenSession(request_message))
        assert (error.reason, code) == (reason, STATUS_OF_REASON[reason])
        assert agent.kernels.sessions == []


async def test_busy(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        pool = agent.pool()
        async for _ in pool.OpenSession(h100(3)):
            pass
        _, error = await failure(pool.OpenSession(h100(2, no_wait=True)))
        assert error.reason == pool_pb2.BUSY
        assert "simulated H100 (1 free of 4)" in error.message


async def test_a_long_error_arrives_with_its_start_and_its_last_lines(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        agent.kernels.start_error = KernelFailedError(
            "the kernel did not start:\n" + "é" * 20_000 + "\nlast line", "hint"
        )
        _, error = await failure(agent.pool().OpenSession(h100(1)))
        assert error.reason == pool_pb2.KERNEL_FAILED
        assert error.message.startswith("the kernel did not start")
        assert error.message.endswith("last line")
        assert agent.registry.ledger.offers()[0].free == 4


async def test_a_bug_is_internal_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with on_socket(tmp_path) as agent:
        agent.kernels.start_error = ZeroDivisionError("division by zero")
        code, error = await failure(agent.pool().OpenSession(h100(1)))
        assert (code, error.reason) == (grpc.StatusCode.INTERNAL, pool_pb2.INTERNAL)
        assert "ZeroDivisionError" in caplog.text


async def test_clients_choose_no_interpreter_where_they_may_not(tmp_path: Path) -> None:
    async with on_socket(tmp_path, allow_client_python=False) as agent:
        for fields in ({"python": sys.executable}, {"working_folder": str(tmp_path)}):
            code, error = await failure(agent.pool().OpenSession(h100(1, **fields)))
            assert (code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, pool_pb2.INTERPRETER_REFUSED)


async def test_paths_that_clients_choose(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        wanted = h100(1, python=sys.executable, working_folder=str(tmp_path))
        missing = h100(1, working_folder=str(tmp_path / "missing"))
        for request in (wanted, missing):
            async for _ in agent.pool().OpenSession(request):
                pass
        made = [session.request for session in agent.kernels.sessions]
        assert [(each.python, each.working_folder) for each in made] == [(sys.executable, str(tmp_path)), ("", "")]


async def test_samples_are_streamed_with_history(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        pool = agent.pool()
        session = [each async for each in pool.OpenSession(h100(1))][-1].session
        await agent.sampler.sample_once()
        watch = pool.WatchSamples(pool_pb2.WatchSamplesRequest(history_s=60, accelerator_ids=["sim-h100-0", "cpu"]))
        history = await watch.read()
        assert [(each.accelerator_id, each.session_id, each.simulated) for each in history.samples] == [
            ("sim-h100-0", session.id, True),
            ("cpu", "", False),
        ]
        assert not history.samples[0].HasField("power_watts")
        assert history.samples[1].memory_total_bytes > 0
        await agent.sampler.sample_once()
        following = await asyncio.wait_for(watch.read(), DEADLINE_S)
        assert following.samples[0].time_unix_s > history.samples[0].time_unix_s
        watch.cancel()
        for bad in ({"history_s": -1}, {"history_s": float("nan")}, {"accelerator_ids": ["h7"]}):
            _, error = await failure(pool.WatchSamples(pool_pb2.WatchSamplesRequest(**bad)))
            assert error.reason == pool_pb2.INVALID_REQUEST


async def test_environments_are_refused_in_words(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        stub: Any = WithToken(environment_pb2_grpc.EnvironmentStub(agent.channel()))
        for call in (
            stub.Plan(environment_pb2.PlanRequest()),
            stub.Materialise(environment_pb2.MaterialiseRequest()),
        ):
            code, error = await failure(call)
            assert (code, error.reason) == (grpc.StatusCode.UNIMPLEMENTED, pool_pb2.NOT_IMPLEMENTED)
            assert error.hint


async def test_shutdown_is_for_the_socket_and_not_while_in_use(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        pool = agent.pool()
        async for _ in pool.OpenSession(h100(1)):
            pass
        _, error = await failure(pool.Shutdown(pool_pb2.ShutdownRequest()))
        assert error.reason == pool_pb2.SESSIONS_OPEN
        assert agent.stopped == []
        await pool.Shutdown(pool_pb2.ShutdownRequest(close_sessions=True))
        assert agent.stopped == [True]
    async with served(ListenAddress(host="127.0.0.1")) as agent:
        _, error = await failure(agent.pool().Shutdown(pool_pb2.ShutdownRequest(close_sessions=True)))
        assert error.reason == pool_pb2.NOT_IMPLEMENTED
        assert agent.stopped == []


async def test_every_reason_has_a_status() -> None:
    assert set(STATUS_OF_REASON) == set(pool_pb2.Reason.values()) - {pool_pb2.REASON_UNSPECIFIED}


async def test_too_large_a_message_is_refused(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _to_its_end(agent.pool().OpenSession(h100(1, notebook_name="x" * (5 << 20)), timeout=DEADLINE_S))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_prices_are_told_with_offers_and_sessions_where_they_are_known(tmp_path: Path) -> None:
    async with on_socket(tmp_path, prices=make_price_list({"H100": 2.5}, "EUR")) as agent:
        pool = agent.pool()
        h100_offer, a10_offer, _ = (await pool.ListOffers(pool_pb2.ListOffersRequest())).offers
        assert (h100_offer.price_per_hour, h100_offer.currency) == (2.5, "EUR")
        assert (a10_offer.HasField("price_per_hour"), a10_offer.currency) == (False, "")
        updates = [update async for update in pool.OpenSession(h100(2, notebook_id="n1"))]
        session = updates[-1].session
        assert (session.cost_per_hour, session.currency) == (5.0, "EUR")
        assert session.attached_unix_s > 0


async def test_what_a_session_used_costs_by_its_accelerators(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        _ = [update async for update in agent.pool().OpenSession(h100(2))]
        info = replace(agent.registry.infos()[0], accelerator_seconds=7200.0)
        message = session_info_message(info, NODE, make_price_list({"H100": 2.5}))
        assert (message.accelerator_seconds, message.cost) == (7200.0, 5.0)
        assert not session_info_message(info, NODE, PriceList()).HasField("cost")
        without = replace(info, lease=None)
        assert not session_info_message(without, NODE, make_price_list({"H100": 2.5})).HasField("cost")


async def test_an_execution_costs_once_it_has_ended() -> None:
    held = (Accelerator("h", 0, "H100", "", 80, simulated=True),) * 2
    running = Execution("r", 7, 100.0, message_id="m", accelerators=held)
    prices = make_price_list({"H100": 3600.0})
    message = execution_message(running, prices)
    assert (message.message_id, list(message.accelerator_types), message.simulated) == ("m", ["H100", "H100"], True)
    assert not any(message.HasField(name) for name in ("ended_unix_s", "succeeded", "cost", "peak_memory_bytes"))
    message = execution_message(replace(running, ended_unix_s=101.5, succeeded=False), prices)
    assert (message.ended_unix_s, message.succeeded, message.cost) == (101.5, False, 3.0)


async def test_a_request_that_waits_is_in_the_state_and_is_withdrawn_by_its_id(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        pool = agent.pool()
        held = [update async for update in pool.OpenSession(h100(4, notebook_id="n1"))][-1].session
        waiting = pool.OpenSession(h100(1, notebook_id="n2"))
        update = await anext(aiter(waiting))
        assert update.phase == pool_pb2.QUEUED
        state = await pool.WatchPool(pool_pb2.WatchPoolRequest()).read()
        queued = next(each for each in state.sessions if each.phase == pool_pb2.QUEUED)
        assert (queued.notebook_id, queued.queue_position, queued.queue_length) == ("n2", 1, 1)
        assert (queued.detail, queued.HasField("lease")) == ("waiting for 1 of 1 H100", False)
        assert state.time_unix_s > 0
        await pool.CloseSession(pool_pb2.CloseSessionRequest(session_id=queued.id))
        code, error = await failure(waiting)
        assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, pool_pb2.NO_SUCH_SESSION)
        listed = (await pool.ListSessions(pool_pb2.ListSessionsRequest())).sessions
        assert [each.id for each in listed] == [held.id]


async def test_sessions_are_attached_and_detached(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        pool = agent.pool()
        session = [update async for update in pool.OpenSession(h100(1, notebook_id="n1"))][-1].session
        request = pool_pb2.AttachSessionRequest(session_id=session.id, notebook_id="n2", notebook_name="b.ipynb")
        attached = (await pool.AttachSession(request)).session
        assert (attached.notebook_id, attached.notebook_name) == ("n2", "b.ipynb")
        detached = (await pool.DetachSession(pool_pb2.DetachSessionRequest(session_id=session.id))).session
        assert (detached.notebook_id, detached.attached_unix_s) == ("", 0)
        none = await pool.AttachSession(pool_pb2.AttachSessionRequest(notebook_id="n2"))
        assert not none.HasField("session")
        code, error = await failure(pool.AttachSession(pool_pb2.AttachSessionRequest(session_id=session.id)))
        assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, pool_pb2.INVALID_REQUEST)
        code, error = await failure(pool.DetachSession(pool_pb2.DetachSessionRequest(session_id="none")))
        assert error.reason == pool_pb2.NO_SUCH_SESSION
        request = pool_pb2.AttachSessionRequest(session_id=session.id, notebook_id="x" * 2000)
        code, error = await failure(pool.AttachSession(request))
        assert error.reason == pool_pb2.INVALID_REQUEST


async def test_recorded_samples_alone_end_by_themselves(tmp_path: Path) -> None:
    async with on_socket(tmp_path) as agent:
        await agent.sampler.sample_once()
        request = pool_pb2.WatchSamplesRequest(history_s=60, history_only=True)
        batches = [batch async for batch in agent.pool().WatchSamples(request)]
        assert [len(batch.samples) for batch in batches] == [7]
