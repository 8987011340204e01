"""The Identity service: a client that has a code gets a token."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from nbgpu_agent.errors import CodeRefusedError, NotServedError, TooManyAttemptsError
from nbgpu_agent.identity.attempts import Attempts, address_of
from nbgpu_agent.service.authentication import certificate_user
from nbgpu_agent.service.conversions import checked_text
from nbgpu_agent.service.translated_errors import translated
from nbgpu_protocol.v1 import identity_pb2, identity_pb2_grpc

if TYPE_CHECKING:
    from nbgpu_agent.audit import AccessAudit
    from nbgpu_agent.identity.users import UserStore

logger = logging.getLogger(__name__)


class IdentityService(identity_pb2_grpc.IdentityServicer):
    """Gives out tokens.

    Args:
        users: None on an agent whose owner is its only user.
        certificates: Whether a code is good only for who shows the user's certificate.
        attempts: Counts the failures of each address.
        audit: Told who paired.
    """

    def __init__(
        self,
        users: UserStore | None,
        *,
        certificates: bool = False,
        attempts: Attempts | None = None,
        audit: AccessAudit | None = None,
    ) -> None:
        self._users = users
        self._certificates = certificates
        self._attempts = attempts or Attempts(time.monotonic)
        self._audit = audit

    @translated
    async def Pair(  # noqa: N802
        self, request: identity_pb2.PairRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> identity_pb2.PairResponse:
        if self._users is None:
            raise NotServedError("this agent has no users to pair with", "use the token that it printed")
        address = address_of(context.peer())
        if wait_s := self._attempts.wait_s(address):
            raise TooManyAttemptsError(
                "too many wrong codes came from this address", f"wait {math.ceil(wait_s)} s, and try again"
            )
        shown = certificate_user(context) or "" if self._certificates else None
        try:
            grant = self._users.pair(
                checked_text("code", request.code),
                checked_text("client_name", request.client_name),
                required_user=shown,
            )
        except CodeRefusedError as error:
            self._attempts.note_failure(address, error.message)
            raise
        if self._audit is not None:
            self._audit.paired(grant.user, request.client_name, address)
        logger.info("a client at %s paired as %s", address, grant.user)
        return identity_pb2.PairResponse(
            token=grant.token,
            user=grant.user,
            administrator=grant.administrator,
            expires_unix_s=grant.expires_unix_s,
        )
