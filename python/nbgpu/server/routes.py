"""Which handler answers which path, and the OpenAPI description of it all."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any, ClassVar

from jupyter_server.auth.decorator import authorized
from tornado.web import authenticated

from nbgpu.server.api import ErrorBody, Operation, schema_of
from nbgpu.server.handlers import EventsHandler, NbgpuHandler, RetryHandler, SamplesHandler, StateHandler
from nbgpu.server.pool_handlers import PoolHandler, PoolsHandler, PoolTestHandler
from nbgpu.server.replay_handlers import ReplayHandler, SavedHandler
from nbgpu.server.session_handlers import (
    AttachHandler,
    DetachHandler,
    InterruptHandler,
    LogsHandler,
    RenewHandler,
    RequestHandler,
    RestartHandler,
    SessionHandler,
    SessionsHandler,
    StacksHandler,
)

PREFIX = "/nbgpu/api"
DESCRIPTION_FILE = "openapi.json"


class DescriptionHandler(NbgpuHandler):
    """The description itself, as the package has it."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {"get": Operation("This description", response=dict)}

    @authenticated
    @authorized
    async def get(self) -> None:
        self.finish(resources.files("nbgpu.server").joinpath(DESCRIPTION_FILE).read_text(encoding="utf-8"))


ROUTES: dict[str, type[NbgpuHandler | EventsHandler | ReplayHandler]] = {
    "/events": EventsHandler,
    "/state": StateHandler,
    "/samples": SamplesHandler,
    "/retry": RetryHandler,
    "/openapi.json": DescriptionHandler,
    "/sessions": SessionsHandler,
    "/sessions/{session_id}": SessionHandler,
    "/sessions/{session_id}/attach": AttachHandler,
    "/sessions/{session_id}/detach": DetachHandler,
    "/sessions/{session_id}/interrupt": InterruptHandler,
    "/sessions/{session_id}/restart": RestartHandler,
    "/sessions/{session_id}/renew": RenewHandler,
    "/sessions/{session_id}/logs": LogsHandler,
    "/sessions/{session_id}/stacks": StacksHandler,
    "/notebooks/{kernel_id}/replay": ReplayHandler,
    "/notebooks/{kernel_id}/saved": SavedHandler,
    "/requests/{request_id}": RequestHandler,
    "/pools": PoolsHandler,
    "/pools/test": PoolTestHandler,
    "/pools/{name}": PoolHandler,
}
"""Paths as OpenAPI writes them, below the prefix; the first that fits answers."""


def patterns() -> list[tuple[str, type[NbgpuHandler | EventsHandler | ReplayHandler]]]:
    """Returns the routes as Tornado takes them."""
    return [
        (PREFIX + re.sub(r"\{\w+\}", "([^/]+)", path.replace(".", r"\.")), handler) for path, handler in ROUTES.items()
    ]


def describe() -> dict[str, Any]:
    """Returns the OpenAPI description, made from what the handlers say of themselves."""
    definitions: dict[str, Any] = {}
    error = schema_of(ErrorBody, definitions)
    paths: dict[str, Any] = {}
    for path, handler in ROUTES.items():
        names = re.findall(r"\{(\w+)\}", path)
        paths[path] = {
            method: _describe_operation(operation, names, error, definitions)
            for method, operation in handler.OPERATIONS.items()
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nbgpu's part of the Jupyter server",
            "version": "1",
            "description": "Authentication, XSRF protection and origins are the Jupyter server's."
            " Times are in seconds since the epoch, null is unknown.",
        },
        "servers": [{"url": PREFIX}],
        "paths": paths,
        "components": {"schemas": dict(sorted(definitions.items()))},
    }


def description_text() -> str:
    """Returns the description as the package's file has it."""
    return json.dumps(describe(), indent=1, ensure_ascii=False) + "\n"


def _describe_operation(
    operation: Operation, names: list[str], error: dict[str, Any], definitions: dict[str, Any]
) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    for each in operation.parameters:
        schema = {**schema_of(type(each.default), definitions), "default": each.default}
        parameters.append({"name": each.name, "in": "query", "description": each.what, "schema": schema})
    answer: dict[str, Any] = {"description": operation.summary}
    if operation.response is not None:
        free = operation.response is dict
        answer["content"] = _json({"type": "object"} if free else schema_of(operation.response, definitions))
    described: dict[str, Any] = {"summary": operation.summary, "parameters": parameters}
    if operation.body is not None:
        described["requestBody"] = {"content": _json(schema_of(operation.body, definitions))}
    described["responses"] = {
        str(operation.status): answer,
        "default": {"description": "What went wrong", "content": _json(error)},
    }
    return described


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
