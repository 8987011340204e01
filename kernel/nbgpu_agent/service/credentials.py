"""The certificates of an agent as gRPC takes them, read again when they were renewed."""

from __future__ import annotations

import logging

import grpc

from nbgpu_agent.errors import AgentError
from nbgpu_agent.identity.certificates import Identity

logger = logging.getLogger(__name__)


def server_credentials(identity: Identity, *, require_client_certificate: bool) -> grpc.ServerCredentials:
    """Returns credentials with which a server shows its newest certificate.

    Args:
        require_client_certificate: Refuse connections whose client shows no certificate of the same authority.

    Raises:
        InvalidRequestError: There are no certificates, or others can read the keys.
    """
    current = identity.modified_ns()

    def configuration() -> grpc.ServerCertificateConfiguration:
        authority = identity.authority_pem() if require_client_certificate else None
        return grpc.ssl_server_certificate_configuration([identity.server_pem()], root_certificates=authority)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC, on a thread of its own, at each connection. None: the last one goes on."""
        nonlocal current
        try:
            modified = identity.modified_ns()
            if modified == current:
                return None
            fresh = configuration()
        except (AgentError, OSError, ValueError) as error:
            logger.warning("the renewed certificate cannot be used, the last one goes on: %s", error)
            return None
        current = modified
        logger.info("the certificate was renewed")
        return fresh

    return grpc.dynamic_ssl_server_credentials(configuration(), renewed, require_client_certificate)
