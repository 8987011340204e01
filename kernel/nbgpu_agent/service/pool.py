"""The Pool service: who is here, what is offered, open, list, close and watch sessions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from nbgpu_agent.errors import (
    InterpreterRefusedError,
    InvalidRequestError,
    NotServedError,
    VersionMismatchError,
)
from nbgpu_agent.identity.caller import current_caller
from nbgpu_agent.isolation.choosing import IsolationKind
from nbgpu_agent.limits.closing import Terms
from nbgpu_agent.limits.keeper import SessionKeeper
from nbgpu_agent.model import Node, SessionRequest
from nbgpu_agent.ownership import OwnSessions
from nbgpu_agent.prices import PriceList
from nbgpu_agent.registry import SessionRegistry
from nbgpu_agent.sampling import KEPT_S, Sampler
from nbgpu_agent.service.conversions import (
    accelerator_message,
    checked_text,
    lease_message,
    node_message,
    offer_message,
    sample_batch_message,
    session_info_message,
    session_request_from_message,
    session_update_message,
)
from nbgpu_agent.service.translated_errors import translated
from nbgpu_protocol import VERSION
from nbgpu_protocol.v1 import pool_pb2, pool_pb2_grpc

CAPABILITIES = ("blobs", "interrupt", "stacks", "samples", "notebook_facts", "replay", "missed_output")
ENVIRONMENTS_CAPABILITY = "environments"


@dataclass(frozen=True)
class AgentIdentity:
    """What an agent tells of itself."""

    node: Node
    version: str
    """Of the nbgpu package."""
    embedded: bool
    allow_client_python: bool
    """Whether clients choose interpreter and working folder."""
    environments: bool = False
    """Whether it builds environments from snapshots."""
    prices: PriceList = field(default_factory=PriceList)
    isolation: IsolationKind = IsolationKind.NONE
    isolation_problem: str = ""
    """Why not, where they should: a sentence."""
    isolation_hint: str = ""


_ISOLATIONS = {
    IsolationKind.NONE: pool_pb2.ISOLATION_NONE,
    IsolationKind.OS_USERS: pool_pb2.ISOLATION_OS_USERS,
    IsolationKind.BUBBLEWRAP: pool_pb2.ISOLATION_BUBBLEWRAP,
}


class PoolService(pool_pb2_grpc.PoolServicer):
    """Answers from the registry and the sampler.

    Args:
        identity: What the agent tells of itself.
        registry: Its sessions.
        sampler: Its samples.
        shut_down: Called when a client asks the agent to end, with whether it leaves its sessions to the next one;
            returns at once.
        keeper: Of the sessions; None: one that closes none.
    """

    def __init__(
        self,
        identity: AgentIdentity,
        registry: SessionRegistry,
        sampler: Sampler,
        shut_down: Callable[[bool], None],
        keeper: SessionKeeper | None = None,
    ) -> None:
        self._identity = identity
        self.node = identity.node
        self.prices = identity.prices
        self._registry = OwnSessions(registry)
        self._sampler = sampler
        self.latest_samples = sampler.latest
        self._shut_down = shut_down
        self._keeper = keeper or SessionKeeper(registry, Terms())

    @translated
    async def Handshake(  # noqa: N802
        self, request: pool_pb2.HandshakeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pool_pb2.HandshakeResponse:
        with self._registry.in_use():
            check_version(request.protocol_version, request.client_version, self._identity)
            caller = current_caller()
            return pool_pb2.HandshakeResponse(
                protocol_version=VERSION,
                agent_version=self._identity.version,
                node=node_message(self.node),
                capabilities=(*CAPABILITIES, ENVIRONMENTS_CAPABILITY) if self._identity.environments else CAPABILITIES,
                embedded=self._identity.embedded,
                pid=os.getpid(),
                user=caller.user,
                administrator=caller.administrator,
                isolation=_ISOLATIONS[self._identity.isolation],
                isolation_problem=self._identity.isolation_problem,
                isolation_hint=self._identity.isolation_hint,
            )

    @translated
    async def ListOffers(  # noqa: N802
        self, request: pool_pb2.ListOffersRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pool_pb2.ListOffersResponse:
        return pool_pb2.ListOffersResponse(
            offers=[offer_message(offer, self.node, self.prices) for offer in self._registry.ledger.offers()]
        )

    @translated
    async def WatchPool(  # noqa: N802
        self, request: pool_pb2.WatchPoolRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        with self._registry.in_use():
            async with contextlib.aclosing(self._registry.changes.watch()) as changes:
                async for _ in changes:
                    await context.write(self._state())

    @translated
    async def OpenSession(  # noqa: N802
        self, request: pool_pb2.OpenSessionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        with self._registry.in_use():
            wanted = self._checked(session_request_from_message(request))
            self._keeper.terms.idle_close_of(wanted.idle_close_s)
            updates = self._registry.open(wanted, no_wait=request.no_wait, existing_only=request.existing_only)
            async with contextlib.aclosing(updates):
                async for update in updates:
                    await context.write(session_update_message(update, self.node, self.prices))
                    if context.cancelled():  # a write does not tell
                        raise asyncio.CancelledError

    @translated
    async def ListSessions(  # noqa: N802
        self, request: pool_pb2.ListSessionsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pool_pb2.ListSessionsResponse:
        return pool_pb2.ListSessionsResponse(sessions=self._sessions(), time_unix_s=self._registry.now())

    @translated
    async def RenewLease(  # noqa: N802
        self, request: pool_pb2.RenewLeaseRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pool_pb2.RenewLeaseResponse:
        self._registry.managed(request.session_id)
        self._keeper.keep(request.session_id, request.idle_close_s if request.HasField("idle_close_s") else None)
        lease = self._registry.renew(request.session_id, request.duration_s or None)
        return pool_pb2.RenewLeaseResponse(lease=lease_message(lease))

    @translated
    async def CloseSession(  # noqa: N802
        self, request: pool_pb2.CloseSessionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pool_pb2.CloseSessionResponse:
        await self._registry.close(request.session_id, "it was closed by its user")
        return pool_pb2.CloseSessionResponse()

    @translated
    async def AttachSession(  # noqa: N802
        self, request: pool_pb2.AttachSessionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pool_pb2.AttachSessionResponse:
        notebook_id = checked_text("notebook_id", request.notebook_id)
        notebook_name = checked_text("notebook_name", request.notebook_name)
        notebook_key = checked_text("notebook_key", request.notebook_key)
        info = self._registry.attach(request.session_id, notebook_id, notebook_name, notebook_key)
        return pool_pb2.AttachSessionResponse(
            session=session_info_message(info, self.node, self.prices) if info is not None else None
        )

    @translated
    async def DetachSession(  # noqa: N802
        self, request: pool_pb2.DetachSessionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pool_pb2.DetachSessionResponse:
        info = self._registry.detach(request.session_id)
        return pool_pb2.DetachSessionResponse(session=session_info_message(info, self.node, self.prices))

    @translated
    async def WatchSamples(  # noqa: N802
        self, request: pool_pb2.WatchSamplesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        if not 0 <= request.history_s <= KEPT_S:
            raise InvalidRequestError(f"history_s is from 0 to {KEPT_S:g}, {request.history_s:g} asked")
        known = {accelerator.id for accelerator in self._registry.ledger.accelerators}
        if unknown := set(request.accelerator_ids) - known:
            raise InvalidRequestError(f"no accelerator {min(unknown)!r} here")
        with self._registry.in_use():
            batches = self._sampler.watch(
                request.history_s, frozenset(request.accelerator_ids), history_only=request.history_only
            )
            async with contextlib.aclosing(batches):
                async for batch in batches:
                    await context.write(sample_batch_message(self._registry.samples(batch)))

    @translated
    async def Shutdown(  # noqa: N802
        self, request: pool_pb2.ShutdownRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pool_pb2.ShutdownResponse:
        if not context.peer().startswith("unix:") or not current_caller().administrator:
            raise NotServedError(
                "an agent is ended over its own Unix socket only", "end its process with SIGTERM on its machine"
            )
        if not (request.close_sessions or request.keep_sessions):
            self._registry.refuse_if_open()
        self._shut_down(request.keep_sessions)
        return pool_pb2.ShutdownResponse()

    def _state(self) -> pool_pb2.PoolState:
        ledger, holders = self._registry.ledger, self._registry.holders()
        return pool_pb2.PoolState(
            offers=[offer_message(offer, self.node, self.prices) for offer in ledger.offers()],
            accelerators=[
                accelerator_message(
                    each,
                    self.node,
                    holders.get(each.id),
                    other_user=each.id in holders and holders[each.id] is None,
                )
                for each in ledger.accelerators
            ],
            sessions=self._sessions(),
            node=node_message(self.node),
            time_unix_s=self._registry.now(),
        )

    def _sessions(self) -> list[pool_pb2.SessionInfo]:
        infos = [*self._registry.infos(), *self._registry.waiting()]
        return [session_info_message(info, self.node, self.prices) for info in infos]

    def _checked(self, request: SessionRequest) -> SessionRequest:
        return checked_request(request, self._identity)


def check_version(protocol_version: int, client_version: str, identity: AgentIdentity) -> None:
    """Refuses a client that could misunderstand this agent.

    Raises:
        VersionMismatchError: It speaks another version of the protocol.
    """
    if protocol_version == VERSION:
        return
    older_client = protocol_version < VERSION
    raise VersionMismatchError(
        f"this nbgpu {client_version or '(unknown version)'} speaks protocol {protocol_version},"
        f" the agent's nbgpu {identity.version} speaks protocol {VERSION}",
        "upgrade nbgpu in the notebook's environment: `pip install --upgrade nbgpu`, then restart the kernel"
        if older_client
        else "upgrade nbgpu on the agent's machine: `pip install --upgrade nbgpu`, then restart the agent",
    )


def checked_request(request: SessionRequest, identity: AgentIdentity) -> SessionRequest:
    """Returns the request with paths that can be used; a working folder that is not there is left out.

    Raises:
        InterpreterRefusedError: Clients may not choose on this agent.
        InvalidRequestError: The interpreter is no absolute path, or not there, or there is a snapshot as well.
        NotServedError: There is a snapshot, and the agent builds no environments.
    """
    if request.snapshot_digest and not identity.environments:
        raise NotServedError("this agent does not build environments", "leave out the snapshot")
    if request.snapshot_digest and request.python:
        raise InvalidRequestError("a session has either an interpreter or a snapshot", "leave out one of them")
    if not identity.allow_client_python:
        if request.python or request.working_folder:
            raise InterpreterRefusedError(
                "this agent chooses interpreter and working folder by itself",
                "leave them out, or set `c.AgentApp.allow_client_python = True` in the agent's nbgpu_config.py",
            )
        return request
    if request.python:
        _check_interpreter(Path(request.python))
    folder = Path(request.working_folder)
    if request.working_folder and not (folder.is_absolute() and folder.is_dir()):
        return replace(request, working_folder="")
    return request


def _check_interpreter(path: Path) -> None:
    if not path.is_absolute():
        raise InvalidRequestError(f"the interpreter {str(path)!r} is no absolute path", "send `sys.executable`")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InvalidRequestError(
            f"there is no interpreter {str(path)!r} on this node ({error.strerror})", "send `sys.executable`"
        ) from error
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK):
        raise InvalidRequestError(f"the interpreter {str(path)!r} is no file that can be run", "send `sys.executable`")
