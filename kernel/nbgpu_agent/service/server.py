"""Puts the services on one gRPC server, and the server on an address."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from nbgpu_agent.errors import AddressRefusedError
from nbgpu_agent.listening import ListenAddress
from nbgpu_agent.service.authentication import TokenInterceptor
from nbgpu_agent.service.environment import EnvironmentService
from nbgpu_agent.service.pool import PoolService
from nbgpu_protocol.v1 import environment_pb2_grpc, pool_pb2_grpc

if TYPE_CHECKING:
    from nbgpu_agent.blobs import BlobStore
    from nbgpu_agent.registry import SessionRegistry

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.so_reuseport", 0),  # two agents on one port would each get some of the connections
    ("grpc.max_receive_message_length", 4 << 20),  # fragments and blobs come in pieces of 1 MiB
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.max_concurrent_streams", 1000),
    # A client whose machine went away behind a tunnel is noticed within 50 s, and one may ask as often as every 5 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


def make_server(
    token: str, pool: PoolService, registry: SessionRegistry | None = None, blobs: BlobStore | None = None
) -> grpc.aio.Server:
    """Returns a server that is not started and has no address yet.

    Args:
        token: Asked of every RPC.
        pool: The Pool service.
        registry: Whose sessions the Session service serves; without it, and without blobs, there is no such service.
        blobs: Contents that clients put and get.
    """
    server = grpc.aio.server(interceptors=[TokenInterceptor(token)], options=OPTIONS)
    pool_pb2_grpc.add_PoolServicer_to_server(pool, server)
    environments = registry.environments if registry is not None else None
    environment_pb2_grpc.add_EnvironmentServicer_to_server(EnvironmentService(registry, environments), server)
    if registry is not None and blobs is not None:
        from nbgpu_agent.service.session import add_session_service
        from nbgpu_agent.service.workspace import add_workspace_service

        add_session_service(server, registry, blobs, pool.node, pool.prices, pool.latest_samples)
        add_workspace_service(server, registry, blobs)
    return server


def bind(server: grpc.aio.Server, address: ListenAddress) -> str:
    """Puts the server on the address; returns the target by which clients reach it.

    A Unix socket is its owner's alone from the moment it is there.

    Raises:
        AddressRefusedError: The address is taken, or is not this machine's.
    """
    previous = os.umask(0o177)
    try:
        port = server.add_insecure_port(address.target())
    except RuntimeError as error:
        raise AddressRefusedError(
            f"cannot listen on {address.target()}: it is in use, or is no address of this machine",
            "choose another with --listen",
        ) from error
    finally:
        os.umask(previous)
    return address.target(port)
