"""One session: its kernel, what it executes, and its journal."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import psutil

from nbgpu_agent.cell_timeouts import CellTimeouts
from nbgpu_agent.channels import Channel, message_parts
from nbgpu_agent.connected_clients import ConnectedClients
from nbgpu_agent.errors import KernelDiedError, KernelFailedError
from nbgpu_agent.executions import ExecutionRecord, Request, RequestIds, request_of
from nbgpu_agent.isolation.os_user import OsUser
from nbgpu_agent.journal import (
    DEFAULT_LIMIT_BYTES,
    CellTimedOut,
    Choice,
    Journal,
    KernelEnded,
    KernelStarted,
    Message,
    Notice,
    RequestRefused,
    SessionClosed,
)
from nbgpu_agent.journal_keeping import JournalKeeper
from nbgpu_agent.journal_store import JournalStore, Stored
from nbgpu_agent.kernel_environment import lease_variables
from nbgpu_agent.kernels import Kernel, KernelLauncher
from nbgpu_agent.limits.output import OutputAllowance, Passage
from nbgpu_agent.model import (
    Accelerator,
    Closing,
    EnvironmentFacts,
    Execution,
    KernelExit,
    KernelSetting,
    KernelState,
    Lease,
    Phase,
    SessionInfo,
    SessionRequest,
)
from nbgpu_agent.notebook_facts import NotebookFacts
from nbgpu_agent.session_state import (
    SessionState,
    execution_from_json,
    execution_to_json,
    lease_state,
    request_from_record,
    request_to_record,
    state_to_json,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from nbgpu_agent.measuring import Measurement
    from nbgpu_agent.stacks import Stacks

Measure: TypeAlias = "Callable[[Collection[str], float, float], Measurement | None]"
"""Says what accelerators did from one time to another; None while there is no reading from after that."""

_UNMEASURED = 20
_ARRIVAL_TIMEOUT_S = 5.0
"""How long an interrupt waits for the request that it means, which comes by another way."""
_DRAIN_TIMEOUT_S = 1.0
_NUDGES_S = (0.01, 0.03, 0.1, 0.3, 1.0)
_KEPT_LOG_BYTES = 1 << 20
_UNKNOWN_ENTRIES = 1 << 20
"""More than an agent and a kernel that ended together can have shown without having written them down."""
_LAZY_MESSAGE_TYPES = frozenset({"execute_input"})


class Session:
    """One session: its kernel, what it executes, and its journal. For one event loop.

    Executions are handed to the kernel one at a time and wait here otherwise. So one that waits can be withdrawn, and
    the error of one client's cell does not abort another client's, as it does with what waits in a kernel.

    Args:
        on_change: Called after every change that `info` shows.
        journal_bytes: What the journal keeps for clients that come back.
        measure: Asked about each execution once it has ended; None: nothing is known of what accelerators do.
        on_executed: Called with each cell that has ended.
        output_bytes: What a cell may print and display; None: no bound.
        store: Keeps it for the next agent; None: it ends with this one.
        executor: Of one thread, on which the store is used.
        state: What an earlier agent wrote down of it; to go on by `resume`.
        stored: What was in the store.
    """

    def __init__(
        self,
        session_id: str,
        request: SessionRequest,
        lease: Lease | None,
        launcher: KernelLauncher,
        *,
        on_change: Callable[[], None],
        now: Callable[[], float] = time.time,
        journal_bytes: int = DEFAULT_LIMIT_BYTES,
        measure: Measure | None = None,
        on_executed: Callable[[Execution], None] = lambda execution: None,
        output_bytes: int | None = None,
        store: JournalStore | None = None,
        executor: Executor | None = None,
        state: SessionState | None = None,
        stored: Stored | None = None,
    ) -> None:
        self.id = session_id
        self.lease = lease
        self.journal = Journal(journal_bytes)
        self._tell_change = on_change
        self._store = store
        self.settled = False
        """Whether its notebook has it: it stays then, whoever leaves."""
        self._problem = ""
        self._resuming = False
        self._kernel_number = 0
        self._request = request
        self._launcher = launcher
        self._now = now
        self._measure = measure
        self._on_executed = on_executed
        self._output = OutputAllowance(output_bytes)
        self.setting = KernelSetting(python=request.python)
        self._kernel: Kernel | None = None
        self._taking: asyncio.Task[Kernel] | None = None
        self._closing = False
        self._retirements: dict[str, asyncio.Task[None]] = {}
        self._lifecycle = asyncio.Lock()
        self._phase = Phase.PLACING
        self._kernel_state = KernelState.STARTING
        self._generation = 0
        self._created_unix_s = self._last_active_unix_s = now()
        self._attached_unix_s = self._created_unix_s if request.notebook_id else 0.0
        self._detail = ""
        self._closing_facts = Closing()
        self._environment = EnvironmentFacts()
        self._record = ExecutionRecord()
        self.clients = ConnectedClients()
        self._notebook: NotebookFacts | None = None
        self._unmeasured: list[Execution] = []
        self._notebook_connections = 0
        self._executions = 0
        self._kernel_exit: KernelExit | None = None
        self._python_version = ""
        self._working_folder: Path | None = None
        self._last_log = ""
        self._seen = RequestIds(stored.requests if stored is not None else ())
        self._nudges: set[asyncio.Future[None]] = set()
        self._arrivals: list[asyncio.Future[None]] = []
        self._waiting: collections.deque[Request] = collections.deque()
        self._current: Request | None = None
        self._before_start: list[tuple[Channel, Sequence[Any], str]] = []
        written = 0
        if state is not None and stored is not None:
            self._restore(state, stored)
            written = self.journal.last_number
        self._keeper = JournalKeeper(self, self.journal, store, executor, self._note_problem, written=written)
        self._timeouts = CellTimeouts(self.stacks, self._tell_of_timeout, self._interrupt_current, self._end_current)

    # -- Its life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the first kernel.

        Raises:
            KernelFailedError: It does not start. The session has left nothing behind, and can be closed.
        """
        async with self._lifecycle:
            if self._closing:
                raise KernelFailedError("the session was closed before its kernel started")
            self._phase = Phase.STARTING
            self._working_folder = self.make_working_folder()
            self._on_change()
            await self._start_kernel()
            self._phase = Phase.READY
            self._detail = ""
            await self._keeper.flush()  # who is told that it is there finds it, whatever becomes of this agent
            self._on_change()

    async def restart(self) -> None:
        """Ends the kernel, if it lives, and starts a fresh one. What had not run is refused.

        Raises:
            KernelFailedError: It does not start; the session is without a kernel.
        """
        async with self._lifecycle:
            if self._phase is not Phase.READY or self._closing:
                raise KernelFailedError(f"the session is {self._phase.value}, so its kernel cannot be restarted")
            if self._kernel is not None:
                self._kernel.ending_asked_for = True
                await self._retire(self._kernel)
            await self._start_kernel()
            await self._keeper.flush()

    async def end_kernel(self, because: str) -> None:
        """Ends the kernel with all its processes, as it exceeded a limit. The session stays.

        Args:
            because: To stand behind "the session's kernel was ended ".
        """
        kernel = self._kernel
        if kernel is not None and kernel.alive:
            kernel.ended_because = because
            await self._retire(kernel)

    def folders(self) -> list[Path]:
        """Returns the folders on the node that are its own: to work in, unless that is another's, and temporary."""
        found = [self._kernel.temporary_folder] if self._kernel is not None else []
        if self._working_folder is not None and self._asked_folder is None:
            found.append(self._working_folder)
        return found

    async def close(self, reason: str) -> None:
        """Ends the kernel with all its processes, and says so to whoever is connected. Idempotent."""
        self._closing = True
        if self._taking is not None:
            self._taking.cancel()
        async with self._lifecycle:
            if self._phase is Phase.CLOSED:
                return
            self._phase = Phase.CLOSED
            self._resuming = False
            if self._kernel is not None:
                self._kernel.ending_asked_for = True
                await self._retire(self._kernel)
            self._kernel_state = KernelState.DEAD
            self._launcher.remove_folder(self.id)
            self.journal.append(SessionClosed(reason))
            self.journal.close()
            await self._keeper.close(remove=True)
            self._on_change()

    async def leave(self) -> None:
        """Leaves it, and what its kernel does, to the next agent. Idempotent."""
        self._closing = True
        async with self._lifecycle:
            await self._keeper.close(remove=False)
            kernel, self._kernel = self._kernel, None
            if kernel is not None:
                kernel.leave()

    async def resume(self, kernel: Kernel | None, *, had_kernel: bool = True, patience_s: float = 0.0) -> None:
        """Goes on where an earlier agent was. To be called once, before any client.

        Args:
            kernel: Its kernel, which may have ended; None: nothing is left of it.
            had_kernel: Whether there was one.
            patience_s: How long to wait for what the kernel said meanwhile, which comes later otherwise.
        """
        self._phase = Phase.READY
        if kernel is None:
            self._kernel_state = KernelState.DEAD
            self._current = None
            if had_kernel:
                self.journal.skip(_UNKNOWN_ENTRIES)
                self._kernel_exit = KernelExit(exit_code=None, signal=None, stderr_tail="", asked_for=False)
                self.journal.append(KernelEnded(self._generation, self._kernel_exit), own=True)
            return
        self._kernel = kernel
        kernel.python_version = self._python_version
        kernel.channels.number = self._kernel_number
        kernel.channels.in_order = True
        self._resuming = True
        current = self._current
        if current is not None and current.timeout_s is not None:
            self._timeouts.bound(current, max(0.0, current.started_unix_s + current.timeout_s - self._now()))
        kernel.channels.on_message = self._on_message
        kernel.ended.add_done_callback(lambda ended: self._retire(kernel))
        resuming = asyncio.ensure_future(self._take_up(kernel))
        self._nudges.add(resuming)
        resuming.add_done_callback(self._nudges.discard)
        await asyncio.wait({resuming}, timeout=patience_s)

    async def _take_up(self, kernel: Kernel) -> None:
        await kernel.resend(self._on_missing)
        if self._kernel is not kernel or not kernel.alive:
            return  # its end says the rest
        kernel.channels.on_gap = lambda: self._on_gap(kernel)
        self._resuming = False
        waiting, self._before_start = self._before_start, []
        for channel, parts, request_id in waiting:
            self.submit(channel, parts, request_id)
        self._on_change()

    def _on_gap(self, kernel: Kernel) -> None:
        filling = asyncio.ensure_future(kernel.resend(self._on_missing))
        self._nudges.add(filling)
        filling.add_done_callback(self._nudges.discard)

    def _on_missing(self, count: int) -> None:
        """Says that the kernel could not keep all that it said while there was no agent."""
        self.journal.skip(count)
        header = self._current.header if self._current is not None else {}
        text = f"nbgpu: {count} messages were dropped while the session was without its agent\n"
        parts = message_parts("stream", {"name": "stderr", "text": text}, parent_header=header)
        self.journal.append(Message(Channel.IOPUB, parts), own=True)

    def make_working_folder(self) -> Path:
        """Returns the folder that its kernels work in: the one that was asked for, else one of its own."""
        asked = self._asked_folder
        return (
            asked if asked is not None and asked.is_dir() else self._launcher.make_folder(self.id, self._request.owner)
        )

    @property
    def _asked_folder(self) -> Path | None:
        if not self._request.working_folder or (self.confined and self.owner):  # which would be anybody's
            return None
        return Path(self._request.working_folder)

    @property
    def owner(self) -> str:
        """The user whose it is; empty: the agent's owner."""
        return self._request.owner

    @property
    def os_user(self) -> OsUser | None:
        """As whom its kernels run, and who its files are; None: the agent."""
        return self._launcher.isolation.os_user(self._request.owner)

    @property
    def confined(self) -> bool:
        """Whether its kernels run in sandboxes, and its files are to be reached by no link that leads out."""
        return self._launcher.isolation.bubblewrap is not None

    def note_phase(self, phase: Phase, detail: str = "") -> None:
        """Notes how far it is on its way to its first kernel.

        Args:
            detail: What is happening, in words.
        """
        self._phase, self._detail = phase, detail
        self._on_change()

    def note_environment(self, environment: EnvironmentFacts) -> None:
        """Notes what its kernels run in, or how far that is built."""
        self._environment = environment
        self._on_change()

    def attach(self, notebook_id: str, notebook_name: str = "", notebook_key: str = "") -> None:
        """Makes it the notebook's; of none, if the id is empty.

        Args:
            notebook_id: Its Jupyter kernel id.
            notebook_name: Empty: as it is.
            notebook_key: Likewise.
        """
        name = notebook_name or self._request.notebook_name
        key = notebook_key or self._request.notebook_key
        if notebook_id != self._request.notebook_id:
            self._notebook = None
        self._request = replace(self._request, notebook_id=notebook_id, notebook_name=name, notebook_key=key)
        self._attached_unix_s = self._now() if notebook_id else 0.0
        self._on_change()

    def note_closing(self, closing: Closing) -> None:
        """Notes when it will be closed by itself."""
        if closing != self._closing_facts:
            self._closing_facts = closing
            self._on_change()

    def tell(self, text: str) -> None:
        """Tells the person: below the cell that runs, or else next to what the next one prints.

        Args:
            text: One sentence without a full stop.
        """
        if self._current is None:
            self.journal.append(Notice(text), own=True)
            return
        content = {"name": "stderr", "text": f"nbgpu: {text}\n"}
        parts = message_parts("stream", content, parent_header=self._current.header)
        self.journal.append(Message(Channel.IOPUB, parts), own=True)

    @property
    def is_working(self) -> bool:
        """Whether a cell runs or waits, or the kernel is on its way."""
        return self._current is not None or bool(self._waiting) or self._kernel_state is KernelState.STARTING

    def _tell_of_timeout(self, event: CellTimedOut) -> None:
        self.journal.append(event, own=True)

    def note_notebook(self, notebook_id: str, kernel_generation: int, facts: NotebookFacts) -> None:
        """Notes what a notebook says; passed over if the session is another's.

        Args:
            notebook_id: Its Jupyter kernel id.
            kernel_generation: Of the kernel that has the variables; those of one before are gone.
            facts: In the place of what it said before.
        """
        if not notebook_id or notebook_id != self._request.notebook_id:
            return
        if kernel_generation != self._generation or self._kernel_state is KernelState.DEAD:
            facts = replace(facts, variables=None)
        if facts != self._notebook:
            self._notebook = facts
            self._on_change()

    def tell_choice(self, notebook_id: str, session_id: str) -> None:
        """Tells who is connected that the notebook uses another session from now on; none, if that id is empty."""
        self.journal.append(Choice(notebook_id, session_id), own=True)

    def measure_executions(self) -> None:
        """Completes what is told of executions that have ended. To be called after every reading."""
        if self._measure is None or not self._unmeasured:
            return
        for execution in tuple(self._unmeasured):
            assert execution.ended_unix_s is not None
            ids = {each.id for each in execution.accelerators}
            found = self._measure(ids, execution.started_unix_s, execution.ended_unix_s)
            if found is None:
                continue
            self._unmeasured.remove(execution)
            if self._record.complete(
                execution,
                mean_utilisation_percent=found.mean_utilisation_percent,
                peak_memory_bytes=found.peak_memory_bytes,
            ):
                self._on_change()

    def update(self, setting: KernelSetting, changed_files: Sequence[str] = ()) -> None:
        """Gives its kernels another setting: the next ones, and the one that runs, before any message sent later.

        Args:
            changed_files: Of local modules: they are imported anew.
        """
        previous, self.setting = self.setting, setting
        if setting.environment and setting.environment != previous.environment:
            self.note_environment(EnvironmentFacts(own=True, package_count=_package_count(setting.environment)))
        if self._kernel is not None and self._kernel.alive and (setting != previous or changed_files):
            self._send_update(self._kernel, changed_files)

    def info(self) -> SessionInfo:
        """Returns what is known of the session now."""
        current = self._current
        executing = None
        if current is not None and current.begun:
            executing = current.execution(self._accelerators())
        return SessionInfo(
            id=self.id,
            request=self._request,
            phase=self._phase,
            lease=self.lease,
            kernel_state=self._kernel_state,
            kernel_generation=self._generation,
            created_unix_s=self._created_unix_s,
            last_active_unix_s=self._last_active_unix_s,
            executing=executing,
            executions=self._executions,
            kernel_exit=self._kernel_exit if self._kernel_state is KernelState.DEAD else None,
            python_version=self._python_version,
            working_folder=str(self._working_folder or ""),
            detail=self._detail,
            environment=self._environment,
            accelerator_seconds=self._accelerator_seconds(),
            last_executions=self._record.last(),
            journal_problem=self._problem,
            attached_unix_s=self._attached_unix_s,
            closing=self._closing_facts,
            notebook=self._notebook,
            notebook_connected=self._notebook_connections > 0,
        )

    def executions(self) -> tuple[Execution, ...]:
        """Returns the cells that have run, run, and wait, the oldest first."""
        current = self._current
        going_on = [current] if current is not None and (current.counts or not current.begun) else []
        return (
            *self._record.all(),
            *(
                each.execution(self._accelerators(), self._generation)
                for each in (*going_on, *self._waiting)
                if not each.silent
            ),
        )

    async def note_shown(self, request_ids: Collection[str]) -> None:
        """Notes of executions that a person was shown them to their end; the next agent knows it too."""
        if self._record.note_shown(request_ids):
            await self._keeper.flush()

    def settle_executions(self, cell_ids: frozenset[str]) -> None:
        """Notes that nobody needs to be shown any more what these cells have put out until now."""
        if self._record.settle(cell_ids):
            self._keeper.note()

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Counts a client that is no observer for as long as the block lasts."""
        self._notebook_connections += 1
        self._on_change()
        try:
            yield
        finally:
            self._notebook_connections -= 1
            self._on_change()

    def _accelerators(self) -> tuple[Accelerator, ...]:
        return self.lease.accelerators if self.lease is not None else ()

    def note_lease(self, lease: Lease) -> None:
        """Notes that its lease has changed."""
        self.lease = lease
        self._on_change()

    def settle(self) -> None:
        """Notes that its notebook has it: it stays, whoever leaves."""
        self.settled = True
        self._on_change()

    def _on_change(self) -> None:
        self._keeper.note()
        self._tell_change()

    def _note_problem(self, problem: str) -> None:
        self._problem = problem
        self._tell_change()

    # -- What is kept for the next agent ----------------------------------------------------------------------------

    def side_file(self, name: str) -> Path | None:
        """Returns where others may keep something for the next agent; None where nothing is kept."""
        return self._store.folder / name if self._store is not None and not self._closing else None

    def state_record(self) -> bytes | None:
        """Returns its state; None before it is ready, when there is nothing to go on with."""
        if self._phase is not Phase.READY:
            return None
        current = self._current
        return state_to_json(
            SessionState(
                id=self.id,
                request=self._request,
                lease=lease_state(self.lease),
                kernel_id=self._kernel.id if self._kernel is not None else "",
                kernel_exit=self._kernel_exit,
                generation=self._generation,
                kernel_number=self._kernel.channels.number if self._kernel is not None else 0,
                journal_number=self.journal.last_number,
                created_unix_s=self._created_unix_s,
                last_active_unix_s=self._last_active_unix_s,
                attached_unix_s=self._attached_unix_s,
                settled=self.settled,
                executions=self._executions,
                python_version=self._python_version,
                working_folder=str(self._working_folder or ""),
                setting=self.setting,
                current=request_to_record(current) if current is not None and current.begun else None,
            )
        )

    def new_executions(self) -> tuple[list[tuple[int, bytes]], int]:
        changed = self._record.take_changed()
        return [(at, execution_to_json(each)) for at, each in changed.items()], self._record.first_position

    def new_requests(self) -> tuple[list[tuple[int, str]], int]:
        return list(self._seen.take_new().items()), self._seen.first_position

    def acknowledgement(self) -> Callable[[], None]:
        if (kernel := self._kernel) is None:
            return lambda: None
        numbers = (kernel.channels.number, self.journal.last_number)
        return lambda: kernel.acknowledgement.write(*numbers)

    def _restore(self, state: SessionState, stored: Stored) -> None:
        entries = [each for each in stored.entries if each.number <= state.journal_number]
        self.journal.restore(entries, state.journal_number)
        self._record = ExecutionRecord([(at, execution_from_json(each)) for at, each in stored.executions])
        self.settled = state.settled
        self.setting = state.setting
        self._generation = state.generation
        self._created_unix_s = state.created_unix_s
        self._last_active_unix_s = state.last_active_unix_s
        self._attached_unix_s = state.attached_unix_s
        self._executions = state.executions
        self._kernel_exit = state.kernel_exit
        self._kernel_number = state.kernel_number
        self._python_version = state.python_version
        self._working_folder = Path(state.working_folder)
        self._current = request_from_record(state.current) if state.current is not None else None
        self._kernel_state = KernelState.EXECUTING if self._current is not None else KernelState.IDLE
        if state.setting.environment:
            count = _package_count(state.setting.environment)
            self._environment = EnvironmentFacts(own=True, package_count=count)

    def _accelerator_seconds(self) -> float:
        if self.lease is None:
            return 0.0
        held = sum(not each.shared for each in self.lease.accelerators)
        return held * max(self._now() - self.lease.granted_unix_s, 0.0)

    def _note_ended(self, request: Request) -> None:
        """Remembers a cell that is over; what its accelerators did is known after the next reading."""
        if not request.counts:
            return
        execution = replace(
            request.execution(self._accelerators(), self._generation),
            ended_unix_s=self._last_active_unix_s,
            succeeded=request.succeeded,
            last_number=self.journal.last_number,
        )
        self._record.add(execution)
        self._on_executed(execution)
        if any(not each.shared for each in execution.accelerators):
            self._unmeasured = [*self._unmeasured[-_UNMEASURED:], execution]

    def processes(self) -> list[psutil.Process]:
        """Returns the kernel's process and all that came from it; the same objects from call to call."""
        kernel = self._kernel  # read once: the sampler asks from a thread of its own
        return kernel.processes() if kernel is not None else []

    # -- Messages ---------------------------------------------------------------------------------------------------

    def submit(self, channel: Channel, parts: Sequence[Any], request_id: str) -> None:
        """Takes a client's message to the kernel. A request whose id has been seen is passed over.

        Args:
            parts: Header, parent header, metadata, content, then buffers.
            request_id: Required to be unique on SHELL and CONTROL; may be empty on STDIN.
        """
        if self._resuming:  # what the kernel says first tells which requests it has
            self._before_start.append((channel, parts, request_id))
            return
        if request_id and not self._seen.see(request_id):
            return
        if self._kernel is None and self._kernel_state is KernelState.STARTING:
            self._before_start.append((channel, parts, request_id))
        elif self._kernel is None:
            self._refuse(request_id)
        elif not self._kernel.alive:  # refused once its end is told
            self._before_start.append((channel, parts, request_id))
        else:
            self._pass_on(self._kernel, channel, parts, request_id)
        if self._arrivals:
            arrivals, self._arrivals = self._arrivals, []
            for arrival in arrivals:
                if not arrival.done():
                    arrival.set_result(None)

    def _pass_on(self, kernel: Kernel, channel: Channel, parts: Sequence[Any], request_id: str) -> None:
        if channel is Channel.SHELL:
            header = json.loads(bytes(parts[0]))
            if header.get("msg_type") == "execute_request" and not header.get("subshell_id"):
                request = request_of(request_id, header, parts)
                if self._current is None:
                    self._execute(kernel, request)
                else:
                    self._waiting.append(request)
                return
        kernel.channels.send(channel, parts)

    def _execute(self, kernel: Kernel, request: Request) -> None:
        self._current = request
        self._output.begin()
        request.sent = True
        request.started_unix_s = self._now()
        self._kernel_state = KernelState.EXECUTING
        kernel.channels.send(Channel.SHELL, request.parts)
        request.parts = ()
        self._on_change()

    def _on_message(self, channel: Channel, parts: list[bytes]) -> None:
        self._keeper.note()
        message_type = json.loads(parts[0]).get("msg_type", "")
        parent = json.loads(parts[1])
        if parent.get("session") == "nbgpu-agent":
            return
        status = parts[3] if message_type == "status" else b""
        idle = b'"idle"' in status
        urgent = not status and message_type not in _LAZY_MESSAGE_TYPES
        current = self._current
        if status and not idle:
            self._seen.receive(parent.get("nbgpu_request", ""))
            if current is None and parent.get("msg_type") == "execute_request":
                current = self._current = _request_of_parent(parent)  # that an earlier agent sent
                self._kernel_state = KernelState.EXECUTING
        if current is not None and parent.get("msg_id") == current.message_id:
            if channel is Channel.SHELL:
                current.replied = True
                current.succeeded = json.loads(parts[3]).get("status") == "ok"
            elif idle:
                current.idle = True
            elif status or message_type == "execute_input":
                self._on_begun(current, counts=message_type == "execute_input")
            if idle or channel is Channel.SHELL:
                urgent = current.over  # the cell is over with both, and one frame carries them
        if channel is Channel.IOPUB:
            parts = self._bounded(message_type, parts)
        if parts:
            self.journal.append(Message(channel, parts), urgent=urgent)
        if current is not None and current.over and self._current is current:
            self._on_over(current)

    def _bounded(self, message_type: str, parts: list[bytes]) -> list[bytes]:
        """Returns what of a message goes to the notebook; what is printed beyond a cell's allowance goes to the log."""
        passage, left_bytes = self._output.take(message_type, sum(map(len, parts)))
        if passage is Passage.PASS:
            return parts
        passed: list[bytes] = []
        if message_type == "stream":
            content = json.loads(parts[3])
            text, content["text"] = content["text"], content["text"][:left_bytes]
            if self._kernel is not None:
                self._kernel.append_to_log(text[left_bytes:])
            passed = [*parts[:3], json.dumps(content).encode()] if content["text"] else []
        if passage is Passage.FIRST_BEYOND:
            if passed:
                self.journal.append(Message(Channel.IOPUB, passed))
            self.tell("this cell has printed as much as a cell may; the rest is in `%gpu logs` only")
        return []

    def _on_begun(self, request: Request, *, counts: bool) -> None:
        if counts:
            self._executions += 1
            request.counts = True
        if not request.begun:
            request.begun = True
            self._seen.receive(request.request_id)
            request.first_number = self.journal.last_number + 1  # of the entry that tells of it
            request.started_unix_s = self._now()
            request.wake()
            if request.timeout_s is not None:
                self._timeouts.bound(request, request.timeout_s)
        self._on_change()

    def _on_over(self, request: Request) -> None:
        self._current = None
        self._last_active_unix_s = self._now()
        self._kernel_state = KernelState.IDLE
        self._note_ended(request)
        request.wake()
        if self._waiting and self._kernel is not None and self._kernel.alive:
            self._execute(self._kernel, self._waiting.popleft())
        self._on_change()

    # -- Interrupts and diagnosis -----------------------------------------------------------------------------------

    async def interrupt(self, request_id: str, *, escalate: bool) -> bool:
        """Interrupts an execution, whether it runs, waits, or is on its way here.

        Args:
            request_id: The execution that is meant; empty: whatever runs.
            escalate: End the kernel with all its processes. The session stays.

        Returns:
            Whether there was anything to interrupt.
        """
        if request_id and request_id not in self._seen:
            await self._wait_for_arrival(request_id)
        kernel = self._kernel
        for request in self._waiting:
            if request.request_id == request_id and request_id:
                self._waiting.remove(request)
                self._answer_withdrawn(request)
                return True
        current = self._current
        if kernel is None or current is None or (request_id and current.request_id != request_id):
            return False
        if escalate:
            await self._end_current()
            return True
        while not current.begun:
            if current.over or self._current is not current:
                return False
            waiter = asyncio.get_running_loop().create_future()
            current.changed.append(waiter)
            await waiter
        if current.over or self._current is not current:
            return False
        self._interrupt_current()
        return True

    def _interrupt_current(self) -> None:
        kernel, current = self._kernel, self._current
        if kernel is None or current is None:
            return
        kernel.interrupt()
        nudging = asyncio.ensure_future(self._nudge(kernel, current))
        self._nudges.add(nudging)
        nudging.add_done_callback(self._nudges.discard)

    async def _end_current(self) -> None:
        kernel = self._kernel
        if kernel is not None:
            kernel.ending_asked_for = True
            await self._retire(kernel)

    async def stacks(self) -> Stacks:
        """Returns the Python stacks of the kernel's threads, and of its ranks.

        Raises:
            KernelDiedError: There is no kernel, or it does not answer.
        """
        if self._kernel is None:
            raise KernelDiedError("the session has no kernel now", "`%gpu restart` starts one")
        return await self._kernel.stacks()

    def log_tail(self, max_bytes: int) -> str:
        """Returns the end of what the kernel's process, or the last one's, wrote outside of cells; 0: all of it."""
        if self._kernel is not None:
            return self._kernel.log_tail(max_bytes)
        return self._last_log[-max_bytes:] if max_bytes else self._last_log

    async def _nudge(self, kernel: Kernel, request: Request) -> None:
        """Wakes the kernel from a system call that it entered with the interrupt pending, unseen.

        Python looks for signals between instructions; one that comes between the last look and a system call that
        blocks is seen when the call returns, be it after hours.
        """
        for delay_s in _NUDGES_S:
            await asyncio.sleep(delay_s)
            if request.over or self._current is not request or self._kernel is not kernel:
                return
            kernel.nudge()

    async def _wait_for_arrival(self, request_id: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ARRIVAL_TIMEOUT_S
        while request_id not in self._seen and self._kernel is not None and loop.time() < deadline:
            arrival = loop.create_future()
            self._arrivals.append(arrival)
            await asyncio.wait({arrival}, timeout=deadline - loop.time())

    def _answer_withdrawn(self, request: Request) -> None:
        """Answers an execution that was interrupted before the kernel got it, as the kernel would have."""
        error = {"ename": "KeyboardInterrupt", "evalue": "", "traceback": ["KeyboardInterrupt: before the cell began"]}
        reply = {
            "status": "error",
            **error,
            "execution_count": request.execution_count or 0,
            "user_expressions": {},
            "payload": [],
            "nbgpu_exception_type": "builtins.KeyboardInterrupt",
        }
        for channel, message_type, content in (
            (Channel.IOPUB, "error", error),
            (Channel.SHELL, "execute_reply", reply),
            (Channel.IOPUB, "status", {"execution_state": "idle"}),
        ):
            parts = message_parts(message_type, content, parent_header=request.header)
            self.journal.append(Message(channel, parts), urgent=message_type == "status", own=True)
        self._seen.receive(request.request_id)

    # -- Kernels ----------------------------------------------------------------------------------------------------

    async def _start_kernel(self) -> None:
        assert self._working_folder is not None
        self._kernel_state = KernelState.STARTING
        self._on_change()
        variables = lease_variables(self.id, self.lease)
        taking = asyncio.ensure_future(
            self._launcher.take(
                self.setting.python,
                self._working_folder,
                variables,
                owner=self._request.owner,
                accelerators=self.lease.accelerators if self.lease is not None else (),
            )
        )
        self._taking = taking
        try:
            await asyncio.wait({taking})
            kernel = taking.result()
        except BaseException as error:
            taking.cancel()
            await asyncio.wait({taking})
            if not taking.cancelled() and taking.exception() is None:
                await taking.result().end(grace_s=0.0)
            self._kernel_state = KernelState.DEAD
            self._refuse_waiting()
            if self._generation == 0:
                self._launcher.remove_folder(self.id)
            self._on_change()
            if isinstance(error, asyncio.CancelledError) and self._closing:
                raise KernelFailedError("the session was closed while its kernel started") from error
            raise
        finally:
            self._taking = None
        self._generation += 1
        self._kernel = kernel
        self._kernel_exit = None
        self._kernel_state = KernelState.IDLE
        self._python_version = kernel.python_version
        self.journal.append(KernelStarted(self._generation), own=True)
        kernel.channels.on_message = self._on_message
        if self.setting.path_entries or self.setting.variables:
            self._send_update(kernel)
        kernel.ended.add_done_callback(lambda ended: self._retire(kernel))
        waiting, self._before_start = self._before_start, []
        for channel, parts, request_id in waiting:
            self._pass_on(kernel, channel, parts, request_id)
        self._on_change()

    def _send_update(self, kernel: Kernel, changed_files: Sequence[str] = ()) -> None:
        content = {
            "variables": dict(self.setting.variables),
            "environment": self.setting.environment,
            "path_entries": list(self.setting.path_entries),
            "local_folders": [str(self._working_folder), *self.setting.path_entries],
            "changed_files": list(changed_files),
        }
        kernel.channels.send(Channel.SHELL, message_parts("nbgpu_update_request", content))

    def _retire(self, kernel: Kernel) -> asyncio.Task[None]:
        """Ends the kernel or what it left, hands out its last messages, and journals its end. Once for each kernel."""
        retirement = self._retirements.get(kernel.id)
        if retirement is None:
            retirement = self._retirements[kernel.id] = asyncio.ensure_future(self._retire_once(kernel))
        return retirement

    async def _retire_once(self, kernel: Kernel) -> None:
        asked_for = kernel.ending_asked_for
        await kernel.end_processes(grace_s=0.0 if self._current is not None else 0.3)
        # With the last process that held the output socket, zmq gets what was sent, and then the end.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _DRAIN_TIMEOUT_S
        while not kernel.channels.disconnected() and loop.time() < deadline:  # noqa: ASYNC110 - zmq calls nobody
            await asyncio.sleep(0.002)
        kernel.channels.drain()
        for channel, parts in kernel.left_behind():
            self._on_message(channel, parts)
        if self._resuming:
            self._resuming = False
            self.journal.skip(_UNKNOWN_ENTRIES)
        kernel.ending_asked_for = asked_for
        self._kernel_exit = kernel.exit()
        self._last_log = kernel.log_tail(_KEPT_LOG_BYTES)
        self._kernel = None
        self._kernel_state = KernelState.DEAD
        if self._notebook is not None:
            self._notebook = replace(self._notebook, variables=None)
        if not self._closing:  # else it is the end of the session that ends what waits for an answer
            self.journal.append(KernelEnded(self._generation, self._kernel_exit), own=True)
        current, self._current = self._current, None
        if current is not None:
            self._last_active_unix_s = self._now()
            self._note_ended(current)
            current.kernel_ended = True
            current.wake()
        if not self._closing:
            self._refuse_waiting()
        await kernel.end(grace_s=0.0)
        self._on_change()

    def _refuse_waiting(self) -> None:
        waiting, self._waiting = self._waiting, collections.deque()
        for request in waiting:
            self._refuse(request.request_id)
        before_start, self._before_start = self._before_start, []
        for _, _, request_id in before_start:
            self._refuse(request_id)

    def _refuse(self, request_id: str) -> None:
        if request_id:
            error = KernelDiedError("the session's kernel has ended", "`%gpu restart` starts a fresh one")
            self._seen.receive(request_id)
            self.journal.append(RequestRefused(request_id, error), own=True)


def _request_of_parent(parent: dict[str, Any]) -> Request:
    """Returns a request that is known by what answers it only."""
    message_id = str(parent.get("msg_id", ""))
    return Request(str(parent.get("nbgpu_request") or message_id), message_id, parent, (), None, sent=True)


def _package_count(environment: str) -> int:
    """Returns how many distributions a virtual environment has; some µs for each."""
    return sum(1 for _ in Path(environment).glob("lib/python*/site-packages/*.dist-info"))
