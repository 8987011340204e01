"""What a session is asked to execute: each request from its arrival to its end, and the record of those that ended."""

from __future__ import annotations

import asyncio
import collections
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nbgpu_agent.model import Accelerator, Execution

MAX_RECORDED = 1000
_SHOWN = 20
_MAX_CELL_ID_CHARACTERS = 200


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
    sent: bool = False
    begun: bool = False
    counts: bool = False
    """A cell of the person's, other than what is run silently."""
    replied: bool = False
    succeeded: bool | None = None
    idle: bool = False
    reply: list[bytes] | None = None
    """That came before the last of the output."""
    started_unix_s: float = 0.0
    first_number: int = 0
    """Of its first entry in the journal; 0: none yet."""
    changed: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.replied and self.idle

    def wake(self) -> None:
        for waiter in self.changed:
            if not waiter.done():
                waiter.set_result(None)
        self.changed.clear()

    def execution(self, accelerators: tuple[Accelerator, ...]) -> Execution:
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
    count = own.get("execution_count") if isinstance(own, dict) else None
    cell_id = metadata.get("cellId")
    code = content.get("code") if isinstance(content, dict) else None
    return Request(
        request_id,
        header.get("msg_id", ""),
        header,
        parts,
        count if isinstance(count, int) else None,
        cell_id=cell_id[:_MAX_CELL_ID_CHARACTERS] if isinstance(cell_id, str) else "",
        code_digest=code_digest(code) if isinstance(code, str) else "",
    )


def code_digest(code: str) -> str:
    """Returns the digest by which executions of the same code are told."""
    return f"sha256:{hashlib.sha256(code.encode(errors='surrogatepass')).hexdigest()}"


class ExecutionRecord:
    """The cells of a session that are over, the oldest forgotten first."""

    def __init__(self, ended: Iterable[Execution] = ()) -> None:
        self._ended = collections.deque(ended, maxlen=MAX_RECORDED)

    def add(self, execution: Execution) -> None:
        self._ended.append(execution)

    def all(self) -> tuple[Execution, ...]:
        """Returns all that are remembered, newest last."""
        return tuple(self._ended)

    def last(self) -> tuple[Execution, ...]:
        """Returns those that are shown with a session, newest last."""
        return tuple(itertools.islice(self._ended, max(0, len(self._ended) - _SHOWN), None))

    def complete(
        self, execution: Execution, *, mean_utilisation_percent: float | None, peak_memory_bytes: int | None
    ) -> bool:
        """Adds what was measured; returns whether the execution is still remembered."""
        for index in range(len(self._ended) - 1, -1, -1):
            if self._ended[index] is execution:
                self._ended[index] = replace(
                    execution, mean_utilisation_percent=mean_utilisation_percent, peak_memory_bytes=peak_memory_bytes
                )
                return True
        return False


def _decoded(part: Any) -> dict[str, Any]:
    try:
        value = json.loads(bytes(part))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
