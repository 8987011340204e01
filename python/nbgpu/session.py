"""`nbgpu.attach` and the Session that it returns: the same as the magics, from Python, and its async twin."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, NoReturn, TypeVar, overload

from nbgpu import errors, words
from nbgpu.cell_record import CellRecord
from nbgpu.client.background import background, wait_for
from nbgpu.execution import Request
from nbgpu.kernel_shutdown import HOLD_S, NotebookEndingError, ShutdownWatch, watch_shutdown
from nbgpu.live_metrics.readings import as_frame, recorded_rows
from nbgpu.notebook import OnUpdate, current_request, notebook_id, this_notebook
from nbgpu.output import RemoteResult, choose_publisher
from nbgpu.session_client import CLIENT_ID, SessionClient
from nbgpu.spec import Spec, parse_spec
from nbgpu.stack_report import NameOf, cell_name, stacks_in_words
from nbgpu.values.exchange import Exchange, Run
from nbgpu.values.handle import Handle
from nbgpu.values.synchroniser import Wish
from nbgpu.workspace.missing_files import missing_file_hint
from nbgpu.workspace.plan import Direction
from nbgpu.workspace.report import SyncReport
from nbgpu.workspace.workspace import is_shared, this_workspace
from nbgpu_protocol.v1 import pool_pb2

T = TypeVar("T")

_ESCALATE_AFTER_S = 1.0
"""A second interrupt within this time is taken for the same press."""
_PATIENCE_S = 3.0
"""After this time without an end the person is told that a second interrupt ends the kernel."""


def attach(
    spec: str | None = None,
    *,
    new: bool = False,
    wait: bool = True,
    on_update: OnUpdate | None = None,
    pool: str | None = None,
) -> Session:
    """Attaches this notebook to a session that has what the spec asks for, and opens one if it has none.

    Used as a context manager the session is closed at the end; otherwise it goes on, as from `%gpu attach`, if this is
    a notebook, and is closed at the end of the process if it is not.

    Args:
        spec: Such as "H100x8"; None for the session that the notebook has, else whatever the agent prefers.
        new: Open one even if the notebook has one that would do.
        wait: Queue if nothing is free now. An interrupt leaves the queue.
        on_update: Told what is happening, on this thread.
        pool: Name of the pool to ask; None: the one that has the notebook's session, else the first that can grant it.

    Raises:
        SpecError: The spec cannot be read.
        NoSuchPoolError: There is no pool of that name.
        NoSuchAcceleratorError: Nothing of that type is here.
        CanNeverFitError: There will never be as many.
        BusyError: Nothing is free, and `wait` is not set.
        KernelFailedError: The session's kernel did not start.
        AgentStartError: This machine's agent did not start.
    """
    client, _ = open_session(
        parse_spec(spec) if spec else None, new=new, wait=wait, on_update=on_update, pool_name=pool
    )
    background().run(this_notebook().choose(client))
    return Session(client)


def open_session(
    spec: Spec | None,
    *,
    new: bool = False,
    wait: bool = True,
    on_update: OnUpdate | None = None,
    pool_name: str | None = None,
    idle_close_s: float | None = None,
) -> tuple[SessionClient, bool]:
    """Does what `attach` does, and returns the session and whether it was open before, without choosing it."""
    return run_telling(
        lambda tell: this_notebook().open(
            spec, new=new, wait=wait, on_update=tell, pool_name=pool_name, idle_close_s=idle_close_s
        ),
        on_update,
    )


async def attach_async(
    spec: str | None = None, *, new: bool = False, wait: bool = True, pool: str | None = None
) -> AsyncSession:
    """The async twin of `attach`; cancelling it leaves the queue."""
    parsed: Spec | None = parse_spec(spec) if spec else None
    client, _ = await _await(this_notebook().open(parsed, new=new, wait=wait, pool_name=pool))
    await _await(this_notebook().choose(client))
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

    def _prepare(
        self,
        code: str,
        execution_count: int | None,
        values: dict[str, Any] | None = None,
        buffers: Sequence[bytes] = (),
        *,
        silent: bool = False,
        spmd: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        record: CellRecord | None = None,
    ) -> tuple[Request, Coroutine[Any, Any, None]]:
        """Returns the request, and the coroutine that sends it."""
        parent = current_request()
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": parent["content"].get("allow_stdin", False),
            "stop_on_error": False,
        }
        metadata = {key: value for key, value in parent.get("metadata", {}).items() if key == "cellId"}
        own: dict[str, Any] = {"execution_count": execution_count} if execution_count is not None else {}
        if values:
            own["values"] = values
        if spmd:
            own["spmd"] = dict(spmd)
        if timeout_s is not None:
            own["timeout_s"] = timeout_s
        if not silent and notebook_id():
            own["notebook_id"] = notebook_id()
        header = {**parent["header"], "msg_type": "execute_request"}
        request = Request(header, CLIENT_ID, choose_publisher(), reply_to_input=self._reply_to_input)
        self._client.take_notices()
        if record is not None:
            own.update(record.take())
        if own:
            metadata["nbgpu"] = own
        _flush()
        return request, self._client.send(request, content, metadata, buffers)

    def _reply_to_input(self, question: Any, answer: str) -> None:
        header = {**current_request()["header"], "msg_type": "input_reply"}
        background().submit(self._client.reply_to_input(question, answer, header))

    def _finish(self, request: Request) -> RemoteResult | None:
        try:
            result = request.outcome()
        except FileNotFoundError as error:
            self._tell_of_missing_file(error)
            raise
        for payload in request.payloads:
            request.publisher.show_payload(payload)
        if result is not None:
            request.publisher.show_result(result)
        return result

    def _execute(
        self, code: str, run: Run, inputs: Mapping[str, Any] | None, outputs: Sequence[str] | None
    ) -> RemoteResult | dict[str, Any] | None:
        """Runs code with inputs, and returns its outputs, or what its last expression showed. Blocks."""
        if not inputs and outputs is None:
            return self._finish(run(code, {}, [], silent=False))
        found: list[RemoteResult | None] = []
        exchange = Exchange(self._client, run)
        values = exchange.run_with(
            code, inputs or {}, outputs or (), lambda request: found.append(self._finish(request))
        )
        return values if outputs is not None else found[0]

    def _tell_of_missing_file(self, error: FileNotFoundError) -> None:
        """Says so where a file that was not found there is beside the notebook."""
        if not is_shared(self._client):
            folder = this_notebook().attachment.folder
            hint = missing_file_hint(error, folder, self._client.info.working_folder)
            if hint is not None:
                print(f"nbgpu: {hint}", file=sys.stderr, flush=True)

    async def _sync(
        self, paths: Sequence[str], only: Literal["to", "from"] | None, *, dry_run: bool
    ) -> SyncReport | None:
        direction = Direction(only or "both")
        return await this_workspace().sync(self._client, paths, direction=direction, dry_run=dry_run)

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

    @overload
    def execute(
        self, code: str, *, execution_count: int | None = None, inputs: Mapping[str, Any] | None = None
    ) -> RemoteResult | None: ...

    @overload
    def execute(
        self,
        code: str,
        *,
        execution_count: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str],
    ) -> dict[str, Any]: ...

    def execute(
        self,
        code: str,
        *,
        execution_count: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str] | None = None,
    ) -> RemoteResult | dict[str, Any] | None:
        """Runs code in the session, with its output shown here, and returns what its last expression showed.

        An interrupt reaches the code and waits for its end; a second one, a second or more later, ends the kernel.

        Args:
            code: As in a cell: magics and top-level await included.
            execution_count: The number that tracebacks and `Out` over there use; by default the next one there.
            inputs: Variables that it is to have, by name. No others are sent, nor are any changed here.
            outputs: Names of variables whose values are returned, by name, when it has run; instead of what its last
                expression showed.

        Raises:
            NotPicklableError: An input cannot be sent, or an output cannot come back.
            NotDefinedError: There is no such output.
            BaseException: What the code raised, of its own type where that can be had here, else RemoteError.
            KernelDiedError: The kernel ended while the code ran.
            SessionClosedError: The session was closed, or its agent ended.
            EnvironmentImpossibleError: The node cannot have what was installed here since.
            BuildFailedError: It could not be built there.
        """
        run_telling(lambda tell: this_notebook().bring_up_to_date(self._client, code, tell), None)
        run = functools.partial(self._run, execution_count=execution_count)
        return self._execute(code, run, inputs, outputs)

    def push(self, *names: str) -> None:
        """Sends variables of this notebook to the session, whatever their size."""
        Exchange(self._client, self._run).push(names)

    def pull(self, *names: str) -> None:
        """Binds variables of the session here, by value, whatever their size."""
        Exchange(self._client, self._run).pull(names)

    def sync(self, *paths: str, only: Literal["to", "from"] | None = None, dry_run: bool = False) -> SyncReport | None:
        """Brings the files beside the notebook and those of the session in step.

        What changed here since the last sync goes there, what changed there comes here. Where both changed the
        notebook's goes there, and the session's is kept there under another name. No file is deleted here. An
        interrupt leaves whole files; the next sync goes on where it was.

        Args:
            paths: Files, folders and globs, relative to the notebook's folder; none: those of the last sync. What
                `.gitignore` and `.nbgpuignore` leave out stays, unless it is a file that is named itself.
            only: "to" changes the session's folder only, "from" the notebook's only.
            dry_run: Only say what would be done.

        Returns:
            What was done, in words as a string; None where the session works in the notebook's folder itself.

        Raises:
            WorkspaceError: A path is outside of the notebook's folder, or nowhere, or stays where it is.
            LocalDiskError: There is no space here.
            DiskFullError: There is no space on the node.
            NoSuchSessionError: The session is closed.
            AgentUnreachableError: The connection was cut.
        """
        return background().run(self._sync(paths, only, dry_run=dry_run))

    def _run(
        self,
        code: str,
        values: dict[str, Any],
        buffers: list[bytes],
        *,
        silent: bool,
        execution_count: int | None = None,
        spmd: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        record: CellRecord | None = None,
    ) -> Request:
        """Runs code and waits for the answer, interruptibly. What is silent is not the person's, and not bounded."""
        if self._needs_reviving:
            background().run(self._revive())
        limit_s = None if silent else timeout_s
        record = None if silent else record
        while True:
            request, sending = self._prepare(
                code, execution_count, values, buffers, silent=silent, spmd=spmd, timeout_s=limit_s, record=record
            )
            background().submit(sending)
            try:
                wait_interruptibly(self._client, request)
            except errors.KernelDiedError:
                if not (request.was_refused and self._needs_reviving):
                    raise
                background().run(self._revive())  # it ended before this came to it
            else:
                return request

    def interrupt(self) -> bool:
        """Interrupts what runs in the session; returns whether something did."""
        return background().run(self._client.pool.interrupt(self.id))

    def restart(self) -> None:
        """Ends the kernel and starts a fresh one; the accelerators are kept."""
        background().run(self._client.revive_kernel())

    def logs(self) -> str:
        """Returns what the kernel's process wrote outside of cells."""
        return background().run(self._client.pool.read_log(self.id))

    def stacks(self, *, all_threads: bool = False) -> str:
        """Returns where the session's code is now, in words: of its kernel, and of each rank of a call that runs.

        It does not wait for the kernel, whatever that does.

        Args:
            all_threads: Those that wait for work, or for messages, too.

        Raises:
            KernelDiedError: There is no kernel, or it does not answer.
        """
        return background().run(_stacks(self._client, cell_name, all_threads=all_threads))

    def samples(self, last_s: float = 60.0) -> Any:
        """Returns what its accelerators did: a pandas DataFrame, or a list of dicts where there is no pandas.

        There is a row for each accelerator and reading, oldest first, with units in the columns' names; unknown is
        NaN, or None. Times are `time_unix_s`, in seconds since the epoch, and of a DataFrame also its index.

        Args:
            last_s: Of how many seconds, up to 3600; of GPUs at most since the session has them.
        """
        return as_frame(background().run(recorded_rows(self._client, last_s)))

    def info(self) -> pool_pb2.SessionInfo:
        """Returns the session as its agent knows it."""
        return background().run(_info(self._client))

    def detach(self) -> None:
        """Leaves the session running, without this notebook."""
        background().run(this_notebook().leave(self._client))

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
        await _await(this_notebook().bring_up_to_date(self._client, code))
        return await self._in_thread(lambda run: self._execute(code, run, inputs, outputs), execution_count)

    async def push(self, *names: str) -> None:
        """Sends variables of this notebook to the session, whatever their size."""
        await self._in_thread(lambda run: Exchange(self._client, run).push(names))

    async def pull(self, *names: str) -> None:
        """Binds variables of the session here, by value, whatever their size."""
        await self._in_thread(lambda run: Exchange(self._client, run).pull(names))

    async def _in_thread(self, work: Callable[[Run], T], execution_count: int | None = None) -> T:
        """Has work done that blocks. Cancelling interrupts what runs for it, and waits for the end."""
        if self._needs_reviving:
            await _await(self._revive())
        requests: list[Request] = []
        cancelled = threading.Event()
        sending_one = threading.Lock()

        def run(code: str, values: dict[str, Any], buffers: list[bytes], *, silent: bool) -> Request:
            with sending_one:
                if cancelled.is_set():  # while its values were encoded
                    raise errors.CommandError("the execution was cancelled")
                request, sending = self._prepare(code, execution_count, values, buffers, silent=silent)
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
                    await _await(self._client.pool.interrupt(self.id, request.id))
            await working
            raise

    async def sync(
        self, *paths: str, only: Literal["to", "from"] | None = None, dry_run: bool = False
    ) -> SyncReport | None:
        """Brings files in step; see `Session.sync`."""
        return await _await(self._sync(paths, only, dry_run=dry_run))

    async def interrupt(self) -> bool:
        return await _await(self._client.pool.interrupt(self.id))

    async def restart(self) -> None:
        await _await(self._client.revive_kernel())

    async def logs(self) -> str:
        return await _await(self._client.pool.read_log(self.id))

    async def stacks(self, *, all_threads: bool = False) -> str:
        """Returns where the session's code is now; see `Session.stacks`."""
        return await _await(_stacks(self._client, cell_name, all_threads=all_threads))

    async def samples(self, last_s: float = 60.0) -> Any:
        """Returns what its accelerators did; see `Session.samples`."""
        return as_frame(await _await(recorded_rows(self._client, last_s)))

    async def info(self) -> pool_pb2.SessionInfo:
        return await _await(_info(self._client))

    async def detach(self) -> None:
        await _await(this_notebook().leave(self._client))

    async def close(self) -> None:
        await _await(this_notebook().close(self._client))


def execute_cell(
    client: SessionClient,
    code: str,
    wish: Wish,
    *,
    execution_count: int | None = None,
    spmd: Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
    record: CellRecord | None = None,
) -> Any:
    """Runs a cell's code with what it reads of this notebook sent before, and what it binds bound here after.

    Args:
        client: The session.
        code: The cell's.
        wish: What is to travel.
        execution_count: As `Session.execute`.
        timeout_s: For how long it may run, from when it begins; None: for ever.
        spmd: For a cell on ranks: what `nbgpu.ranks.spmd.wish_for` returned.
        record: What the agent is told of the cell; None: the code is not the whole of one.

    Returns:
        What its last expression showed.

    Raises:
        BaseException: As `Session.execute` does; nothing is bound then.
    """
    session = Session(client)
    run = functools.partial(
        session._run, execution_count=execution_count, timeout_s=timeout_s, spmd=spmd, record=record
    )
    exchange = Exchange(client, run)
    return exchange.run_cell(code, wish, session._finish)


def fetch_value(client: SessionClient, handle: Handle) -> Any:
    """Brings the value of a handle; see `Handle.fetch`."""
    return Exchange(client, Session(client)._run).fetch(handle)


def wait_interruptibly(client: SessionClient, request: Request) -> None:
    """Waits for a request; the first interrupt is passed on, a later one ends the kernel, a third one gives up.

    Raises:
        NotebookEndingError: The interrupt was how the notebook's own kernel is shut down; what runs over there goes on.
        KeyboardInterrupt: The third one.
        Error: The request failed for a reason that is not the cell's.
    """
    shutdown = watch_shutdown()
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
                    if _is_ending(shutdown):
                        raise NotebookEndingError(
                            "this notebook's kernel was shut down; the cell goes on in its session, and `%gpu attach`"
                            " in the notebook's next kernel shows what it prints"
                        ) from None
                    cleanup.enter_context(_hint_after(_PATIENCE_S, request))
                    background().submit(_interrupt(client, request, escalate=False))
                elif now - first_at > _ESCALATE_AFTER_S:
                    escalated = True
                    print("nbgpu: ending the session's kernel", file=sys.stderr, flush=True)
                    background().submit(_interrupt(client, request, escalate=True))


def _is_ending(shutdown: ShutdownWatch | None) -> bool:
    """Says whether an interrupt is the beginning of a shutdown; another one meanwhile is a person who insists."""
    try:
        return shutdown is not None and shutdown.is_asked_within(HOLD_S)
    except KeyboardInterrupt:
        return False


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


async def _stacks(client: SessionClient, name_of: NameOf, *, all_threads: bool) -> str:
    response, info = await asyncio.gather(client.pool.stacks(client.id), _info(client))
    return stacks_in_words(response, info, name_of, show_all=all_threads)


def _raise(error: BaseException) -> NoReturn:
    raise error


def run_telling(start: Callable[[OnUpdate], Coroutine[Any, Any, T]], on_update: OnUpdate | None) -> T:
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
