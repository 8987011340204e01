"""Goes on with a kernel that was without an agent for a while: what it said meanwhile comes first, and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nbgpu_agent.background_tasks import BackgroundTasks
from nbgpu_agent.client_messages import ClientMessages
from nbgpu_agent.execution_queue import ExecutionQueue
from nbgpu_agent.journal import Journal, KernelEnded
from nbgpu_agent.kernels import Kernel
from nbgpu_agent.model import KernelExit
from nbgpu_agent.session_kernels import SessionKernels

_UNKNOWN_ENTRIES = 1 << 20
"""More than an agent and a kernel that ended together can have shown without having written them down."""


class Resumption:
    """How a session goes on where an earlier agent was. For one event loop.

    Args:
        on_change: Called once the kernel has said all.
    """

    def __init__(
        self,
        journal: Journal,
        kernels: SessionKernels,
        executions: ExecutionQueue,
        messages: ClientMessages,
        on_change: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._kernels = kernels
        self._executions = executions
        self._messages = messages
        self._on_change = on_change
        self._background = BackgroundTasks()

    async def begin(self, kernel: Kernel, patience_s: float) -> None:
        """Takes over the kernel, which may have ended. What clients send is held until it has said all.

        Args:
            patience_s: How long to wait for what it said meanwhile, which comes later otherwise.
        """
        self._messages.resuming = True
        self._kernels.adopt(kernel)
        await asyncio.wait({self._background.begin(self._take_up(kernel))}, timeout=patience_s)

    def note_nothing_left(self, *, had_kernel: bool) -> None:
        """Notes that there is no kernel to take over.

        Args:
            had_kernel: Whether the earlier agent knew of one.
        """
        self._executions.current = None
        if not had_kernel:
            return
        self._journal.skip(_UNKNOWN_ENTRIES)
        self._kernels.exit = KernelExit(exit_code=None, signal=None, stderr_tail="", asked_for=False)
        self._journal.append(KernelEnded(self._kernels.generation, self._kernels.exit), own=True)

    def note_kernel_ended(self) -> None:
        """Notes that the kernel says no more, if it has not said all by now."""
        if self._messages.resuming:
            self._messages.resuming = False
            self._journal.skip(_UNKNOWN_ENTRIES)

    async def _take_up(self, kernel: Kernel) -> None:
        await kernel.resend(self._on_missing)
        if self._kernels.kernel is not kernel or not kernel.alive:
            return  # its end says the rest
        kernel.channels.on_gap = lambda: self._on_gap(kernel)
        self._messages.release(kernel)
        self._on_change()

    def _on_gap(self, kernel: Kernel) -> None:
        self._background.begin(kernel.resend(self._on_missing))

    def _on_missing(self, count: int) -> None:
        """Says that the kernel could not keep all that it said while there was no agent."""
        self._journal.skip(count)
        self._executions.say(f"nbgpu: {count} messages were dropped while the session was without its agent\n")
