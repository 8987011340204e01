"""The Environment service: reserved in this version, and refused in words."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc

from nbgpu_agent.errors import NotServedError
from nbgpu_agent.service.translated_errors import translated
from nbgpu_protocol.v1 import environment_pb2, environment_pb2_grpc


class EnvironmentService(environment_pb2_grpc.EnvironmentServicer):
    """Answers NOT_IMPLEMENTED; the capability "environments" is not listed either."""

    @translated
    async def Plan(  # noqa: N802
        self, request: environment_pb2.PlanRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> environment_pb2.PlanResponse:
        _refuse()

    @translated
    async def Materialise(  # noqa: N802
        self, request: environment_pb2.MaterialiseRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        _refuse()


def _refuse() -> NoReturn:
    raise NotServedError(
        "this agent does not build environments", "sessions run in the interpreter of the notebook, or of the agent"
    )
