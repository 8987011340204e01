"""What a session executes: one request after the other goes to its kernel, and is followed there to its end."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nbgpu_agent.channels import Channel, message_parts
from nbgpu_agent.executions import ExecutionRecord, Request, RequestIds
from nbgpu_agent.journal import Journal, Message, Notice
from nbgpu_agent.journal_store import Stored
from nbgpu_agent.kernels import Kernel
from nbgpu_agent.limits.output import OutputAllowance, Passage
from nbgpu_agent.model import Accelerator, Execution
from nbgpu_agent.session_kernels import SessionKernels
from nbgpu_agent.session_state import SessionState, execution_from_json, request_from_record

_LAZY_MESSAGE_TYPES = frozenset({"execute_input"})


class ExecutionQueue:
    """The executions of a session, of which its kernel has one at a time; the others wait here.

    So one that waits can be withdrawn, and the error of one client's cell does not abort another client's, as it does
    with what waits in a kernel.

    Attributes:
        current: What the kernel has; None: nothing.
        record: What is over.
        count: How many of the person's cells have begun.
        last_active_unix_s: When the last one ended, or the session was made.

    Args:
        journal: Gets what the kernel says, and what is said in its place.
        seen: The ids of requests, which the kernel's words add to.
        accelerators: Returns what the session holds.
        now: The time, in seconds since the epoch.
        output_bytes: What a cell may print and display; None: no bound.
        on_begun: Called with each request that the kernel has begun.
        on_executed: Called with each cell that has ended.
        on_change: Called after every change.
    """

    def __init__(
        self,
        journal: Journal,
        kernels: SessionKernels,
        seen: RequestIds,
        *,
        accelerators: Callable[[], tuple[Accelerator, ...]],
        now: Callable[[], float],
        output_bytes: int | None,
        on_begun: Callable[[Request], None],
        on_executed: Callable[[Execution], None],
        on_change: Callable[[], None],
    ) -> None:
        self.current: Request | None = None
        self.record = ExecutionRecord()
        self.count = 0
        self.last_active_unix_s = now()
        self._journal = journal
        self._kernels = kernels
        self._seen = seen
        self._accelerators = accelerators
        self._now = now
        self._output = OutputAllowance(output_bytes)
        self._on_begun = on_begun
        self._on_executed = on_executed
        self._on_change = on_change
        self._waiting: collections.deque[Request] = collections.deque()

    def restore(self, state: SessionState, stored: Stored) -> None:
        """Goes on where an earlier agent was."""
        self.record = ExecutionRecord([(at, execution_from_json(each)) for at, each in stored.executions])
        self.count = state.executions
        self.last_active_unix_s = state.last_active_unix_s
        self.current = request_from_record(state.current) if state.current is not None else None

    @property
    def is_busy(self) -> bool:
        """Whether one runs or waits."""
        return self.current is not None or bool(self._waiting)

    def executing(self) -> Execution | None:
        """Returns what runs; None while nothing has begun."""
        current = self.current
        return current.execution(self._accelerators()) if current is not None and current.begun else None

    def all(self) -> tuple[Execution, ...]:
        """Returns the cells that have run, run, and wait, the oldest first."""
        current = self.current
        going_on = [current] if current is not None and (current.counts or not current.begun) else []
        return (
            *self.record.all(),
            *(
                each.execution(self._accelerators(), self._kernels.generation)
                for each in (*going_on, *self._waiting)
                if not each.silent
            ),
        )

    def note_saved(self, cell_ids: frozenset[str]) -> None:
        """Notes that the notebook's file has what these cells have put out until now, or that it was cleared away."""
        if self.record.note_saved(cell_ids):
            self._on_change()

    def add(self, kernel: Kernel, request: Request) -> None:
        """Hands the request to the kernel as soon as it has nothing else to do."""
        if self.current is None:
            self._execute(kernel, request)
        else:
            self._waiting.append(request)

    def withdraw(self, request_id: str) -> bool:
        """Answers one that waits as the kernel would have if it had been interrupted; returns whether it waited."""
        for request in self._waiting:
            if request.request_id == request_id:
                self._waiting.remove(request)
                self._answer_withdrawn(request)
                return True
        return False

    def take_waiting(self) -> list[Request]:
        """Returns what waits, which is the caller's to answer from now on."""
        waiting, self._waiting = self._waiting, collections.deque()
        return list(waiting)

    def note_kernel_ended(self) -> None:
        """Notes that the kernel will say no more of what it has."""
        current, self.current = self.current, None
        if current is not None:
            self.last_active_unix_s = self._now()
            self._note_ended(current)
            current.kernel_ended = True
            current.wake()

    def tell(self, text: str) -> None:
        """Tells the person: below the cell that runs, or else next to what the next one prints.

        Args:
            text: One sentence without a full stop.
        """
        if self.current is None:
            self._journal.append(Notice(text), own=True)
        else:
            self.say(f"nbgpu: {text}\n")

    def say(self, text: str) -> None:
        """Puts a text to stderr in the place of the kernel, below the cell that runs if there is one."""
        header = self.current.header if self.current is not None else {}
        parts = message_parts("stream", {"name": "stderr", "text": text}, parent_header=header)
        self._journal.append(Message(Channel.IOPUB, parts), own=True)

    # -- What the kernel says of them -------------------------------------------------------------------------------

    def follow(self, channel: Channel, parts: list[bytes]) -> None:
        """Journals what the kernel says, and notes what it means for what it has."""
        message_type = json.loads(parts[0]).get("msg_type", "")
        parent = json.loads(parts[1])
        if parent.get("session") == "nbgpu-agent":
            return
        status = parts[3] if message_type == "status" else b""
        idle = b'"idle"' in status
        urgent = not status and message_type not in _LAZY_MESSAGE_TYPES
        current = self.current
        if status and not idle:
            self._seen.receive(parent.get("nbgpu_request", ""))
            if current is None and parent.get("msg_type") == "execute_request":
                current = self.current = _request_of_parent(parent)  # that an earlier agent sent
        if current is not None and parent.get("msg_id") == current.message_id:
            if channel is Channel.SHELL:
                current.replied = True
                current.succeeded = json.loads(parts[3]).get("status") == "ok"
            elif idle:
                current.idle = True
            elif status or message_type == "execute_input":
                self._begin(current, counts=message_type == "execute_input")
            if idle or channel is Channel.SHELL:
                urgent = current.over  # the cell is over with both, and one frame carries them
        if channel is Channel.IOPUB:
            parts = self._bounded(message_type, parts)
        if parts:
            self._journal.append(Message(channel, parts), urgent=urgent)
        if current is not None and current.over and self.current is current:
            self._finish(current)

    def _bounded(self, message_type: str, parts: list[bytes]) -> list[bytes]:
        """Returns what of a message goes to the notebook; what is printed beyond a cell's allowance goes to the log."""
        passage, left_bytes = self._output.take(message_type, sum(map(len, parts)))
        if passage is Passage.PASS:
            return parts
        passed: list[bytes] = []
        if message_type == "stream":
            content = json.loads(parts[3])
            text, content["text"] = content["text"], content["text"][:left_bytes]
            if self._kernels.kernel is not None:
                self._kernels.kernel.log.append(text[left_bytes:])
            passed = [*parts[:3], json.dumps(content).encode()] if content["text"] else []
        if passage is Passage.FIRST_BEYOND:
            if passed:
                self._journal.append(Message(Channel.IOPUB, passed))
            self.tell("this cell has printed as much as a cell may; the rest is in `%gpu logs` only")
        return []

    def _execute(self, kernel: Kernel, request: Request) -> None:
        self.current = request
        self._output.begin()
        request.sent = True
        request.started_unix_s = self._now()
        kernel.channels.send(Channel.SHELL, request.parts)
        request.parts = ()
        self._on_change()

    def _begin(self, request: Request, *, counts: bool) -> None:
        if counts:
            self.count += 1
            request.counts = True
        if not request.begun:
            request.begun = True
            self._seen.receive(request.request_id)
            request.first_number = self._journal.last_number + 1  # of the entry that tells of it
            request.started_unix_s = self._now()
            request.wake()
            self._on_begun(request)
        self._on_change()

    def _finish(self, request: Request) -> None:
        self.current = None
        self.last_active_unix_s = self._now()
        self._note_ended(request)
        request.wake()
        kernel = self._kernels.kernel
        if self._waiting and kernel is not None and kernel.alive:
            self._execute(kernel, self._waiting.popleft())
        self._on_change()

    def _note_ended(self, request: Request) -> None:
        """Remembers a cell that is over."""
        if not request.counts:
            return
        execution = replace(
            request.execution(self._accelerators(), self._kernels.generation),
            ended_unix_s=self.last_active_unix_s,
            succeeded=request.succeeded,
            last_number=self._journal.last_number,
        )
        self.record.add(execution)
        self._on_executed(execution)

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
            self._journal.append(Message(channel, parts), urgent=message_type == "status", own=True)
        self._seen.receive(request.request_id)


def _request_of_parent(parent: dict[str, Any]) -> Request:
    """Returns a request that is known by what answers it only."""
    message_id = str(parent.get("msg_id", ""))
    return Request(str(parent.get("nbgpu_request") or message_id), message_id, parent, (), None, sent=True)
