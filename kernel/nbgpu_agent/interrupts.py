"""Interrupts what a session executes: what runs, waits, or is on its way, if asked, or when its time is over."""

from __future__ import annotations

import asyncio

from nbgpu_agent.background_tasks import BackgroundTasks
from nbgpu_agent.cell_timeouts import CellTimeouts
from nbgpu_agent.client_messages import ClientMessages
from nbgpu_agent.execution_queue import ExecutionQueue
from nbgpu_agent.executions import Request
from nbgpu_agent.journal import Journal
from nbgpu_agent.kernels import Kernel
from nbgpu_agent.session_kernels import SessionKernels

_ARRIVAL_TIMEOUT_S = 5.0
"""How long an interrupt waits for the request that it means, which comes by another way."""
_NUDGES_S = (0.01, 0.03, 0.1, 0.3, 1.0)


class Interrupts:
    """The interrupts of one session. For one event loop.

    Args:
        journal: Is told of cells whose time is over.
    """

    def __init__(
        self, journal: Journal, kernels: SessionKernels, queue: ExecutionQueue, messages: ClientMessages
    ) -> None:
        self._kernels = kernels
        self._queue = queue
        self._messages = messages
        self._nudging = BackgroundTasks()
        self._timeouts = CellTimeouts(
            kernels.stacks, lambda event: journal.append(event, own=True), self._interrupt_current, kernels.end
        )

    def bound(self, request: Request, ran_s: float = 0.0) -> None:
        """Has a cell that has begun interrupted when its time is over, if it has a limit.

        Args:
            ran_s: For how long it has run by now.
        """
        if request.timeout_s is not None:
            self._timeouts.bound(request, max(0.0, request.timeout_s - ran_s))

    async def interrupt(self, request_id: str, *, escalate: bool) -> bool:
        """Interrupts an execution.

        Args:
            request_id: The execution that is meant; empty: whatever runs.
            escalate: End the kernel with all its processes.

        Returns:
            Whether there was anything to interrupt.
        """
        if request_id:
            await self._messages.arrived_within(request_id, _ARRIVAL_TIMEOUT_S)
            if self._queue.withdraw(request_id):
                return True
        current = self._queue.current
        if self._kernels.kernel is None or current is None or (request_id and current.request_id != request_id):
            return False
        if escalate:
            await self._kernels.end()
            return True
        while not current.begun:
            if current.over or self._queue.current is not current:
                return False
            waiter = asyncio.get_running_loop().create_future()
            current.changed.append(waiter)
            await waiter
        if current.over or self._queue.current is not current:
            return False
        self._interrupt_current()
        return True

    def _interrupt_current(self) -> None:
        kernel, current = self._kernels.kernel, self._queue.current
        if kernel is not None and current is not None:
            kernel.interrupt()
            self._nudging.begin(self._nudge(kernel, current))

    async def _nudge(self, kernel: Kernel, request: Request) -> None:
        """Wakes the kernel from a system call that it entered with the interrupt pending, unseen.

        Python looks for signals between instructions; one that comes between the last look and a system call that
        blocks is seen when the call returns, be it after hours.
        """
        for delay_s in _NUDGES_S:
            await asyncio.sleep(delay_s)
            if request.over or self._queue.current is not request or self._kernels.kernel is not kernel:
                return
            kernel.nudge()
