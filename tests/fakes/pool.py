"""A pool that says what a test tells it to: a real gRPC server on loopback, in the test's process."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from nbgpu_protocol import ERROR_METADATA_KEY, VERSION
from nbgpu_protocol.v1 import pool_pb2, pool_pb2_grpc

GB = 10**9


class FakePool(pool_pb2_grpc.PoolServicer):
    """Serves the state last published, checks the token, and counts who watches."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self.address = ""
        self.protocol_version = VERSION
        self.watches_begun = 0
        self._changed = threading.Condition()
        self._state = pool_pb2.PoolState()
        self._revision = 0
        self._watching = 0
        self._open = True
        self.history: list[pool_pb2.Sample] = []
        self.sample_watches = 0
        self.closed: list[str] = []
        """Ids of sessions that were asked to be closed."""
        self._readings: list[pool_pb2.SampleBatch] = []

    def read(self, samples: list[pool_pb2.Sample]) -> None:
        """Makes one reading, which every watcher of samples gets from now on, and which is history for later ones."""
        with self._changed:
            self.history += samples
            self._readings.append(pool_pb2.SampleBatch(samples=samples))
            self._changed.notify_all()

    def wait_for_sampling(self, condition: Callable[[int], bool], deadline_s: float = 10) -> None:
        """Returns once the number of watches of samples meets the condition, or fails."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.sample_watches), deadline_s), f"{self.sample_watches}"

    @property
    def watching(self) -> int:
        with self._changed:
            return self._watching

    def publish(self, state: pool_pb2.PoolState) -> None:
        with self._changed:
            self._state = state
            self._revision += 1
            self._changed.notify_all()

    def wait_for_watching(self, condition: Callable[[int], bool], deadline_s: float = 10) -> None:
        """Returns once the number of watches meets the condition, or fails."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self._watching), deadline_s), f"{self._watching} watch"

    def end_watches(self) -> None:
        """Ends every watch that runs, as an agent does that ends."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._watching == 0, 10)
            self._open = True

    def Handshake(
        self, request: pool_pb2.HandshakeRequest, context: grpc.ServicerContext
    ) -> pool_pb2.HandshakeResponse:
        self._check_token(context)
        if request.protocol_version != self.protocol_version:
            error = pool_pb2.Error(
                reason=pool_pb2.VERSION_MISMATCH,
                message=f"the agent speaks protocol {self.protocol_version}, the client {request.protocol_version}",
                hint="update nbgpu on both sides",
            )
            context.set_trailing_metadata(((ERROR_METADATA_KEY, error.SerializeToString()),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message)
        return pool_pb2.HandshakeResponse(
            protocol_version=self.protocol_version,
            agent_version="0",
            embedded=True,
            node=pool_pb2.Node(id="n", hostname="lab-1"),
        )

    def ListOffers(
        self, request: pool_pb2.ListOffersRequest, context: grpc.ServicerContext
    ) -> pool_pb2.ListOffersResponse:
        self._check_token(context)
        return pool_pb2.ListOffersResponse(offers=self._state.offers)

    def ListSessions(
        self, request: pool_pb2.ListSessionsRequest, context: grpc.ServicerContext
    ) -> pool_pb2.ListSessionsResponse:
        self._check_token(context)
        return pool_pb2.ListSessionsResponse(sessions=self._state.sessions)

    def CloseSession(
        self, request: pool_pb2.CloseSessionRequest, context: grpc.ServicerContext
    ) -> pool_pb2.CloseSessionResponse:
        self._check_token(context)
        self.closed.append(request.session_id)
        return pool_pb2.CloseSessionResponse()

    def WatchPool(
        self, request: pool_pb2.WatchPoolRequest, context: grpc.ServicerContext
    ) -> Iterator[pool_pb2.PoolState]:
        self._check_token(context)
        context.add_callback(self._notify)
        with self._changed:
            self._watching += 1
            self.watches_begun += 1
            self._changed.notify_all()
        try:
            sent = None
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: sent != self._revision or not self._open or not context.is_active()  # noqa: B023
                    )
                    if not self._open or not context.is_active():
                        return
                    sent, state = self._revision, self._state
                yield state
        finally:
            with self._changed:
                self._watching -= 1
                self._changed.notify_all()

    def WatchSamples(
        self, request: pool_pb2.WatchSamplesRequest, context: grpc.ServicerContext
    ) -> Iterator[pool_pb2.SampleBatch]:
        self._check_token(context)
        if request.history_s and self.history:
            yield pool_pb2.SampleBatch(samples=self.history)
        if request.history_only:
            return
        context.add_callback(self._notify)
        with self._changed:
            position = len(self._readings)
            self.sample_watches += 1
            self._changed.notify_all()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: position < len(self._readings) or not self._open or not context.is_active()  # noqa: B023
                    )
                    if not self._open or not context.is_active():
                        return
                    batch = self._readings[position]
                    position += 1
                yield batch
        finally:
            with self._changed:
                self.sample_watches -= 1
                self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _check_token(self, context: grpc.ServicerContext) -> None:
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token, or a wrong one")


@contextmanager
def run_fake_pool() -> Iterator[FakePool]:
    """Serves a fake pool on a free port of loopback."""
    pool = FakePool()
    server = grpc.server(ThreadPoolExecutor(max_workers=16, thread_name_prefix="fake-pool"))
    pool_pb2_grpc.add_PoolServicer_to_server(pool, server)
    pool.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield pool
    finally:
        server.stop(grace=None).wait()


def offer(type: str, total: int, free: int, **fields: Any) -> pool_pb2.Offer:
    return pool_pb2.Offer(type=type, total=total, free=free, node_hostname="lab-1", **fields)


def accelerators(type: str, count: int, *, simulated: bool = True) -> list[pool_pb2.Accelerator]:
    return [
        pool_pb2.Accelerator(
            id=f"sim-{type.lower()}-{index}", index=index, type=type, memory_bytes=80 * GB, simulated=simulated
        )
        for index in range(count)
    ]


def session(id: str, notebook_id: str, notebook_name: str, **fields: Any) -> pool_pb2.SessionInfo:
    """Returns a session on two simulated H100, idle if the fields do not say otherwise."""
    defaults: dict[str, Any] = {
        "phase": pool_pb2.READY,
        "kernel_state": pool_pb2.KERNEL_IDLE,
        "accelerators": accelerators("H100", 2),
        "node": pool_pb2.Node(id="n", hostname="lab-1"),
        "spec_text": "H100x2",
    }
    return pool_pb2.SessionInfo(id=id, notebook_id=notebook_id, notebook_name=notebook_name, **{**defaults, **fields})
