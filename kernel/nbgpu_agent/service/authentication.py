"""Lets nobody in who does not know the agent's token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from nbgpu_agent.errors import UnauthenticatedError
from nbgpu_agent.service.translated_errors import abort_with

AUTHORIZATION = "authorization"
_SCHEME = "bearer"


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,type-arg,unused-ignore]
    """Refuses every RPC, of whatever service, that does not carry `authorization: Bearer TOKEN`."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        if self._knows_token(handler_call_details.invocation_metadata):
            return await continuation(handler_call_details)
        return _REFUSAL

    def _knows_token(self, metadata: Sequence[tuple[str, str | bytes]]) -> bool:
        values = [value for key, value in metadata if key == AUTHORIZATION]
        if len(values) != 1 or not isinstance(values[0], str):
            return False
        scheme, _, token = values[0].partition(" ")
        return scheme.lower() == _SCHEME and hmac.compare_digest(token.strip().encode(), self._token)


async def _refuse(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await abort_with(
        context,
        UnauthenticatedError(
            "the agent's token is missing or wrong",
            "take the token from the line that `nbgpu agent serve` printed; this machine's own agent has another"
            " after every start",
        ),
    )


# As a stream both ways, it answers before it has read anything, whatever kind of RPC it stands in for.
_REFUSAL = grpc.stream_stream_rpc_method_handler(_refuse)
