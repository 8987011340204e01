"""Every RPC that there is, asked by another user: found through the descriptors, so that a new one cannot forget it."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2

from fakes.session import FakeKernels, FakeSession
from nbgpu_agent.accelerators.cpu import CpuSource
from nbgpu_agent.accelerators.inventory import Inventory
from nbgpu_agent.accelerators.simulated import SimulatedSource, parse_simulated
from nbgpu_agent.accounting.accounts import Accounts
from nbgpu_agent.accounting.allowances import Grants
from nbgpu_agent.accounting.ledger import Ledger
from nbgpu_agent.identity.attempts import MAX_FAILURES
from nbgpu_agent.identity.users import UserStore
from nbgpu_agent.listening import ListenAddress
from nbgpu_agent.model import Node
from nbgpu_agent.prices import make_price_list
from nbgpu_agent.registry import SessionRegistry
from nbgpu_agent.sampling import Sampler
from nbgpu_agent.service.authentication import OPEN_METHODS, PAIR
from nbgpu_agent.service.pool import AgentIdentity, PoolService
from nbgpu_agent.service.server import bind, make_server
from nbgpu_agent.user_blobs import UserBlobs
from nbgpu_protocol import ERROR_METADATA_KEY, VERSION, blobs
from nbgpu_protocol.v1 import accounting_pb2, environment_pb2, identity_pb2, pool_pb2, session_pb2, workspace_pb2
from nbgpu_protocol.workspace import CONTENTS_SERVICE

pytestmark = pytest.mark.asyncio

DEADLINE_S = 60
UNKNOWN = "0123456789abcdef"
FILES = (pool_pb2, session_pb2, environment_pb2, workspace_pb2, identity_pb2, accounting_pb2)
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
RAW = {blobs.PUT, blobs.GET, f"/{CONTENTS_SERVICE}/Read"}
"""Whose frames are no messages, or are not described as a service."""
HEALTH = {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}
WITHOUT_A_SESSION = {
    "/nbgpu.v1.Pool/Handshake": "tells of the agent, and the caller of themselves",
    "/nbgpu.v1.Pool/ListOffers": "how much is free is everybody's to know",
    "/nbgpu.v1.Pool/WatchPool": "test_lists_and_watches_hold_ones_own",
    "/nbgpu.v1.Pool/ListSessions": "test_lists_and_watches_hold_ones_own",
    "/nbgpu.v1.Pool/WatchSamples": "test_samples_tell_the_load_and_not_whose_it_is",
    "/nbgpu.v1.Pool/OpenSession": "test_a_notebook_that_two_users_name_is_two",
    "/nbgpu.v1.Pool/Shutdown": "test_only_an_administrator_ends_the_agent",
    "/nbgpu.v1.Session/MissingBlobs": "test_blobs_are_neither_read_nor_probed_by_others",
    "/nbgpu.v1.Environment/Plan": "test_blobs_are_neither_read_nor_probed_by_others: a snapshot is a blob",
    "/nbgpu.v1.Environment/Materialise": "test_blobs_are_neither_read_nor_probed_by_others: a snapshot is a blob",
    "/nbgpu.v1.Identity/Pair": "has no caller yet",
    "/nbgpu.v1.Accounting/SetBudget": "test_accounts_and_budgets_are_ones_own",
    blobs.PUT: "test_blobs_are_neither_read_nor_probed_by_others",
    blobs.GET: "test_blobs_are_neither_read_nor_probed_by_others",
}
"""Every RPC that names no session, and what keeps users apart in it. One that is new is looked at, and added here."""


@dataclass
class Outcome:
    """All that a caller learns from an RPC."""

    code: grpc.StatusCode
    error: pool_pb2.Error
    responses: list[bytes]

    def without(self, session_id: str) -> tuple[Any, ...]:
        """Returns it in a form that can be compared with what is told of another session."""
        hidden = self.error.SerializeToString().replace(session_id.encode(), UNKNOWN.encode())
        return self.code, hidden, [each.replace(session_id.encode(), UNKNOWN.encode()) for each in self.responses]


class Agent:
    """An agent with three users, one of whom has a session."""

    def __init__(self, target: str, users: UserStore, registry: SessionRegistry, sampler: Sampler) -> None:
        self.registry = registry
        self.users = users
        self.sampler = sampler
        self.channel = grpc.aio.insecure_channel(target, options=[("grpc.default_authority", "localhost")])
        self._tokens = {
            user: users.pair(users.invite(user, administrator=user == "boss"), "test").token
            for user in ("alice", "bob", "boss")
        }

    async def call(
        self, path: str, request: bytes, user: str | None, *, responses: int | None = None, digest: str = ""
    ) -> Outcome:
        """Calls any RPC, all of which look the same on the wire; leaves it after so many responses."""
        metadata = [("authorization", f"Bearer {self._tokens[user]}")] if user else []
        if digest:
            metadata.append((blobs.DIGEST_METADATA_KEY, digest))
        call = self.channel.stream_stream(path)(iter([request]), metadata=metadata, timeout=DEADLINE_S)
        received: list[bytes] = []
        try:
            async for response in call:
                received.append(response)
                if len(received) == responses:
                    call.cancel()
                    return Outcome(grpc.StatusCode.OK, pool_pb2.Error(), received)
            return Outcome(grpc.StatusCode.OK, pool_pb2.Error(), received)
        except grpc.aio.AioRpcError as error:
            trailing = dict(error.trailing_metadata() or ())
            return Outcome(error.code(), pool_pb2.Error.FromString(trailing.get(ERROR_METADATA_KEY, b"")), received)

    async def open(self, user: str, notebook_id: str, **fields: Any) -> tuple[Outcome, pool_pb2.SessionUpdate]:
        spec = pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="H100", count=1)], text="H100")
        request = pool_pb2.OpenSessionRequest(spec=spec, notebook_id=notebook_id, **fields)
        outcome = await self.call("/nbgpu.v1.Pool/OpenSession", request.SerializeToString(), user)
        last = outcome.responses[-1] if outcome.responses else b""
        return outcome, pool_pb2.SessionUpdate.FromString(last)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Agent, FakeSession]]:
    kernels = FakeKernels()
    inventory = Inventory([SimulatedSource(parse_simulated("H100x4")), CpuSource()])
    make: Any = kernels.make
    registry = SessionRegistry(inventory.accelerators, make)
    node = Node("node", "gpu-node", sys.platform, 8, 64 * 10**9, None)
    users = UserStore(folder / "users.sqlite")
    with ThreadPoolExecutor(1) as executor:
        sampler = Sampler(inventory.sample, registry.held, executor)
        pool = PoolService(AgentIdentity(node, "1", False, False), registry, sampler, lambda keep_sessions: None)
        prices = make_price_list({"H100": 3600.0})
        accounts = Accounts(Ledger(folder / "usage"), registry, prices, Grants(), sampler.measure)
        server = make_server(None, pool, registry, UserBlobs(folder / "blobs"), users=users, accounts=accounts)
        target = bind(server, ListenAddress(socket=folder / "agent.sock"))
        await server.start()
        agent = Agent(target, users, registry, sampler)
        try:
            outcome, _ = await agent.open("alice", "notebook")
            assert outcome.code is grpc.StatusCode.OK, outcome.error
            yield agent, kernels.sessions[0]
        finally:
            await agent.channel.close()
            await registry.close_all("the test ended")
            await server.stop(0)
            await accounts.close()
            users.close()


def request_about(path: str, session_id: str) -> bytes | None:
    """Returns a request of the RPC about a session; None: it is about none."""
    if path == f"/{CONTENTS_SERVICE}/Read":
        return workspace_pb2.ReadRequest(session_id=session_id, path="x").SerializeToString()
    if path not in METHODS:
        return None
    message: Any = message_factory.GetMessageClass(METHODS[path].input_type)()
    if isinstance(message, session_pb2.ClientFrame):
        message.connect.session_id = session_id
    elif "session_id" in message.DESCRIPTOR.fields_by_name:
        message.session_id = session_id
        if "notebook_id" in message.DESCRIPTOR.fields_by_name:
            message.notebook_id = "notebook"
    else:
        return None
    return bytes(message.SerializeToString())


async def test_every_rpc_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptors have all that the server serves, and each RPC is about a session or in the table."""
    served: set[str] = set()
    make = grpc.aio.server

    def recording(**options: Any) -> Any:
        server = make(**options)
        register, generic = server.add_registered_method_handlers, server.add_generic_rpc_handlers

        def add_registered(service: str, handlers: dict[str, Any]) -> None:
            served.update(f"/{service}/{name}" for name in handlers)
            register(service, handlers)

        def add_generic(handlers: Any) -> None:
            for each in handlers:
                served.update(each._method_handlers)
            generic(handlers)

        server.add_registered_method_handlers, server.add_generic_rpc_handlers = add_registered, add_generic
        return server

    monkeypatch.setattr(grpc.aio, "server", recording)
    async with running(tmp_path):
        pass
    assert served == METHODS.keys() | RAW | HEALTH
    about_none = {path for path in METHODS.keys() | RAW if request_about(path, UNKNOWN) is None}
    assert about_none == WITHOUT_A_SESSION.keys()
    tests = {name for name in globals() if name.startswith("test_")}
    named = {why.partition(":")[0] for why in WITHOUT_A_SESSION.values() if why.startswith("test_")}
    assert named <= tests


async def test_no_rpc_is_answered_without_a_token(tmp_path: Path) -> None:
    async with running(tmp_path) as (agent, _):
        for path in sorted(METHODS.keys() | RAW | HEALTH):
            outcome = await agent.call(path, request_about(path, UNKNOWN) or b"", None)
            refused = outcome.code is grpc.StatusCode.UNAUTHENTICATED or (
                outcome.error.reason == pool_pb2.TOO_MANY_ATTEMPTS  # which this test has made by now
            )
            assert refused is (path not in OPEN_METHODS), path
            assert refused is False or outcome.responses == []


async def test_accounts_and_budgets_are_ones_own(tmp_path: Path) -> None:
    async with running(tmp_path) as (agent, session):
        await agent.registry.close(session.id, "it was closed by its user")
        report = "/nbgpu.v1.Accounting/ReportUsage"
        usage = accounting_pb2.UsageRequest(session_id=session.id, notebook_id="notebook").SerializeToString()

        async def reported(user: str) -> accounting_pb2.UsageReport:
            return accounting_pb2.UsageReport.FromString((await agent.call(report, usage, user)).responses[0])

        own, others = await reported("alice"), await reported("bob")
        assert own.users == others.users == []
        assert [each.user for each in (await reported("boss")).users] in ([], ["alice"])  # FakeSession meters nothing
        assert others.session == others.notebook == others.month == accounting_pb2.Usage(busy_accelerator_seconds=0)
        budget = accounting_pb2.SetBudgetRequest(notebook_id="notebook", amount=5.0).SerializeToString()
        assert (await agent.call("/nbgpu.v1.Accounting/SetBudget", budget, "bob")).code is grpc.StatusCode.OK
        assert [each.amount for each in (await reported("bob")).allowances] == [5.0]
        assert (await reported("alice")).allowances == []


async def test_why_a_session_was_closed_is_told_to_its_user_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as (agent, session):
        await agent.registry.close(session.id, "it was idle for 60 min", tell=True)
        restart = "/nbgpu.v1.Session/Stacks"
        told = await agent.call(restart, request_about(restart, session.id) or b"", "alice")
        assert "it was idle for 60 min" in told.error.message
        for user in ("bob", "boss"):
            hidden = await agent.call(restart, request_about(restart, session.id) or b"", user)
            unknown = await agent.call(restart, request_about(restart, UNKNOWN) or b"", user)
            assert hidden.without(session.id) == unknown.without(UNKNOWN)
        _, update = await agent.open("bob", "notebook")
        assert update.notice == ""
        _, update = await agent.open("alice", "notebook")
        assert "it was idle for 60 min" in update.notice


async def test_another_users_session_answers_as_one_that_is_not_there(tmp_path: Path) -> None:
    async with running(tmp_path) as (agent, session):
        asked = 0
        for path in sorted(METHODS.keys() | RAW):
            unknown, other = request_about(path, UNKNOWN), request_about(path, session.id)
            if unknown is None or other is None:
                continue
            asked += 1
            of_none = await agent.call(path, unknown, "bob")
            of_others = await agent.call(path, other, "bob")
            assert of_others.without(session.id) == of_none.without(session.id), path
            if path in ("/nbgpu.v1.Pool/CloseSession", "/nbgpu.v1.Accounting/ReportUsage"):
                continue  # what is not there is closed, and the caller used nothing in it
            assert of_others.error.reason == pool_pb2.NO_SUCH_SESSION, path
            # And of one's own it is not what is answered, or the test would prove nothing.
            own = await agent.call(path, other, "alice", responses=1)
            assert own.error.reason != pool_pb2.NO_SUCH_SESSION, path
        assert asked >= 15
        assert session.closed_because is None
        assert [each.id for each in agent.registry.infos()] == [session.id]
        # Alice's own attach and detach, and nothing of Bob's.
        assert set(session.choices) <= {("notebook", session.id), ("notebook", "")}


async def test_what_runs_in_a_session_is_its_users_also_for_an_administrator(tmp_path: Path) -> None:
    managed = {"Interrupt", "Restart", "RenewLease", "DetachSession", "CloseSession"}
    managed |= {"ReportUsage"}  # of the caller's own use, whichever session is named
    async with running(tmp_path) as (agent, session):
        for path in sorted(METHODS.keys() | RAW, key=lambda path: (path.endswith("CloseSession"), path)):
            if (request := request_about(path, session.id)) is None:
                continue
            outcome = await agent.call(path, request, "boss", responses=1)
            may = path.rpartition("/")[2] in managed
            assert (outcome.error.reason != pool_pb2.NO_SUCH_SESSION) is may, path
        assert session.closed_because is not None


async def test_lists_and_watches_hold_ones_own(tmp_path: Path) -> None:
    async with running(tmp_path) as (agent, session):
        for user, expected in (("alice", [session.id]), ("bob", []), ("boss", [session.id])):
            listed = await agent.call("/nbgpu.v1.Pool/ListSessions", b"", user)
            sessions = pool_pb2.ListSessionsResponse.FromString(listed.responses[0]).sessions
            assert [each.id for each in sessions] == expected
            watched = await agent.call("/nbgpu.v1.Pool/WatchPool", b"", user, responses=1)
            assert (session.id.encode() in watched.responses[0]) is bool(expected)
            assert (b"notebook" in watched.responses[0]) is bool(expected)
            state = pool_pb2.PoolState.FromString(watched.responses[0])
            assert [each.id for each in state.sessions] == expected
            held = [(each.session_id, each.other_user) for each in state.accelerators if each.type == "H100"]
            assert held[0] == (session.id if expected else "", not expected)
            assert held[1:] == [("", False)] * 3
            offers = {each.type: each.free for each in state.offers}
            assert offers["H100"] == 3


async def test_who_waits_is_in_the_list_of_their_own_only(tmp_path: Path) -> None:
    async with running(tmp_path) as (agent, _):
        for count in range(3):
            await agent.open("alice", f"other {count}")
        waiting = asyncio.create_task(agent.open("alice", "who waits"))
        try:
            while not agent.registry.waiting():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            (info,) = agent.registry.waiting()
            listed = await agent.call("/nbgpu.v1.Pool/ListSessions", b"", "bob")
            assert pool_pb2.ListSessionsResponse.FromString(listed.responses[0]).sessions == []
            close = pool_pb2.CloseSessionRequest(session_id=info.id).SerializeToString()
            assert (await agent.call("/nbgpu.v1.Pool/CloseSession", close, "bob")).code is grpc.StatusCode.OK
            assert agent.registry.waiting() == [info]
            await agent.call("/nbgpu.v1.Pool/CloseSession", close, "alice")
            outcome, _ = await waiting
            assert outcome.error.reason == pool_pb2.NO_SUCH_SESSION
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])


async def test_samples_tell_the_load_and_not_whose_it_is(tmp_path: Path) -> None:
    request = pool_pb2.WatchSamplesRequest(history_s=60, history_only=True).SerializeToString()
    async with running(tmp_path) as (agent, session):
        await agent.sampler.sample_once()
        for user, expected in (("alice", session.id), ("bob", ""), ("boss", session.id)):
            watched = await agent.call("/nbgpu.v1.Pool/WatchSamples", request, user)
            samples = pool_pb2.SampleBatch.FromString(watched.responses[0]).samples
            held = {each.accelerator_id: each for each in samples}[session.lease.accelerators[0].id]  # type: ignore[union-attr]
            assert (held.session_id, held.other_user) == (expected, not expected)
            assert held.HasField("utilisation_percent") or held.HasField("memory_total_bytes")
            assert (session.id.encode() in b"".join(watched.responses)) is bool(expected)


async def test_a_notebook_that_two_users_name_is_two(tmp_path: Path) -> None:
    async with running(tmp_path) as (agent, session):
        outcome, _ = await agent.open("bob", "notebook", existing_only=True)
        assert outcome.error.reason == pool_pb2.NO_SUCH_SESSION
        outcome, update = await agent.open("bob", "notebook")
        assert outcome.code is grpc.StatusCode.OK
        assert not update.existing
        assert update.session.id != session.id
        attach = pool_pb2.AttachSessionRequest(session_id=update.session.id, notebook_id="notebook")
        await agent.call("/nbgpu.v1.Pool/AttachSession", attach.SerializeToString(), "bob")
        assert session.choices == []  # Alice's notebook goes on using what it used
        outcome, update = await agent.open("alice", "notebook")
        assert (update.existing, update.session.id) == (True, session.id)


async def test_only_an_administrator_ends_the_agent(tmp_path: Path) -> None:
    request = pool_pb2.ShutdownRequest(close_sessions=True).SerializeToString()
    async with running(tmp_path) as (agent, _):
        for user, expected in (("bob", grpc.StatusCode.UNIMPLEMENTED), ("boss", grpc.StatusCode.OK)):
            assert (await agent.call("/nbgpu.v1.Pool/Shutdown", request, user)).code is expected


async def test_blobs_are_neither_read_nor_probed_by_others(tmp_path: Path) -> None:
    content = b"what only Alice has"
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    missing = session_pb2.MissingBlobsRequest(digests=[digest]).SerializeToString()
    async with running(tmp_path) as (agent, _):
        assert (await agent.call(blobs.PUT, content, "alice", digest=digest)).code is grpc.StatusCode.OK
        for user, has in (("alice", True), ("bob", False), ("boss", False)):
            answer = await agent.call("/nbgpu.v1.Session/MissingBlobs", missing, user)
            asked = session_pb2.MissingBlobsResponse.FromString(answer.responses[0])
            assert list(asked.digests) == ([] if has else [digest])
            got = await agent.call(blobs.GET, digest.encode(), user)
            assert got.responses == ([content] if has else [])
            assert (got.error.reason == pool_pb2.NO_SUCH_BLOB) is not has
        # One who announces it and sends something else learns nothing, as the owner's own store would let them.
        sent = await agent.call(blobs.PUT, b"not it", "bob", digest=digest)
        assert sent.error.reason == pool_pb2.DIGEST_MISMATCH
        sent = await agent.call(blobs.PUT, content, "bob", digest=digest)
        assert sent.code is grpc.StatusCode.OK


async def test_the_handshake_says_who_one_is(tmp_path: Path) -> None:
    request = pool_pb2.HandshakeRequest(protocol_version=VERSION).SerializeToString()
    async with running(tmp_path) as (agent, _):
        for user in ("alice", "boss"):
            answer = await agent.call("/nbgpu.v1.Pool/Handshake", request, user)
            told = pool_pb2.HandshakeResponse.FromString(answer.responses[0])
            assert (told.user, told.administrator) == (user, user == "boss")


async def test_who_sends_wrong_codes_has_to_wait(tmp_path: Path) -> None:
    wrong = identity_pb2.PairRequest(code="ABCD-EFGH-JKMN-PQRS", client_name="x").SerializeToString()
    async with running(tmp_path) as (agent, _):
        for _ in range(MAX_FAILURES):
            outcome = await agent.call(PAIR, wrong, None)
            assert (outcome.code, outcome.error.reason) == (
                grpc.StatusCode.PERMISSION_DENIED,
                pool_pb2.CODE_REFUSED,
            )
        right = identity_pb2.PairRequest(code=agent.users.invite("dave")).SerializeToString()
        outcome = await agent.call(PAIR, right, None)
        assert (outcome.code, outcome.error.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            pool_pb2.TOO_MANY_ATTEMPTS,
        )
        assert outcome.error.hint.startswith("wait ")
        # Who has a token goes on, also where somebody behind the same address has none.
        assert (await agent.call("/nbgpu.v1.Pool/ListOffers", b"", "alice")).code is grpc.StatusCode.OK


async def test_health_is_told_to_everybody_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path) as (agent, _):
        for service, code in (("", grpc.StatusCode.OK), ("nbgpu.v1.Pool", grpc.StatusCode.NOT_FOUND)):
            request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
            outcome = await agent.call("/grpc.health.v1.Health/Check", request, None)
            assert outcome.code is code
        answer = (await agent.call("/grpc.health.v1.Health/Check", b"", None)).responses
        assert [health_pb2.HealthCheckResponse.FromString(each).status for each in answer] == [
            health_pb2.HealthCheckResponse.SERVING
        ]


async def test_what_is_no_message_is_an_invalid_request(tmp_path: Path) -> None:
    async with running(tmp_path) as (agent, _):
        for path in ("/nbgpu.v1.Pool/ListSessions", "/nbgpu.v1.Pool/WatchPool", "/nbgpu.v1.Session/Connect", PAIR):
            outcome = await agent.call(path, b"\xff" * 9, "alice")
            assert outcome.code is grpc.StatusCode.INVALID_ARGUMENT, path
            assert outcome.error.reason == pool_pb2.INVALID_REQUEST
