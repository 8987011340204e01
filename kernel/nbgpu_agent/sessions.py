"""One session: its life from its lease to its end, and what is known of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from nbgpu_agent.channels import Channel
from nbgpu_agent.client_messages import ClientMessages
from nbgpu_agent.connected_clients import ConnectedClients
from nbgpu_agent.errors import KernelFailedError
from nbgpu_agent.execution_queue import ExecutionQueue
from nbgpu_agent.executions import RequestIds
from nbgpu_agent.interrupts import Interrupts
from nbgpu_agent.isolation.os_user import OsUser
from nbgpu_agent.journal import DEFAULT_LIMIT_BYTES, Choice, Journal, KernelEnded, KernelStarted, SessionClosed
from nbgpu_agent.journal_keeping import JournalKeeper
from nbgpu_agent.journal_store import JournalStore, Stored
from nbgpu_agent.kernel_environment import lease_variables
from nbgpu_agent.kernel_launcher import KernelLauncher
from nbgpu_agent.kernels import Kernel
from nbgpu_agent.measuring import Measure
from nbgpu_agent.model import (
    Accelerator,
    Closing,
    EnvironmentFacts,
    Execution,
    KernelSetting,
    KernelState,
    Lease,
    Phase,
    SessionInfo,
    SessionRequest,
)
from nbgpu_agent.notebook_facts import NotebookFacts
from nbgpu_agent.resumption import Resumption
from nbgpu_agent.session_kernels import SessionKernels
from nbgpu_agent.session_notebook import SessionNotebook
from nbgpu_agent.session_record import SessionRecord
from nbgpu_agent.session_state import SessionState


class Session:
    """One session: its kernels, what it executes, and its journal. For one event loop.

    Attributes:
        lease: What it holds; None: nothing now.
        journal: What its clients are told.
        kernels: Its kernel, and those before.
        executions: What it executes.
        messages: Takes what clients send.
        clients: Who is connected now.
        record: What is kept for the next agent.
        settled: Whether its notebook has it: it stays then, whoever leaves.

    Args:
        on_change: Called after every change that `info` shows.
        journal_bytes: What the journal keeps for clients that come back.
        measure: Asked about each execution once it has ended; None: nothing is known of what accelerators do.
        on_executed: Called with each cell that has ended.
        output_bytes: What a cell may print and display; None: no bound.
        store: Keeps it for the next agent; None: it ends with this one.
        executor: Of one thread, on which the store is used.
        state: What an earlier agent wrote down of it; to go on by `resume`.
        clock: The setting of `now`, for the next agent.
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
        clock: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = session_id
        self.lease = lease
        self.journal = Journal(journal_bytes)
        self._tell_change = on_change
        self._store = store
        self.settled = False
        self._problem = ""
        self._now = now
        self._measure = measure
        self._lifecycle = asyncio.Lock()
        self._phase = Phase.PLACING
        self._detail = ""
        self._created_unix_s = now()
        self._closing_facts = Closing()
        self._notebook = SessionNotebook(request, now=now, on_change=self.on_change)
        self.clients = ConnectedClients(self.on_change)
        seen = RequestIds(stored.requests if stored is not None else ())
        self.kernels = SessionKernels(session_id, request, launcher, self)
        self.executions = ExecutionQueue(
            self.journal,
            self.kernels,
            seen,
            accelerators=self._accelerators,
            now=now,
            output_bytes=output_bytes,
            on_begun=lambda request: self._interrupts.bound(request),
            on_executed=on_executed,
            on_change=self.on_change,
        )
        self.messages = ClientMessages(self.journal, self.kernels, seen, self.executions)
        self._interrupts = Interrupts(self.journal, self.kernels, self.executions, self.messages)
        self._resumption = Resumption(self.journal, self.kernels, self.executions, self.messages, self.on_change)
        written = 0
        if state is not None and stored is not None:
            self._restore(state, stored)
            written = self.journal.last_number
        self.record = SessionRecord(
            self.info, lambda: self.settled, self.journal, self.kernels, self.executions, seen, clock
        )
        self._keeper = JournalKeeper(self.record, self.journal, store, executor, self._note_problem, written=written)

    # -- Its life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the first kernel.

        Raises:
            KernelFailedError: It does not start. The session has left nothing behind, and can be closed.
        """
        async with self._lifecycle:
            if self.kernels.closing:
                raise KernelFailedError("the session was closed before its kernel started")
            self._phase = Phase.STARTING
            await self._start_kernel()
            self._phase = Phase.READY
            self._detail = ""
            await self._keeper.flush()  # who is told that it is there finds it, whatever becomes of this agent
            self.on_change()

    async def restart(self) -> None:
        """Ends the kernel, if it lives, and starts a fresh one. What had not run is refused.

        Raises:
            KernelFailedError: It does not start; the session is without a kernel.
        """
        async with self._lifecycle:
            if self._phase is not Phase.READY or self.kernels.closing:
                raise KernelFailedError(f"the session is {self._phase.value}, so its kernel cannot be restarted")
            await self.kernels.end()
            await self._start_kernel()
            await self._keeper.flush()

    async def _start_kernel(self) -> None:
        try:
            accelerators = self.lease.accelerators if self.lease is not None else ()
            await self.kernels.start(lease_variables(self.id, self.lease), accelerators)
        except BaseException:
            self.messages.refuse_all()
            self.on_change()
            raise
        kernel = self.kernels.kernel
        assert kernel is not None
        self.journal.append(KernelStarted(self.kernels.generation), own=True)
        self.messages.release(kernel)
        self.on_change()

    async def interrupt(self, request_id: str, *, escalate: bool) -> bool:
        """Interrupts an execution, as `Interrupts.interrupt`. The session stays, also when its kernel is ended."""
        return await self._interrupts.interrupt(request_id, escalate=escalate)

    async def close(self, reason: str) -> None:
        """Ends the kernel with all its processes, and says so to whoever is connected. Idempotent."""
        self.kernels.begin_closing()
        async with self._lifecycle:
            if self._phase is Phase.CLOSED:
                return
            self._phase = Phase.CLOSED
            self.messages.resuming = False
            await self.kernels.close()
            self.journal.append(SessionClosed(reason))
            self.journal.close()
            await self._keeper.close(remove=True)
            self.on_change()

    async def leave(self) -> None:
        """Leaves it, and what its kernel does, to the next agent. Idempotent."""
        self.kernels.closing = True
        async with self._lifecycle:
            await self._keeper.close(remove=False)
            self.kernels.leave()

    async def resume(self, kernel: Kernel | None, *, had_kernel: bool = True, patience_s: float = 0.0) -> None:
        """Goes on where an earlier agent was. To be called once, before any client.

        Args:
            kernel: Its kernel, which may have ended; None: nothing is left of it.
            had_kernel: Whether there was one.
            patience_s: How long to wait for what the kernel said meanwhile, which comes later otherwise.
        """
        self._phase = Phase.READY
        current = self.executions.current
        if kernel is None:
            self._resumption.note_nothing_left(had_kernel=had_kernel)
            return
        if current is not None:
            self._interrupts.bound(current, ran_s=self._now() - current.started_unix_s)
        await self._resumption.begin(kernel, patience_s)

    # -- What its kernels tell it -----------------------------------------------------------------------------------

    @property
    def is_executing(self) -> bool:
        return self.executions.current is not None

    def on_message(self, channel: Channel, parts: list[bytes]) -> None:
        self._keeper.note()
        self.executions.follow(channel, parts)

    def on_kernel_ended(self) -> None:
        self._resumption.note_kernel_ended()
        self._notebook.forget_variables()
        if self.kernels.exit is not None and not self.kernels.closing:
            self.journal.append(KernelEnded(self.kernels.generation, self.kernels.exit), own=True)
        self.executions.note_kernel_ended()
        if not self.kernels.closing:  # else it is the end of the session that ends what waits for an answer
            self.messages.refuse_all()

    def on_change(self) -> None:
        self._keeper.note()
        self._tell_change()

    # -- What is known of it ----------------------------------------------------------------------------------------

    @property
    def owner(self) -> str:
        """The user whose it is; empty: the agent's owner."""
        return self._notebook.request.owner

    @property
    def os_user(self) -> OsUser | None:
        """As whom its kernels run, and who its files are; None: the agent."""
        return self.kernels.os_user

    @property
    def setting(self) -> KernelSetting:
        """Of its kernels."""
        return self.kernels.setting

    @property
    def confined(self) -> bool:
        """Whether its kernels run in sandboxes, and its files are to be reached by no link that leads out."""
        return self.kernels.confined

    def make_working_folder(self) -> Path:
        """Returns the folder that its kernels work in: the one that was asked for, else one of its own."""
        return self.kernels.make_working_folder()

    def processes(self) -> list[psutil.Process]:
        """Returns the kernel's process and all that came from it; the same objects from call to call."""
        return self.kernels.processes()

    def note_phase(self, phase: Phase, detail: str = "") -> None:
        """Notes how far it is on its way to its first kernel.

        Args:
            detail: What is happening, in words.
        """
        self._phase, self._detail = phase, detail
        self.on_change()

    def note_environment(self, environment: EnvironmentFacts) -> None:
        """Notes what its kernels run in, or how far that is built."""
        self.kernels.note_environment(environment)

    def attach(self, notebook_id: str, notebook_name: str = "", notebook_key: str = "") -> None:
        """Makes it the notebook's; of none, if the id is empty.

        Args:
            notebook_id: Its Jupyter kernel id.
            notebook_name: Empty: as it is.
            notebook_key: Likewise.
        """
        self._notebook.attach(notebook_id, notebook_name, notebook_key)

    def note_closing(self, closing: Closing) -> None:
        """Notes when it will be closed by itself."""
        if closing != self._closing_facts:
            self._closing_facts = closing
            self.on_change()

    @property
    def is_working(self) -> bool:
        """Whether a cell runs or waits, or the kernel is on its way."""
        return self.executions.is_busy or self.kernels.state is KernelState.STARTING

    def tell(self, text: str) -> None:
        """Tells the person: below the cell that runs, or else next to what the next one prints.

        Args:
            text: One sentence without a full stop.
        """
        self.executions.tell(text)

    def note_notebook(self, notebook_id: str, kernel_generation: int, facts: NotebookFacts) -> None:
        """Notes what a notebook says; passed over if the session is another's.

        Args:
            notebook_id: Its Jupyter kernel id.
            kernel_generation: Of the kernel that has the variables; those of one before are gone.
            facts: In the place of what it said before.
        """
        if kernel_generation != self.kernels.generation or self.kernels.state is KernelState.DEAD:
            facts = replace(facts, variables=None)
        self._notebook.note(notebook_id, facts)

    def tell_choice(self, notebook_id: str, session_id: str) -> None:
        """Tells who is connected that the notebook uses another session from now on; none, if that id is empty."""
        self.journal.append(Choice(notebook_id, session_id), own=True)

    def update(self, setting: KernelSetting, changed_files: Sequence[str] = ()) -> None:
        """Gives its kernels another setting: the next ones, and the one that runs, before any message sent later.

        Args:
            changed_files: Of local modules: they are imported anew.
        """
        self.kernels.update(setting, changed_files)

    def measure_executions(self) -> None:
        """Completes what is told of executions that have ended. To be called after every reading."""
        if self._measure is not None and self.executions.record.measure(self._measure):
            self.on_change()

    def info(self) -> SessionInfo:
        """Returns what is known of the session now."""
        kernels, executions = self.kernels, self.executions
        return SessionInfo(
            id=self.id,
            request=self._notebook.request,
            phase=self._phase,
            lease=self.lease,
            kernel_state=kernels.state,
            kernel_generation=kernels.generation,
            created_unix_s=self._created_unix_s,
            last_active_unix_s=executions.last_active_unix_s,
            executing=executions.executing(),
            executions=executions.count,
            kernel_exit=kernels.exit if kernels.state is KernelState.DEAD else None,
            python_version=kernels.python_version,
            working_folder=str(kernels.working_folder or ""),
            detail=self._detail,
            environment=kernels.environment,
            accelerator_seconds=self.lease.accelerator_seconds(self._now()) if self.lease is not None else 0.0,
            last_executions=executions.record.last(),
            journal_problem=self._problem,
            attached_unix_s=self._notebook.attached_unix_s,
            closing=self._closing_facts,
            notebook=self._notebook.facts,
            notebook_connected=self.clients.has_notebook,
        )

    async def note_shown(self, request_ids: Collection[str]) -> None:
        """Notes of executions that a person was shown them to their end; the next agent knows it too."""
        if self.executions.record.note_shown(request_ids):
            await self._keeper.flush()

    def _accelerators(self) -> tuple[Accelerator, ...]:
        return self.lease.accelerators if self.lease is not None else ()

    def note_lease(self, lease: Lease) -> None:
        """Notes that its lease has changed."""
        self.lease = lease
        self.on_change()

    def settle(self) -> None:
        """Notes that its notebook has it: it stays, whoever leaves."""
        self.settled = True
        self.on_change()

    def _note_problem(self, problem: str) -> None:
        self._problem = problem
        self._tell_change()

    # -- What is kept for the next agent ----------------------------------------------------------------------------

    def side_file(self, name: str) -> Path | None:
        """Returns where others may keep something for the next agent; None where nothing is kept."""
        return self._store.folder / name if self._store is not None and not self.kernels.closing else None

    def _restore(self, state: SessionState, stored: Stored) -> None:
        entries = [each for each in stored.entries if each.number <= state.journal_number]
        self.journal.restore(entries, state.journal_number)
        self.settled = state.settled
        self._created_unix_s = state.created_unix_s
        self._notebook.attached_unix_s = state.attached_unix_s
        self.kernels.restore(state)
        self.executions.restore(state, stored)
