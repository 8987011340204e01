"""`nbgpu.attach` and the Session that it returns: the same as the magics, from Python, and its async twin."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

from nbgpu import errors, words
from nbgpu.client.background import background, wait_for
from nbgpu.execution import Request
from nbgpu.notebook import OnUpdate, current_request, notebook_id, this_notebook
from nbgpu.output import RemoteResult, choose_publisher
from nbgpu.session_client import CLIENT_ID, SessionClient
from nbgpu.spec import Spec, parse_spec
from nbgpu_protocol.v1 import pool_pb2

T = TypeVar("T")

_ESCALATE_AFTER_S = 1.0
"""A second interrupt within this time is taken for the same press."""
_PATIENCE_S = 3.0
"""After this time without an end the person is told that a second interrupt ends the kernel."""


def attach(
    spec: str | None = None, *, new: bool = False, wait: bool = True, on_update: OnUpdate | None = None
) -> Session:
    """Attaches this notebook to a session that has what the spec asks for, and opens one if it has none.

    Used as a context manager the session is closed at the end; otherwise it goes on, as from `%gpu attach`, if this is
    a notebook, and is closed at the end of the process if it is not.

    Args:
        spec: Such as "H100x8"; None for the session that the notebook has, else whatever the agent prefers.
        new: Open one even if the notebook has one that would do.
        wait: Queue if nothing is free now. An interrupt leaves the queue.
        on_update: Told what is happening, on this thread.

    Raises:
        SpecError: The spec cannot be read.
        NoSuchAcceleratorError: Nothing of that type is here.
        CanNeverFitError: There will never be as many.
        BusyError: Nothing is free, and `wait` is not set.
        KernelFailedError: The session's kernel did not start.
        AgentStartError: This machine's agent did not start.
    """
    client, _ = open_session(parse_spec(spec) if spec else None, new=new, wait=wait, on_update=on_update)
    this_notebook().chosen = client
    return Session(client)


def open_session(
    spec: Spec | None, *, new: bool = False, wait: bool = True, on_update: OnUpdate | None = None
) -> tuple[SessionClient, bool]:
    """Does what `attach` does, and returns the session and whether it was open before, without choosing it."""
    return _run_telling(lambda tell: this_notebook().open(spec, new=new, wait=wait, on_update=tell), on_update)


async def attach_async(spec: str | None = None, *, new: bool = False, wait: bool = True) -> AsyncSession:
    """The async twin of `attach`; cancelling it leaves the queue."""
    parsed: Spec | None = parse_spec(spec) if spec else None
    client, _ = await _await(this_notebook().open(parsed, new=new, wait=wait))
    this_notebook().chosen = client
    return AsyncSession(client)


class _SessionBase:
    """What Session and AsyncSession have in common."""

    def __init__(self, client: SessionClient) -> None:
        self._client = client
        if not notebook_id():
            # Nobody could find it again.
            background().call_at_close(self._close_quietly)

    @property
    def id(self) -> str:
        return self._client.id

    @property
    def accelerators(self) -> tuple[str, ...]:
        """The types of the accelerators held, one an accelerator."""
        return tuple(each.type for each in self._client.info.accelerators)

    def __repr__(self) -> str:
        held = words.accelerators_in_words(self._client.info.accelerators)
        state = "closed" if self._client.end is not None else f"on {self._client.info.node.hostname}"
        return f"<nbgpu session {self.id}: {held}, {state}>"

    async def _close_quietly(self) -> None:
        with contextlib.suppress(errors.Error):
            await this_notebook().close(self._client)

    def _prepare(self, code: str, execution_count: int | None) -> tuple[Request, Coroutine[Any, Any, None]]:
        """Returns the request, and the coroutine that sends it."""
        parent = current_request()
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": parent["content"].get("allow_stdin", False),
            "stop_on_error": False,
        }
        metadata = {key: value for key, value in parent.get("metadata", {}).items() if key == "cellId"}
        if execution_count is not None:
            metadata["nbgpu"] = {"execution_count": execution_count}
        header = {**parent["header"], "msg_type": "execute_request"}
        request = Request(header, CLIENT_ID, choose_publisher(), reply_to_input=self._reply_to_input)
        _flush()
        return request, self._client.send(request, content, metadata)

    def _reply_to_input(self, question: Any, answer: str) -> None:
        header = {**current_request()["header"], "msg_type": "input_reply"}
        background().submit(self._client.reply_to_input(question, answer, header))

    def _finish(self, request: Request) -> RemoteResult | None:
        result = request.outcome()
        for payload in request.payloads:
            request.publisher.show_payload(payload)
        if result is not None:
            request.publisher.show_result(result)
        return result

    @property
    def _needs_reviving(self) -> bool:
        """Whether the kernel ended; asked on the caller's thread, as the way to the loop and back takes 0.4 ms."""
        return self._client.kernel_exit is not None and self._client.end is None

    async def _revive(self) -> None:
        """Starts a fresh kernel in the place of one that ended, and says so."""
        exited = self._client.kernel_exit
        if exited is None:  # somebody else did
            return
        await self._client.revive_kernel()
        what = words.exit_in_words(exited)
        print(f"nbgpu: {what}; this is a fresh one, without the variables", file=sys.stderr, flush=True)


class Session(_SessionBase):
    """A session: accelerators and a kernel on their node, until it is closed.

    Made by `attach`. Its methods block, and can be interrupted.
    """

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.close()

    def execute(self, code: str, *, execution_count: int | None = None) -> RemoteResult | None:
        """Runs code in the session, with its output shown here, and returns what its last expression showed.

        An interrupt reaches the code and waits for its end; a second one, a second or more later, ends the kernel.

        Args:
            code: As in a cell: magics and top-level await included.
            execution_count: The number that tracebacks and `Out` over there use; by default the next one there.

        Raises:
            BaseException: What the code raised, of its own type where that can be had here, else RemoteError.
            KernelDiedError: The kernel ended while the code ran.
            SessionClosedError: The session was closed, or its agent ended.
        """
        if self._needs_reviving:
            background().run(self._revive())
        request, sending = self._prepare(code, execution_count)
        background().submit(sending)
        wait_interruptibly(self._client, request)
        return self._finish(request)

    def interrupt(self) -> bool:
        """Interrupts what runs in the session; returns whether something did."""
        return background().run(self._client.pool.interrupt(self.id))

    def restart(self) -> None:
        """Ends the kernel and starts a fresh one; the accelerators are kept."""
        background().run(self._client.revive_kernel())

    def logs(self) -> str:
        """Returns what the kernel's process wrote outside of cells."""
        return background().run(self._client.pool.read_log(self.id))

    def info(self) -> pool_pb2.SessionInfo:
        """Returns the session as its agent knows it."""
        return background().run(_info(self._client))

    def detach(self) -> None:
        """Leaves the session running, without this notebook."""
        background().run(this_notebook().detach(self._client))

    def close(self) -> None:
        """Ends the session, its kernel and processes, and frees its accelerators. Idempotent."""
        background().run(this_notebook().close(self._client))


class AsyncSession(_SessionBase):
    """The async twin of Session, for the person's own event loop."""

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, frames: TracebackType | None
    ) -> None:
        await self.close()

    async def execute(self, code: str, *, execution_count: int | None = None) -> RemoteResult | None:
        """Runs code in the session; see `Session.execute`. Cancelling interrupts the code and waits for its end."""
        if self._needs_reviving:
            await _await(self._revive())
        request, sending = self._prepare(code, execution_count)
        background().submit(sending)
        waiting = asyncio.ensure_future(asyncio.to_thread(request.wait))
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            await _await(self._client.pool.interrupt(self.id, request.id))
            with contextlib.suppress(errors.Error):
                await waiting
            raise
        return self._finish(request)

    async def interrupt(self) -> bool:
        return await _await(self._client.pool.interrupt(self.id))

    async def restart(self) -> None:
        await _await(self._client.revive_kernel())

    async def logs(self) -> str:
        return await _await(self._client.pool.read_log(self.id))

    async def info(self) -> pool_pb2.SessionInfo:
        return await _await(_info(self._client))

    async def detach(self) -> None:
        await _await(this_notebook().detach(self._client))

    async def close(self) -> None:
        await _await(this_notebook().close(self._client))


def wait_interruptibly(client: SessionClient, request: Request) -> None:
    """Waits for a request; the first interrupt is passed on, a later one ends the kernel, a third one gives up."""
    first_at: float | None = None
    escalated = False
    with contextlib.ExitStack() as cleanup:
        while True:
            try:
                request.wait()
                return
            except KeyboardInterrupt:
                now = time.monotonic()
                if escalated:
                    raise
                if first_at is None:
                    first_at = now
                    cleanup.enter_context(_hint_after(_PATIENCE_S, request))
                    background().submit(_interrupt(client, request, escalate=False))
                elif now - first_at > _ESCALATE_AFTER_S:
                    escalated = True
                    print("nbgpu: ending the session's kernel", file=sys.stderr, flush=True)
                    background().submit(_interrupt(client, request, escalate=True))


async def _interrupt(client: SessionClient, request: Request, *, escalate: bool) -> None:
    try:
        await client.pool.interrupt(client.id, request.id, escalate=escalate)
    except errors.Error as error:
        request.fail(error)


@contextlib.contextmanager
def _hint_after(delay_s: float, request: Request) -> Iterator[None]:
    def hint() -> None:
        if not request.is_answered:
            text = "nbgpu: the cell has not stopped yet; interrupt again to end its kernel, with its variables"
            print(text, file=sys.stderr, flush=True)

    loop = background().loop
    timers: list[asyncio.TimerHandle] = []
    loop.call_soon_threadsafe(lambda: timers.append(loop.call_later(delay_s, hint)))
    try:
        yield
    finally:
        loop.call_soon_threadsafe(lambda: timers[0].cancel())


async def _info(client: SessionClient) -> pool_pb2.SessionInfo:
    for info in await client.pool.list_sessions():
        if info.id == client.id:
            return info
    raise errors.NoSuchSessionError(f"the session {client.id} is closed")


def _run_telling(start: Callable[[OnUpdate], Coroutine[Any, Any, T]], on_update: OnUpdate | None) -> T:
    """Runs a coroutine on the background loop, and tells its updates on this thread."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    done = object()
    future = background().submit(start(events.put))
    future.add_done_callback(lambda _: events.put(done))
    try:
        while (event := _next(events)) is not done:
            if on_update is not None:
                on_update(event)
    except KeyboardInterrupt:
        future.cancel()
        raise
    return wait_for(future)


def _next(events: queue.SimpleQueue[Any]) -> Any:
    while True:
        try:
            return events.get(timeout=0.1 if sys.platform == "win32" else None)
        except queue.Empty:
            continue


async def _await(coroutine: Coroutine[Any, Any, T]) -> T:
    """Awaits a coroutine of the background loop from the person's own loop."""
    return await asyncio.wrap_future(background().submit(coroutine))


def _flush() -> None:
    """Sends what was printed before, so that it stands above what the session says.

    ipykernel's streams wait for their thread on every flush, 0.2 ms each, also where there is nothing to flush.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and getattr(stream, "_flush_pending", True):
            stream.flush()
