"""An interceptor for servers without tokens: whoever calls is the agent's owner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from nbgpu_agent.identity.caller import OWNER, set_caller


class AsOwner(grpc.aio.ServerInterceptor):  # type: ignore[misc,type-arg,unused-ignore]
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        set_caller(OWNER)
        return await continuation(handler_call_details)
