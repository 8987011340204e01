"""`nbgpu.attach_async` and the AsyncSession that it returns: the twins of `nbgpu.session`, for an event loop."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, NoReturn, TypeVar, overload

from nbgpu import cell_execution, errors
from nbgpu.attached_session import AttachedSession
from nbgpu.client.background import awaited, background
from nbgpu.execution import Request
from nbgpu.live_metrics.readings import as_frame, recorded_rows
from nbgpu.notebook import this_notebook
from nbgpu.output import RemoteResult
from nbgpu.spec import Spec, parse_spec
from nbgpu.values.exchange import Run
from nbgpu.workspace.report import SyncReport
from nbgpu_protocol.v1 import pool_pb2

T = TypeVar("T")


async def attach_async(
    spec: str | None = None, *, new: bool = False, wait: bool = True, pool: str | None = None
) -> AsyncSession:
    """The async twin of `attach`; cancelling it leaves the queue."""
    parsed: Spec | None = parse_spec(spec) if spec else None
    client, _ = await awaited(this_notebook().open(parsed, new=new, wait=wait, pool_name=pool))
    await awaited(this_notebook().choose(client))
    return AsyncSession(client)


class AsyncSession(AttachedSession):
    """The async twin of Session, for the person's own event loop."""

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, frames: TracebackType | None
    ) -> None:
        await self.close()

    @overload
    async def execute(
        self, code: str, *, execution_count: int | None = None, inputs: Mapping[str, Any] | None = None
    ) -> RemoteResult | None: ...

    @overload
    async def execute(
        self,
        code: str,
        *,
        execution_count: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str],
    ) -> dict[str, Any]: ...

    async def execute(
        self,
        code: str,
        *,
        execution_count: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str] | None = None,
    ) -> RemoteResult | dict[str, Any] | None:
        """Runs code in the session; see `Session.execute`. Cancelling interrupts the code and waits for its end."""
        await awaited(this_notebook().bring_up_to_date(self._client, code))
        return await self._in_thread(
            lambda run: cell_execution.execute(self._client, code, run, inputs, outputs), execution_count
        )

    async def push(self, *names: str) -> None:
        """Sends variables of this notebook to the session, whatever their size."""
        await self._in_thread(lambda run: cell_execution.exchange(self._client, run).push(names))

    async def pull(self, *names: str) -> None:
        """Binds variables of the session here, by value, whatever their size."""
        await self._in_thread(lambda run: cell_execution.exchange(self._client, run).pull(names))

    async def _in_thread(self, work: Callable[[Run], T], execution_count: int | None = None) -> T:
        """Has work done that blocks. Cancelling interrupts what runs for it, and waits for the end."""
        if cell_execution.needs_reviving(self._client):
            await awaited(cell_execution.revive(self._client))
        requests: list[Request] = []
        cancelled = threading.Event()
        sending_one = threading.Lock()

        def run(code: str, values: dict[str, Any], buffers: list[bytes], *, silent: bool) -> Request:
            with sending_one:
                if cancelled.is_set():  # while its values were encoded
                    raise errors.CommandError("the execution was cancelled")
                request, sending = cell_execution.prepare(
                    self._client, code, execution_count, values, buffers, silent=silent
                )
                requests.append(request)
                background().submit(sending)
            request.wait()
            return request

        def outcome() -> Callable[[], T]:
            try:
                result = work(run)
            except BaseException as error:  # noqa: BLE001 - a KeyboardInterrupt that it raised here would end the loop
                return functools.partial(_raise, error)
            return lambda: result

        working = asyncio.ensure_future(asyncio.to_thread(outcome))
        try:
            return (await asyncio.shield(working))()
        except asyncio.CancelledError:
            with sending_one:
                cancelled.set()
            for request in requests:
                if not request.is_answered:
                    await awaited(self._client.pool.interrupt(self.id, request.id))
            await working
            raise

    async def sync(
        self, *paths: str, only: Literal["to", "from"] | None = None, dry_run: bool = False
    ) -> SyncReport | None:
        """Brings files in step; see `Session.sync`."""
        return await awaited(self._sync(paths, only, dry_run=dry_run))

    async def interrupt(self) -> bool:
        return await awaited(self._client.pool.interrupt(self.id))

    async def restart(self) -> None:
        await awaited(self._client.revive_kernel())

    async def logs(self) -> str:
        return await awaited(self._client.pool.read_log(self.id))

    async def stacks(self, *, all_threads: bool = False) -> str:
        """Returns where the session's code is now; see `Session.stacks`."""
        return await awaited(self._stacks(all_threads=all_threads))

    async def samples(self, last_s: float = 60.0) -> Any:
        """Returns what its accelerators did; see `Session.samples`."""
        return as_frame(await awaited(recorded_rows(self._client, last_s)))

    async def info(self) -> pool_pb2.SessionInfo:
        return await awaited(self._info())

    async def detach(self) -> None:
        await awaited(this_notebook().leave(self._client))

    async def close(self) -> None:
        await awaited(this_notebook().close(self._client))


def _raise(error: BaseException) -> NoReturn:
    raise error
