"""Lets nobody in who does not say who it is, and says of every RPC who calls."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import inspect
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from nbgpu_agent.errors import TooManyAttemptsError, UnauthenticatedError
from nbgpu_agent.identity.attempts import Attempts, address_of
from nbgpu_agent.identity.caller import OWNER, Caller, set_caller
from nbgpu_agent.service.translated_errors import abort_with
from nbgpu_agent.service.unreadable import with_readable_requests

if TYPE_CHECKING:
    from nbgpu_agent.identity.users import UserStore

AUTHORIZATION = "authorization"
PAIR = "/nbgpu.v1.Identity/Pair"
OPEN_METHODS = frozenset({PAIR, "/grpc.health.v1.Health/Check"})
"""Asked without a token: the first to get one, the second tells that something serves here, which a port does too."""
RECHECK_S = 1.0
"""How long a stream outlives its token."""
_SCHEME = "bearer"


class IdentityInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,type-arg,unused-ignore]
    """Refuses every RPC, of whatever service, that does not carry `authorization: Bearer TOKEN`.

    Args:
        token: The owner's; None: the owner is one of the users.
        users: Who else there is.
        certificates: Whether a user's RPCs also have to come over a connection that shows the user's certificate.
        attempts: Counts the failures of each address.
    """

    def __init__(
        self,
        token: str | None,
        users: UserStore | None = None,
        *,
        certificates: bool = False,
        attempts: Attempts | None = None,
    ) -> None:
        self._token = token.encode() if token else None
        self._users = users
        self._certificates = certificates
        self._attempts = attempts or Attempts(time.monotonic)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        if handler_call_details.method in OPEN_METHODS:
            return with_readable_requests(await continuation(handler_call_details))
        try:
            caller = self._authenticated(handler_call_details.invocation_metadata)
        except UnauthenticatedError as error:
            return self._refusal(error)
        set_caller(caller)
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        handler = with_readable_requests(handler)
        return self._guarded(handler, caller) if caller.token_id else handler

    def _authenticated(self, metadata: Sequence[tuple[str, str | bytes]]) -> Caller:
        values = [value for key, value in metadata if key == AUTHORIZATION]
        scheme, _, token = values[0].partition(" ") if len(values) == 1 and isinstance(values[0], str) else ("", "", "")
        if scheme.lower() == _SCHEME:
            token = token.strip()
            if self._token is not None and hmac.compare_digest(token.encode(), self._token):
                return OWNER
            if self._users is not None:
                return self._users.authenticate(token)
        raise UnauthenticatedError(
            "the agent's token is missing or wrong",
            "take the token from the line that `nbgpu agent serve` printed; this machine's own agent has another"
            " after every start"
            if self._users is None
            else "pair with the agent by the line that `nbgpu agent invite USER` prints on its machine",
        )

    def _refusal(self, error: UnauthenticatedError) -> Any:
        async def refuse(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            address = address_of(context.peer())
            wait_s = self._attempts.wait_s(address)
            self._attempts.note_failure(address, error.message)
            await abort_with(context, too_many_attempts(wait_s) if wait_s else error)

        # As a stream both ways, it answers before it has read anything, whatever kind of RPC it stands in for.
        return grpc.stream_stream_rpc_method_handler(refuse)

    def _guarded(self, handler: Any, caller: Caller) -> Any:
        """Returns a handler that ends with the caller's token, and that checks the certificate where one is asked."""
        coders = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if not handler.request_streaming and not handler.response_streaming:
            if not self._certificates:
                return handler

            async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
                await self._check_certificate(context, caller)
                return await handler.unary_unary(request, context)

            return grpc.unary_unary_rpc_method_handler(answer, **coders)

        if handler.response_streaming:
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream

            async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
                await self._check_certificate(context, caller)
                await self._while_good(_written(inner, request, context), caller, context)

            if handler.request_streaming:
                return grpc.stream_stream_rpc_method_handler(stream, **coders)
            return grpc.unary_stream_rpc_method_handler(stream, **coders)

        async def take(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            await self._check_certificate(context, caller)
            return await self._while_good(handler.stream_unary(requests, context), caller, context)

        return grpc.stream_unary_rpc_method_handler(take, **coders)

    async def _check_certificate(self, context: grpc.aio.ServicerContext[Any, Any], caller: Caller) -> None:
        if self._certificates and certificate_user(context) != caller.user:
            error = UnauthenticatedError(
                f"the client's certificate is not one of {caller.user!r}, whose token it sends",
                "the agent's owner makes one: `nbgpu agent invite USER --client-certificate FILE`",
            )
            await abort_with(context, error)

    async def _while_good(
        self, work: Coroutine[Any, Any, Any], caller: Caller, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        assert self._users is not None, "only users have tokens that end"
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=RECHECK_S))[0]:
                try:
                    self._users.check(caller)
                except UnauthenticatedError as error:
                    await _ended(task)
                    await abort_with(context, error)
            return task.result()
        finally:
            await _ended(task)


def too_many_attempts(wait_s: float) -> TooManyAttemptsError:
    return TooManyAttemptsError(
        "too many requests of this address had no token, or a wrong one",
        f"wait {math.ceil(wait_s)} s, and correct the token: `nbgpu pool list` shows which pools answer",
    )


def certificate_user(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    """Returns whose certificate the client has shown; None: it has shown none."""
    names = context.auth_context().get("x509_common_name") or ()
    return next(iter(names), b"").decode(errors="replace") or None


async def _written(
    handler: Callable[[Any, Any], Any], request: Any, context: grpc.aio.ServicerContext[Any, Any]
) -> None:
    """Runs a handler of either style that streams its responses."""
    if not inspect.isasyncgenfunction(handler):
        await handler(request, context)
        return
    async with contextlib.aclosing(handler(request, context)) as responses:
        async for response in responses:
            await context.write(response)


async def _ended(task: asyncio.Future[Any]) -> None:
    """Cancels a task, and returns once it has ended, however."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # seen
