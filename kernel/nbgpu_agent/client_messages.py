"""Takes clients' messages to a session's kernel, each once: held while it is on its way, refused if there is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from nbgpu_agent.channels import Channel
from nbgpu_agent.errors import KernelDiedError
from nbgpu_agent.execution_queue import ExecutionQueue
from nbgpu_agent.executions import RequestIds, request_of
from nbgpu_agent.journal import Journal, RequestRefused
from nbgpu_agent.kernels import Kernel
from nbgpu_agent.model import KernelState
from nbgpu_agent.session_kernels import SessionKernels


class ClientMessages:
    """What clients send to a session. For one event loop.

    Attributes:
        resuming: Whether what the kernel says first has yet to tell which requests it has.

    Args:
        journal: Gets the refusals.
        seen: The ids of requests.
        queue: Gets what is to be executed.
    """

    def __init__(self, journal: Journal, kernels: SessionKernels, seen: RequestIds, queue: ExecutionQueue) -> None:
        self.resuming = False
        self._journal = journal
        self._kernels = kernels
        self._seen = seen
        self._queue = queue
        self._held: list[tuple[Channel, Sequence[Any], str]] = []
        self._arrivals: list[asyncio.Future[None]] = []

    def submit(self, channel: Channel, parts: Sequence[Any], request_id: str) -> None:
        """Takes a client's message to the kernel. A request whose id has been seen is passed over.

        Args:
            parts: Header, parent header, metadata, content, then buffers.
            request_id: Required to be unique on SHELL and CONTROL; may be empty on STDIN.
        """
        if self.resuming:
            self._held.append((channel, parts, request_id))
            return
        if request_id and not self._seen.see(request_id):
            return
        kernel = self._kernels.kernel
        if kernel is None and self._kernels.state is not KernelState.STARTING:
            self._refuse(request_id)
        elif kernel is None or not kernel.alive:  # one that has ended: refused once its end is told
            self._held.append((channel, parts, request_id))
        else:
            self._pass_on(kernel, channel, parts, request_id)
        arrivals, self._arrivals = self._arrivals, []
        for arrival in arrivals:
            if not arrival.done():
                arrival.set_result(None)

    def release(self, kernel: Kernel) -> None:
        """Passes on what was held until there was a kernel, or until it was known what it has."""
        held, self._held = self._held, []
        was_resuming, self.resuming = self.resuming, False
        for channel, parts, request_id in held:
            if was_resuming:
                self.submit(channel, parts, request_id)
            else:
                self._pass_on(kernel, channel, parts, request_id)

    def refuse_all(self) -> None:
        """Refuses what is held, and what waits for its turn: there is no kernel for it any more."""
        held, self._held = self._held, []
        for request_id in (*(each.request_id for each in self._queue.take_waiting()), *(each for _, _, each in held)):
            self._refuse(request_id)

    async def arrived_within(self, request_id: str, timeout_s: float) -> None:
        """Waits for a request, as long as there is a kernel for it, and for so long at most."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while request_id not in self._seen and self._kernels.kernel is not None and loop.time() < deadline:
            arrival = loop.create_future()
            self._arrivals.append(arrival)
            await asyncio.wait({arrival}, timeout=deadline - loop.time())

    def _pass_on(self, kernel: Kernel, channel: Channel, parts: Sequence[Any], request_id: str) -> None:
        if channel is Channel.SHELL:
            header = json.loads(bytes(parts[0]))
            if header.get("msg_type") == "execute_request" and not header.get("subshell_id"):
                self._queue.add(kernel, request_of(request_id, header, parts))
                return
        kernel.channels.send(channel, parts)

    def _refuse(self, request_id: str) -> None:
        if request_id:
            error = KernelDiedError("the session's kernel has ended", "`%gpu restart` starts a fresh one")
            self._seen.receive(request_id)
            self._journal.append(RequestRefused(request_id, error), own=True)
