"""The Environment service: plans and builds environments, and keeps those of sessions up to date."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from nbgpu_agent.environments.plan import Action, Plan
from nbgpu_agent.environments.progress import Progress
from nbgpu_agent.errors import InvalidRequestError, NotServedError
from nbgpu_agent.identity.caller import current_caller
from nbgpu_agent.ownership import OwnSessions
from nbgpu_agent.service.translated_errors import translated
from nbgpu_protocol.v1 import environment_pb2, environment_pb2_grpc

if TYPE_CHECKING:
    from nbgpu_agent.environments.session_environments import SessionEnvironments
    from nbgpu_agent.registry import SessionRegistry

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
T = TypeVar("T")

_MAX_VARIABLES = 1000
_MAX_VARIABLE_CHARACTERS = 100_000
_ACTIONS = {
    Action.CACHED: environment_pb2.CACHED,
    Action.FETCH: environment_pb2.FETCH,
    Action.BUILD: environment_pb2.BUILD,
    Action.SWAP: environment_pb2.SWAP,
    Action.LEAVE_OUT: environment_pb2.LEAVE_OUT,
    Action.IMPOSSIBLE: environment_pb2.IMPOSSIBLE,
    Action.SEND: environment_pb2.SEND,
    Action.PROVIDED: environment_pb2.PROVIDED,
}


class EnvironmentService(environment_pb2_grpc.EnvironmentServicer):
    """Serves the environments of an agent.

    Args:
        environments: None on an agent that builds none.
    """

    def __init__(self, registry: SessionRegistry | None, environments: SessionEnvironments | None) -> None:
        self._registry = OwnSessions(registry) if registry is not None else None
        self._environments = environments

    @translated
    async def Plan(  # noqa: N802
        self, request: environment_pb2.PlanRequest, context: Context
    ) -> environment_pb2.PlanResponse:
        materialiser = self._served().materialiser_of(current_caller().user)
        plan = await materialiser.plan(await materialiser.read_snapshot(request.snapshot_digest))
        return plan_message(plan, built=materialiser.store.find(plan.environment_id) is not None)

    @translated
    async def Materialise(  # noqa: N802
        self, request: environment_pb2.MaterialiseRequest, context: Context
    ) -> None:
        materialiser = self._served().materialiser_of(current_caller().user)
        snapshot = await materialiser.read_snapshot(request.snapshot_digest)

        async def build(on_progress: Callable[[Progress], None]) -> str:
            environment = await materialiser.materialise(snapshot, on_progress)
            materialiser.store.release(environment.id)
            return environment.id

        await self._stream(build, context)

    @translated
    async def UpdateSession(  # noqa: N802
        self, request: environment_pb2.UpdateSessionRequest, context: Context
    ) -> None:
        environments = self._served() if request.snapshot_digest else None
        if self._registry is None:
            raise NotServedError("this agent has no sessions")
        session = self._registry.get(request.session_id)
        variables = _checked_variables(dict(request.variables))

        async def update(on_progress: Callable[[Progress], None]) -> str:
            environment_id = ""
            if environments is not None:

                def tell(progress: Progress) -> None:
                    session.note_environment(progress.facts())
                    on_progress(progress)

                before = session.info().environment
                try:
                    environment_id = await environments.prepare(session, request.snapshot_digest, tell)
                finally:  # else it would stand there as being built
                    if session.info().environment.current or session.info().environment.total is not None:
                        session.note_environment(before)
            if variables:
                setting = session.setting
                session.update(replace(setting, variables={**setting.variables, **variables}))
            return environment_id

        await self._stream(update, context)

    async def _stream(self, work: Callable[[Callable[[Progress], None]], Awaitable[str]], context: Context) -> None:
        async with contextlib.aclosing(with_progress(work)) as updates:
            async for update in updates:
                if isinstance(update, Progress):
                    message = environment_pb2.MaterialiseUpdate(
                        done=update.done, total=update.total, current=update.current
                    )
                else:
                    message = environment_pb2.MaterialiseUpdate(environment_id=update)
                await context.write(message)
                if context.cancelled():  # a write does not tell
                    raise asyncio.CancelledError

    def _served(self) -> SessionEnvironments:
        if self._environments is None:
            raise NotServedError(
                "this agent does not build environments",
                "sessions run in the interpreter of the notebook, or of the agent",
            )
        return self._environments


async def with_progress(
    work: Callable[[Callable[[Progress], None]], Awaitable[T]],
) -> AsyncGenerator[Progress | T, None]:
    """Yields what the work tells while it goes on, and its result last; closed early, it cancels the work."""
    told: asyncio.Queue[Progress | None] = asyncio.Queue()
    task = asyncio.ensure_future(work(told.put_nowait))
    task.add_done_callback(lambda _: told.put_nowait(None))
    try:
        while (progress := await told.get()) is not None:
            yield progress
        yield task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen, also where nobody iterates any more


def plan_message(plan: Plan, *, built: bool) -> environment_pb2.PlanResponse:
    return environment_pb2.PlanResponse(
        distributions=[
            environment_pb2.PlannedDistribution(
                name=each.name,
                version=each.version,
                action=_ACTIONS[each.action],
                size_bytes=each.size_bytes,
                why=each.why,
                added=each.added,
            )
            for each in plan.distributions
        ],
        estimated_s=0.0 if built else plan.estimate.seconds,
        environment_id="" if plan.impossible else plan.environment_id,
        built=built,
        python_version=plan.python.version,
        download_bytes=plan.estimate.download_bytes,
        unknown_sizes=plan.estimate.unknown_sizes,
        bytes_per_s=plan.estimate.bytes_per_s,
        rate_measured=plan.estimate.rate_measured,
    )


def _checked_variables(variables: dict[str, str]) -> dict[str, str]:
    if len(variables) > _MAX_VARIABLES:
        raise InvalidRequestError(f"{len(variables)} environment variables, {_MAX_VARIABLES} at most")
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name or "\0" in value or len(value) > _MAX_VARIABLE_CHARACTERS:
            raise InvalidRequestError(f"{name[:100]!r} cannot be an environment variable with the value that it has")
    return variables
