"""Turns the agent's exceptions into gRPC statuses: one table, and the decorator that every handler wears."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError

from nbgpu_agent.errors import AgentError
from nbgpu_agent.service.unreadable import refuse_unreadable, unreadable
from nbgpu_protocol import ERROR_METADATA_KEY
from nbgpu_protocol.v1 import pool_pb2

logger = logging.getLogger(__name__)

STATUS_OF_REASON: dict[pool_pb2.Reason, grpc.StatusCode] = {
    pool_pb2.VERSION_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    pool_pb2.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    pool_pb2.NO_SUCH_ACCELERATOR: grpc.StatusCode.NOT_FOUND,
    pool_pb2.CAN_NEVER_FIT: grpc.StatusCode.OUT_OF_RANGE,
    pool_pb2.NO_SUCH_SESSION: grpc.StatusCode.NOT_FOUND,
    pool_pb2.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    pool_pb2.KERNEL_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    pool_pb2.KERNEL_DIED: grpc.StatusCode.ABORTED,
    pool_pb2.SESSIONS_OPEN: grpc.StatusCode.FAILED_PRECONDITION,
    pool_pb2.NOT_IMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    pool_pb2.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    pool_pb2.NO_SUCH_BLOB: grpc.StatusCode.NOT_FOUND,
    pool_pb2.DIGEST_MISMATCH: grpc.StatusCode.DATA_LOSS,
    pool_pb2.SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    pool_pb2.INTERNAL: grpc.StatusCode.INTERNAL,
    pool_pb2.ADDRESS_REFUSED: grpc.StatusCode.INVALID_ARGUMENT,
    pool_pb2.INTERPRETER_REFUSED: grpc.StatusCode.PERMISSION_DENIED,
    pool_pb2.ENVIRONMENT_IMPOSSIBLE: grpc.StatusCode.FAILED_PRECONDITION,
    pool_pb2.BUILD_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    pool_pb2.DISK_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    pool_pb2.LIMIT_REACHED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    pool_pb2.TOO_MANY_ATTEMPTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    pool_pb2.CODE_REFUSED: grpc.StatusCode.PERMISSION_DENIED,
}

# All metadata of a response together must stay below gRPC's soft limit of 8 KiB, above which it may be refused; the
# error travels twice, in base64 (metadata) and as the status' details.
_MAX_MESSAGE_BYTES = 4000
_MAX_DETAILS_BYTES = 400

Handler = TypeVar("Handler", bound=Callable[..., Any])


def translated(handler: Handler) -> Handler:
    """Wraps a handler so that what it raises reaches the client as a status with a serialised `nbgpu.v1.Error`.

    Takes coroutine functions (of all four kinds of RPC) and async generator functions, bound or not; the context is
    their last positional argument.
    """
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def generate(*arguments: Any) -> AsyncIterator[Any]:
            try:
                refuse_unreadable(arguments[-2])
                async with contextlib.aclosing(handler(*arguments)) as responses:
                    async for response in responses:
                        yield response
            except Exception as error:  # noqa: BLE001
                await _abort(arguments[-1], error)

        return generate  # type: ignore[return-value]

    @functools.wraps(handler)
    async def call(*arguments: Any) -> Any:
        try:
            refuse_unreadable(arguments[-2])
            return await handler(*arguments)
        except Exception as error:  # noqa: BLE001
            await _abort(arguments[-1], error)

    return call  # type: ignore[return-value]


def error_message(error: Exception) -> pool_pb2.Error:
    """Returns what the client learns of the exception."""
    if isinstance(error, AgentError):
        reason, message, hint = error.reason, error.message, error.hint
    else:
        reason = pool_pb2.INTERNAL
        message = f"the agent failed: {type(error).__name__}: {error}"
        hint = "this is a bug of nbgpu; the agent's log has the traceback"
    return pool_pb2.Error(
        reason=reason, message=_shortened(message, _MAX_MESSAGE_BYTES), hint=_shortened(hint, _MAX_DETAILS_BYTES)
    )


async def abort_with(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    """Ends the RPC with the status that fits the exception."""
    message = error_message(error)
    await context.abort(
        STATUS_OF_REASON[message.reason],
        _shortened(message.message, _MAX_DETAILS_BYTES),
        trailing_metadata=((ERROR_METADATA_KEY, message.SerializeToString()),),
    )
    raise AssertionError("abort returned")


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error  # the handler aborted by itself
    if isinstance(error, DecodeError):  # of a stream of requests
        error = unreadable()
    if context.done():
        if not isinstance(error, AgentError):
            logger.debug("a handler failed after its client had gone", exc_info=error)
        return
    if not isinstance(error, AgentError):
        logger.error("a handler failed", exc_info=error)
    await abort_with(context, error)


def _shortened(text: str, limit_bytes: int) -> str:
    """Returns the text, its middle left out where it is too long: the cause is at the start, last lines at the end."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit_bytes:
        return encoded.decode()
    start, end = encoded[: limit_bytes // 4], encoded[-(limit_bytes * 3 // 4 - 8) :]
    return f"{start.decode(errors='ignore')}\n…\n{end.decode(errors='ignore')}"
