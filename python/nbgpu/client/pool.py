"""A connection to a pool: its RPCs as coroutines, with deadlines, and with failures translated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

import nbgpu
from nbgpu import errors
from nbgpu.client.agent_times import to_own_clock
from nbgpu.client.mending import Mender
from nbgpu.client.trust import TLS_OPTIONS, Trust, UntrustedAgentError, fetch_trust, is_tls
from nbgpu.errors import translated
from nbgpu_protocol import VERSION, blobs
from nbgpu_protocol.discovery import TLS_SCHEME
from nbgpu_protocol.v1 import environment_pb2_grpc, pool_pb2, pool_pb2_grpc, session_pb2, session_pb2_grpc

DEADLINE_S = 10.0
"""For calls that ask the agent for what it knows already."""
KERNEL_DEADLINE_S = 120.0
"""For calls that end or start a kernel."""

_REPEATED = ("Handshake", "ListOffers", "ListSessions", "RenewLease", "CloseSession", "AttachSession", "DetachSession")
"""Calls that may reach the agent twice, and change nothing the second time."""
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "nbgpu.v1.Pool", "method": method} for method in _REPEATED],
            # A connection on which nothing was said for long may be dead, which is seen by the first call only.
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "0.4s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

_CHANNEL_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.default_authority", "localhost"),  # a Unix socket's path is no authority
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # How long an attempt may take: by default 20 s, which a tunnel's end takes that is there when the agent is not.
    ("grpc.min_reconnect_backoff_ms", 5_000),
)


class Pool:
    """A connection to one agent, usable on the event loop on which it was made.

    Args:
        address: `unix:/path`, `127.0.0.1:port`, or `grpcs://host:port`.
        token: Sent with every call.
        trust: By what an agent with TLS is recognised.

    Raises:
        NotOfferedError: The address is neither a Unix socket nor on loopback, and has no TLS.
        UntrustedAgentError: It has, and there is no trust, or a client certificate that cannot be read.
    """

    def __init__(self, address: str, token: str, trust: Trust | None = None) -> None:
        refuse_open_network(address, trust)
        self.address = address
        self._trust = trust
        self.metadata = (("authorization", f"Bearer {token}"),)
        self._credentials = trust.credentials() if is_tls(address) and trust is not None else None
        self._use(self._new_channel())
        self._mender = Mender(lambda: self._new_channel(("grpc.use_local_subchannel_pool", 1)))
        self._mending = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.capabilities: frozenset[str] = frozenset()
        """Names of the agent's optional features, once it has answered a handshake."""

    def _new_channel(self, *options: tuple[str, Any]) -> grpc.aio.Channel:
        if self._credentials is not None:
            target = self.address.removeprefix(TLS_SCHEME)
            return grpc.aio.secure_channel(
                target, self._credentials, options=[*_CHANNEL_OPTIONS[1:], *TLS_OPTIONS, *options]
            )
        return grpc.aio.insecure_channel(self.address, options=[*_CHANNEL_OPTIONS, *options])

    def _use(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._pool = pool_pb2_grpc.PoolStub(channel)
        self.session = session_pb2_grpc.SessionStub(channel)
        self.environment = environment_pb2_grpc.EnvironmentStub(channel)

    async def __aenter__(self) -> Pool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, frames: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        for each in self._retiring:
            each.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._channel.close()

    async def mend(self) -> None:
        """Returns once the agent is connected to, at once where it is; takes as long as it takes.

        The services are another channel's then: what keeps one of `channel` loses it.
        """
        async with self._mending:
            if self._channel.get_state() is grpc.ChannelConnectivity.READY:
                return
            channel, cut = await self._mender.connect(), self._channel
            self._use(channel)
        # What still waits for an answer of the old one has its time to fail by itself.
        retiring = asyncio.get_running_loop().create_task(cut.close(grace=KERNEL_DEADLINE_S))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    def hurry(self) -> None:
        """Has `mend` try now, not a little later."""
        self._mender.hurry()

    async def handshake(self) -> pool_pb2.HandshakeResponse:
        """Compares versions.

        Raises:
            VersionMismatchError: The agent speaks another version of the protocol.
            UntrustedAgentError: It shows another certificate than the one it is recognised by.
        """
        request = pool_pb2.HandshakeRequest(protocol_version=VERSION, client_version=nbgpu.__version__)
        try:
            with translated():
                response: pool_pb2.HandshakeResponse = await self._pool.Handshake(request, **self._call(DEADLINE_S))
        except errors.AgentUnreachableError:
            if self._trust is not None:  # gRPC says of a certificate only that the connection failed
                await asyncio.to_thread(fetch_trust, self.address, self._trust.pin)
            raise
        self.capabilities = frozenset(response.capabilities)
        return response

    @property
    def channel(self) -> grpc.aio.Channel:
        """For the services that have a module of their own. Another one after a cut."""
        return self._channel

    def stream_unary(self, method: str) -> Callable[..., Any]:
        """Returns a call that streams raw bytes to a method and gets bytes back."""
        call: Callable[..., Any] = self._channel.stream_unary(method)
        return call

    async def list_offers(self) -> list[pool_pb2.Offer]:
        with translated():
            response = await self._pool.ListOffers(pool_pb2.ListOffersRequest(), **self._call(DEADLINE_S))
        return list(response.offers)

    async def list_sessions(self) -> list[pool_pb2.SessionInfo]:
        with translated():
            response = await self._pool.ListSessions(pool_pb2.ListSessionsRequest(), **self._call(DEADLINE_S))
        to_own_clock(response, response.time_unix_s)
        return list(response.sessions)

    async def watch(self) -> AsyncIterator[pool_pb2.PoolState]:
        """Yields the pool's whole state now, and again after every change."""
        with translated():
            async for state in self._pool.WatchPool(pool_pb2.WatchPoolRequest(), metadata=self.metadata):
                to_own_clock(state, state.time_unix_s)
                yield state

    async def open_session(self, request: pool_pb2.OpenSessionRequest) -> AsyncGenerator[pool_pb2.SessionUpdate, None]:
        """Yields what is happening until the session is ready; leaving the iteration early withdraws the request."""
        call = self._pool.OpenSession(request, metadata=self.metadata)
        try:
            with translated():
                async for update in call:
                    yield update
        finally:
            call.cancel()

    async def close_session(self, session_id: str) -> None:
        request = pool_pb2.CloseSessionRequest(session_id=session_id)
        with translated():
            await self._pool.CloseSession(request, **self._call(KERNEL_DEADLINE_S))

    async def attach_session(
        self, session_id: str, notebook_id: str, notebook_name: str = "", notebook_key: str = ""
    ) -> None:
        """Makes a session the notebook's, and the one that it uses.

        Args:
            session_id: Empty: the notebook uses none of this pool's from now on, and keeps them.
            notebook_id: Its Jupyter kernel id.
            notebook_name: For lists; empty: as it is.
            notebook_key: By what the notebook is known again when it has another kernel; empty: as it is.
        """
        request = pool_pb2.AttachSessionRequest(
            session_id=session_id, notebook_id=notebook_id, notebook_name=notebook_name, notebook_key=notebook_key
        )
        with translated():
            await self._pool.AttachSession(request, **self._call(DEADLINE_S))

    async def detach_session(self, session_id: str) -> None:
        """Leaves a session running as no notebook's. Idempotent."""
        with translated():
            await self._pool.DetachSession(
                pool_pb2.DetachSessionRequest(session_id=session_id), **self._call(DEADLINE_S)
            )

    async def renew_lease(
        self, session_id: str, duration_s: float = 0, *, idle_close_s: float | None = None
    ) -> pool_pb2.Lease:
        """Extends the session's lease from now on, and has its time without work begin anew.

        Args:
            duration_s: 0: the agent's own.
            idle_close_s: From now on the session is closed after so long without work; 0: never; None: as it was.
        """
        request = pool_pb2.RenewLeaseRequest(session_id=session_id, duration_s=duration_s, idle_close_s=idle_close_s)
        with translated():
            response = await self._pool.RenewLease(request, **self._call(DEADLINE_S))
        lease: pool_pb2.Lease = response.lease
        return lease

    async def watch_samples(
        self, history_s: float = 0, *, history_only: bool = False
    ) -> AsyncGenerator[pool_pb2.SampleBatch, None]:
        """Yields the recorded samples of the last `history_s` seconds, then one batch a sampling interval.

        Args:
            history_s: From 0 to 3600.
            history_only: End after what is recorded.
        """
        request = pool_pb2.WatchSamplesRequest(history_s=history_s, history_only=history_only)
        call = self._pool.WatchSamples(request, metadata=self.metadata)
        try:
            with translated():
                async for batch in call:
                    yield batch
        finally:
            call.cancel()

    async def shut_down(self, *, close_sessions: bool, keep_sessions: bool = False) -> None:
        """Ends the agent.

        Args:
            close_sessions: With its sessions.
            keep_sessions: Leave them, with what they compute, to the agent that is started next.

        Raises:
            SessionsOpenError: It has sessions, and neither is set.
        """
        request = pool_pb2.ShutdownRequest(close_sessions=close_sessions, keep_sessions=keep_sessions)
        with translated():
            await self._pool.Shutdown(request, **self._call(KERNEL_DEADLINE_S))

    async def interrupt(self, session_id: str, request_id: str = "", *, escalate: bool = False) -> bool:
        """Signals what runs in the session; returns whether something did."""
        request = session_pb2.InterruptRequest(session_id=session_id, request_id=request_id, escalate=escalate)
        with translated():
            response = await self.session.Interrupt(request, **self._call(KERNEL_DEADLINE_S))
        return bool(response.delivered)

    async def restart(self, session_id: str) -> pool_pb2.SessionInfo:
        request = session_pb2.RestartRequest(session_id=session_id)
        with translated():
            response = await self.session.Restart(request, **self._call(KERNEL_DEADLINE_S))
        info: pool_pb2.SessionInfo = response.session
        return info

    async def note_notebook(
        self, session_id: str, notebook_id: str, kernel_generation: int, facts: pool_pb2.NotebookFacts
    ) -> None:
        """Has the agent know what the notebook says of itself and the session; in the place of what it said before."""
        request = session_pb2.NoteNotebookRequest(
            session_id=session_id, notebook_id=notebook_id, kernel_generation=kernel_generation, facts=facts
        )
        with translated():
            await self.session.NoteNotebook(request, **self._call(DEADLINE_S))

    async def read_log(self, session_id: str, tail_bytes: int = 0) -> str:
        request = session_pb2.ReadLogRequest(session_id=session_id, tail_bytes=tail_bytes)
        with translated():
            response = await self.session.ReadLog(request, **self._call(DEADLINE_S))
        return str(response.text)

    async def stacks(self, session_id: str) -> session_pb2.StacksResponse:
        """Returns where the session's kernel and its ranks are, also while they compute.

        Raises:
            KernelDiedError: There is no kernel, or it does not answer.
        """
        request = session_pb2.StacksRequest(session_id=session_id)
        with translated():
            response: session_pb2.StacksResponse = await self.session.Stacks(request, **self._call(KERNEL_DEADLINE_S))
        return response

    async def missing_blobs(self, digests: Sequence[str]) -> list[str]:
        """Returns those that the node does not have. Those that it has count as used now."""
        request = session_pb2.MissingBlobsRequest(digests=digests)
        with translated():
            response = await self.session.MissingBlobs(request, **self._call(DEADLINE_S))
        return list(response.digests)

    async def put_blob(self, digest: str, chunks: AsyncIterator[bytes]) -> None:
        """Stores a content, of which the agent checks the digest. Takes as long as it takes."""
        put = self._channel.stream_unary(blobs.PUT)
        with translated():
            await put(chunks, metadata=(*self.metadata, (blobs.DIGEST_METADATA_KEY, digest)))

    async def get_blob(self, digest: str) -> AsyncIterator[bytes]:
        """Yields a content in chunks. Takes as long as it takes."""
        get = self._channel.unary_stream(blobs.GET)
        with translated():
            async for chunk in get(digest.encode("ascii"), metadata=self.metadata):
                yield chunk

    def _call(self, deadline_s: float) -> dict[str, Any]:
        return {"metadata": self.metadata, "timeout": deadline_s}


def refuse_open_network(address: str, trust: Trust | None = None) -> None:
    """Refuses an address on which a token would travel unencrypted, or to nobody knows whom.

    Raises:
        NotOfferedError: The address is neither a Unix socket nor on loopback, and has no TLS.
        UntrustedAgentError: It has, and there is no trust.
    """
    if is_tls(address):
        if trust is None:
            raise UntrustedAgentError(
                f"{address} needs the pin of its certificate",
                "add it by the whole line that `nbgpu agent invite USER` printed on the agent's machine",
            )
        return
    host = address.rpartition(":")[0].strip("[]")
    if not address.startswith("unix:") and host not in ("127.0.0.1", "::1", "localhost"):
        raise errors.NotOfferedError(
            f"{address} is neither a Unix socket nor on loopback, and has no TLS",
            f"add {TLS_SCHEME}{address} by the line that `nbgpu agent invite USER` prints on its machine; or reach"
            " the agent through an SSH tunnel: `ssh -L 7443:127.0.0.1:7443 HOST`, then use 127.0.0.1:7443",
        )
