"""A session without a kernel: starts when a test lets it, and remembers how it was closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import psutil

from nbgpu_agent.model import (
    Closing,
    EnvironmentFacts,
    Execution,
    KernelState,
    Lease,
    Phase,
    SessionInfo,
    SessionRequest,
)


class FakeSession:
    """Honours what the registry and the sampler ask of a session."""

    def __init__(
        self, session_id: str, request: SessionRequest, lease: Lease, on_change: Callable[[], None], desk: FakeKernels
    ) -> None:
        self.id = session_id
        self.lease: Lease | None = lease
        self.request = request
        self.closed_because: str | None = None
        self.settled = False
        self._on_change = on_change
        self._desk = desk
        self._phase = Phase.STARTING
        self._created_unix_s = desk.now()
        self.is_working = False
        self.closing = Closing()
        self.told: list[str] = []
        self.executing: Execution | None = None
        self.interrupts = 0
        self.attached_unix_s = self._created_unix_s if request.notebook_id else 0.0
        self.choices: list[tuple[str, str]] = []

    def note_phase(self, phase: Phase, detail: str = "") -> None:
        self._phase = phase

    def note_environment(self, environment: EnvironmentFacts) -> None:
        pass

    def attach(self, notebook_id: str, notebook_name: str = "", notebook_key: str = "") -> None:
        self.request = replace(
            self.request,
            notebook_id=notebook_id,
            notebook_name=notebook_name or self.request.notebook_name,
            notebook_key=notebook_key or self.request.notebook_key,
        )
        self.attached_unix_s = time.time() if notebook_id else 0.0
        self._on_change()

    def tell_choice(self, notebook_id: str, session_id: str) -> None:
        self.choices.append((notebook_id, session_id))

    def settle(self) -> None:
        self.settled = True

    def side_file(self, name: str) -> None:
        """Nothing is kept."""

    def note_lease(self, lease: Lease) -> None:
        self.lease = lease

    def measure_executions(self) -> None:
        pass

    async def start(self) -> None:
        self._desk.starting += 1
        await self._desk.may_start.wait()
        if self._desk.start_error is not None:
            raise self._desk.start_error
        self._phase = Phase.READY
        self._on_change()

    async def close(self, reason: str) -> None:
        await self._desk.may_end.wait()
        if self.closed_because is None:
            self.closed_because = reason
        self._phase = Phase.CLOSED

    def info(self) -> SessionInfo:
        return SessionInfo(
            id=self.id,
            request=self.request,
            phase=self._phase,
            lease=self.lease,
            kernel_state=KernelState.IDLE,
            kernel_generation=1,
            created_unix_s=self._created_unix_s,
            last_active_unix_s=self._created_unix_s,
            executing=self.executing,
            executions=0,
            kernel_exit=None,
            python_version="3.11.7",
            working_folder="/",
            attached_unix_s=self.attached_unix_s,
            closing=self.closing,
            accelerator_seconds=self._accelerator_seconds(),
        )

    def _accelerator_seconds(self) -> float:
        if self.lease is None or self._desk.now is time.time:  # nothing that changes between two looks
            return 0.0
        held = sum(not each.shared for each in self.lease.accelerators)
        return held * (self._desk.now() - self.lease.granted_unix_s)

    async def interrupt(self, request_id: str, *, escalate: bool) -> bool:
        assert not escalate
        self.interrupts += 1
        return True

    def note_closing(self, closing: Closing) -> None:
        self.closing = closing

    def tell(self, text: str) -> None:
        self.told.append(text)

    def processes(self) -> list[psutil.Process]:
        return []


class FakeKernels:
    """Makes the sessions of a test, and decides when and whether their kernels start and end."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.start_error: Exception | None = None
        self.starting = 0
        self.sessions: list[FakeSession] = []

    def make(
        self, session_id: str, request: SessionRequest, lease: Lease, on_change: Callable[[], None]
    ) -> FakeSession:
        session = FakeSession(session_id, request, lease, on_change, self)
        self.sessions.append(session)
        return session
