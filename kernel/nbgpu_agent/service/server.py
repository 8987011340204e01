"""Puts the services on one gRPC server, and the server on an address."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from nbgpu_agent.errors import AddressRefusedError
from nbgpu_agent.identity.attempts import Attempts
from nbgpu_agent.listening import ListenAddress
from nbgpu_agent.service.authentication import IdentityInterceptor
from nbgpu_agent.service.environment import EnvironmentService
from nbgpu_agent.service.health import HealthService
from nbgpu_agent.service.identity import IdentityService
from nbgpu_agent.service.limits import OPTIONS
from nbgpu_agent.service.pool import PoolService
from nbgpu_protocol.discovery import TLS_SCHEME
from nbgpu_protocol.v1 import accounting_pb2_grpc, environment_pb2_grpc, identity_pb2_grpc, pool_pb2_grpc

if TYPE_CHECKING:
    from nbgpu_agent.accounting.accounts import Accounts
    from nbgpu_agent.audit import AccessAudit
    from nbgpu_agent.blobs import BlobStore
    from nbgpu_agent.identity.users import UserStore
    from nbgpu_agent.registry import SessionRegistry


def make_server(
    token: str | None,
    pool: PoolService,
    registry: SessionRegistry | None = None,
    blobs: BlobStore | None = None,
    *,
    users: UserStore | None = None,
    certificates: bool = False,
    accounts: Accounts | None = None,
    audit: AccessAudit | None = None,
) -> grpc.aio.Server:
    """Returns a server that is not started and has no address yet.

    Args:
        token: The owner's; None: there are users only. One or a user's is asked of every RPC.
        pool: The Pool service.
        registry: Whose sessions the Session service serves; without it, and without blobs, there is no such service.
        blobs: Contents that clients put and get.
        users: Who else than the owner has tokens.
        certificates: Whether users have to show certificates of their own besides.
        accounts: What users spent; None: there is no such service.
        audit: Told who gets in, and who does not.
    """
    attempts = Attempts(time.monotonic, audit.refused) if audit is not None else Attempts(time.monotonic)
    interceptor = IdentityInterceptor(token, users, certificates=certificates, attempts=attempts)
    server = grpc.aio.server(interceptors=[interceptor], options=OPTIONS)
    identity = IdentityService(users, certificates=certificates, attempts=attempts, audit=audit)
    identity_pb2_grpc.add_IdentityServicer_to_server(identity, server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthService(), server)
    pool_pb2_grpc.add_PoolServicer_to_server(pool, server)
    environments = registry.environments if registry is not None else None
    environment_pb2_grpc.add_EnvironmentServicer_to_server(EnvironmentService(registry, environments), server)
    if registry is not None and blobs is not None:
        from nbgpu_agent.service.session import add_session_service
        from nbgpu_agent.service.workspace import add_workspace_service

        add_session_service(server, registry, blobs, pool.node, pool.prices, pool.latest_samples)
        add_workspace_service(server, registry, blobs)
    if accounts is not None:
        from nbgpu_agent.service.accounting import AccountingService

        accounting_pb2_grpc.add_AccountingServicer_to_server(AccountingService(accounts), server)
    return server


def bind(server: grpc.aio.Server, address: ListenAddress, credentials: grpc.ServerCredentials | None = None) -> str:
    """Puts the server on the address; returns the target by which clients reach it.

    A Unix socket is its owner's alone from the moment it is there.

    Args:
        server: That is not started yet.
        address: Off this machine only with credentials.
        credentials: For TLS; None: there is none.

    Raises:
        AddressRefusedError: The address is taken, or is not this machine's.
    """
    previous = os.umask(0o177)
    try:
        if credentials is not None:
            port = server.add_secure_port(address.target(), credentials)
        else:
            port = server.add_insecure_port(address.target())
    except RuntimeError as error:
        raise AddressRefusedError(
            f"cannot listen on {address.target()}: it is in use, or is no address of this machine",
            "choose another with --listen",
        ) from error
    finally:
        os.umask(previous)
    return f"{TLS_SCHEME if credentials is not None else ''}{address.target(port)}"
