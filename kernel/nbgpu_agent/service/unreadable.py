"""Requests that are no messages: gRPC answers them as a failure of the server, we as what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from nbgpu_agent.errors import InvalidRequestError


class Unreadable:
    """Stands in for a request that could not be read."""


def with_readable_requests(handler: Any) -> Any:
    """Returns the handler of an RPC with one request, to which what cannot be read comes as `Unreadable`.

    Of a stream of requests the handler iterates itself, and gets the DecodeError.
    """
    deserialize = handler.request_deserializer
    if handler.request_streaming or deserialize is None:
        return handler
    make: Callable[..., Any] = (
        grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    )

    def read(content: bytes) -> Any:
        try:
            return deserialize(content)
        except (DecodeError, ValueError):
            return Unreadable()

    behavior = handler.unary_stream if handler.response_streaming else handler.unary_unary
    return make(behavior, request_deserializer=read, response_serializer=handler.response_serializer)


def refuse_unreadable(request: object) -> None:
    """Refuses a request that could not be read.

    Raises:
        InvalidRequestError: It could not.
    """
    if isinstance(request, Unreadable):
        raise unreadable()


def unreadable() -> InvalidRequestError:
    return InvalidRequestError(
        "the request is no message of this protocol", "upgrade nbgpu where the notebook or the agent has the older one"
    )
