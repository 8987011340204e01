"""gRPC's standard health service: it says that something serves here, and nothing else."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from nbgpu_agent.service.translated_errors import translated


class HealthService(aio.HealthServicer):  # type: ignore[misc,unused-ignore]
    """Knows of the server as a whole only, under the empty name."""

    @translated
    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        return await super().Check(request, context)

    @translated
    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        if request.service:  # the base class would remember every name that is asked for
            await context.abort(grpc.StatusCode.NOT_FOUND)
        await super().Watch(request, context)
