"""What a session is asked to execute: each request from its arrival to its end, and the record of those that ended."""

from __future__ import annotations

import asyncio
import collections
import hashlib
import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nbgpu_agent.cell_timeouts import timeout_of
from nbgpu_agent.measuring import Measure
from nbgpu_agent.model import Accelerator, Execution

MAX_RECORDED = 1000
_REMEMBERED_REQUESTS = 100_000
_SHOWN = 20
_UNMEASURED = 21
_MAX_CELL_ID_CHARACTERS = 200
_MAX_DIGEST_CHARACTERS = 100
_MAX_SHOWN_CHARACTERS = 16 << 10


@dataclass
class Request:
    """An execute_request on its way: held in the session, then in the kernel, then over."""

    request_id: str
    message_id: str
    header: dict[str, Any]
    parts: Sequence[Any]
    """Empty once it is sent."""
    execution_count: int | None
    cell_id: str = ""
    code_digest: str = ""
    source_digest: str = ""
    shown_before: str = ""
    notebook_id: str = ""
    silent: bool = False
    """It is none of the person's cells."""
    timeout_s: float | None = None
    """For how long it may run, from when it has begun; None: for ever."""
    sent: bool = False
    begun: bool = False
    counts: bool = False
    """A cell of the person's, other than what is run silently."""
    replied: bool = False
    succeeded: bool | None = None
    idle: bool = False
    started_unix_s: float = 0.0
    first_number: int = 0
    """Of its first entry in the journal; 0: none yet."""
    kernel_ended: bool = False
    """Under it."""
    changed: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.kernel_ended or (self.replied and self.idle)

    async def changed_within(self, timeout_s: float) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self.changed.append(waiter)
        await asyncio.wait({waiter}, timeout=timeout_s)

    def wake(self) -> None:
        for waiter in self.changed:
            if not waiter.done():
                waiter.set_result(None)
        self.changed.clear()

    @property
    def client_id(self) -> str:
        """Of the process that asked for it; empty: it did not say."""
        return str(self.header.get("nbgpu_client", ""))

    def execution(self, accelerators: tuple[Accelerator, ...], kernel_generation: int = 0) -> Execution:
        """Returns what is told of it, as long as it is not over."""
        return Execution(
            self.request_id,
            self.execution_count,
            self.started_unix_s,
            message_id=self.message_id,
            accelerators=accelerators,
            cell_id=self.cell_id,
            code_digest=self.code_digest,
            first_number=self.first_number,
            waiting=not self.begun,
            source_digest=self.source_digest,
            shown_before=self.shown_before,
            client_id=self.client_id,
            notebook_id=self.notebook_id,
            kernel_generation=kernel_generation,
        )


def request_of(request_id: str, header: dict[str, Any], parts: Sequence[Any]) -> Request:
    """Returns the request of a message.

    Args:
        header: Decoded.
        parts: Header, parent header, metadata, content, then buffers.

    Raises:
        ValueError: The content is no JSON.
    """
    metadata, content = _decoded(parts[2]), json.loads(bytes(parts[3]))
    own = metadata.get("nbgpu")
    own = own if isinstance(own, dict) else {}
    count, notebook_id = own.get("execution_count"), own.get("notebook_id")
    source_digest, shown = own.get("source_digest"), own.get("shown_before")
    cell_id = metadata.get("cellId")
    content = content if isinstance(content, dict) else {}
    code = content.get("code")
    return Request(
        request_id,
        header.get("msg_id", ""),
        header,
        parts,
        count if isinstance(count, int) else None,
        cell_id=cell_id[:_MAX_CELL_ID_CHARACTERS] if isinstance(cell_id, str) else "",
        code_digest=code_digest(code) if isinstance(code, str) else "",
        source_digest=source_digest[:_MAX_DIGEST_CHARACTERS] if isinstance(source_digest, str) else "",
        shown_before=shown if isinstance(shown, str) and len(shown) <= _MAX_SHOWN_CHARACTERS else "",
        notebook_id=notebook_id[:_MAX_CELL_ID_CHARACTERS] if isinstance(notebook_id, str) else "",
        silent=content.get("silent") is True,
        timeout_s=timeout_of(parts[2]),
    )


def code_digest(code: str) -> str:
    """Returns the digest by which executions of the same code are told."""
    return f"sha256:{hashlib.sha256(code.encode(errors='surrogatepass')).hexdigest()}"


class ExecutionRecord:
    """The cells of a session that are over, the oldest forgotten first.

    Args:
        ended: What is remembered at first, by positions that follow each other.
    """

    def __init__(self, ended: Sequence[tuple[int, Execution]] = ()) -> None:
        self._ended = collections.deque((each for _, each in ended), maxlen=MAX_RECORDED)
        self._next_position = ended[-1][0] + 1 if ended else 0
        self._changed: dict[int, Execution] = {}
        self._unmeasured: collections.deque[Execution] = collections.deque(maxlen=_UNMEASURED)

    def add(self, execution: Execution) -> None:
        """Remembers one that has ended; what its accelerators did is known after the next reading."""
        self._ended.append(execution)
        if any(not each.shared for each in execution.accelerators):
            self._unmeasured.append(execution)
        self._changed[self._next_position] = execution
        self._next_position += 1

    def all(self) -> tuple[Execution, ...]:
        """Returns all that are remembered, newest last."""
        return tuple(self._ended)

    def last(self) -> tuple[Execution, ...]:
        """Returns those that are shown with a session, newest last."""
        return tuple(itertools.islice(self._ended, max(0, len(self._ended) - _SHOWN), None))

    def measure(self, measure: Measure) -> bool:
        """Adds what accelerators did, where there is a reading by now; returns whether anything was added."""
        added = False
        for execution in tuple(self._unmeasured):
            assert execution.ended_unix_s is not None
            ids = {each.id for each in execution.accelerators}
            if (found := measure(ids, execution.started_unix_s, execution.ended_unix_s)) is not None:
                self._unmeasured.remove(execution)
                added |= self.complete(
                    execution,
                    mean_utilisation_percent=found.mean_utilisation_percent,
                    peak_memory_bytes=found.peak_memory_bytes,
                )
        return added

    def complete(
        self, execution: Execution, *, mean_utilisation_percent: float | None, peak_memory_bytes: int | None
    ) -> bool:
        """Adds what was measured; returns whether the execution is still remembered."""
        for index in range(len(self._ended) - 1, -1, -1):
            known = self._ended[index]
            if (known.request_id, known.started_unix_s) == (execution.request_id, execution.started_unix_s):
                completed = replace(
                    known, mean_utilisation_percent=mean_utilisation_percent, peak_memory_bytes=peak_memory_bytes
                )
                self._put(index, completed)
                return True
        return False

    def note_saved(self, cell_ids: frozenset[str]) -> bool:
        """Notes that the notebook needs nothing more of these cells until now; returns whether that is new of any."""
        changed = False
        for index, execution in enumerate(self._ended):
            if execution.cell_id in cell_ids and not execution.saved:
                self._put(index, replace(execution, saved=True, shown=True))
                changed = True
        return changed

    def note_shown(self, request_ids: Collection[str]) -> bool:
        """Notes of executions that a person was shown them to their end; returns whether that was new of any."""
        found = [index for index, each in enumerate(self._ended) if not each.shown and each.request_id in request_ids]
        for index in found:
            self._put(index, replace(self._ended[index], shown=True))
        return bool(found)

    def _put(self, index: int, execution: Execution) -> None:
        self._ended[index] = execution
        self._changed[self.first_position + index] = execution

    @property
    def first_position(self) -> int:
        """Of the oldest that is remembered."""
        return self._next_position - len(self._ended)

    def take_changed(self) -> dict[int, Execution]:
        """Returns what has come or changed since the last time, by positions."""
        changed, self._changed = self._changed, {}
        return changed


class RequestIds:
    """The ids of a session's requests: those that were seen here, and those that the kernel is known to have received.

    Args:
        received: What is known at first, by positions that follow each other.
    """

    def __init__(self, received: Sequence[tuple[int, str]] = ()) -> None:
        self._seen = collections.OrderedDict((request_id, True) for _, request_id in received)
        self._next_position = received[-1][0] + 1 if received else 0
        self._new: dict[int, str] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._seen

    def see(self, request_id: str) -> bool:
        """Notes an id; returns whether it is new."""
        if request_id in self._seen:
            return False
        self._seen[request_id] = False
        self._forget()
        return True

    def receive(self, request_id: str) -> None:
        """Notes that the kernel has the request, or that it is answered without."""
        if request_id and not self._seen.get(request_id):
            self._seen[request_id] = True
            self._new[self._next_position] = request_id
            self._next_position += 1
            self._forget()

    @property
    def first_position(self) -> int:
        return max(0, self._next_position - _REMEMBERED_REQUESTS)

    def take_new(self) -> dict[int, str]:
        """Returns the ids that were received since the last time, by positions."""
        new, self._new = self._new, {}
        return new

    def _forget(self) -> None:
        if len(self._seen) > _REMEMBERED_REQUESTS:
            self._seen.popitem(last=False)


def _decoded(part: Any) -> dict[str, Any]:
    try:
        value = json.loads(bytes(part))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
