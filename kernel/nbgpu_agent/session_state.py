"""What the next agent is to know of a session, as JSON: everything but secrets, code and output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from nbgpu_agent.executions import Request
from nbgpu_agent.model import (
    Accelerator,
    Alternative,
    Execution,
    KernelExit,
    KernelSetting,
    Lease,
    SessionRequest,
    Spec,
)

_VERSION = 2


@dataclass(frozen=True)
class LeaseState:
    """A lease; its accelerators by their ids, as the node is looked at anew."""

    id: str
    accelerator_ids: tuple[str, ...]
    granted_unix_s: float
    expires_unix_s: float | None

    def lease(self, accelerators: Sequence[Accelerator]) -> Lease | None:
        """Returns the lease; None if the node does not have all of its accelerators any more."""
        known = {each.id: each for each in accelerators}
        if not known.keys() >= set(self.accelerator_ids):
            return None
        held = tuple(known[each] for each in self.accelerator_ids)
        return Lease(self.id, held, self.granted_unix_s, self.expires_unix_s)


@dataclass(frozen=True)
class SessionState:
    """A session that was READY."""

    id: str
    request: SessionRequest
    lease: LeaseState | None
    kernel_id: str
    """Empty: its kernel has ended."""
    kernel_exit: KernelExit | None
    generation: int
    kernel_number: int
    """Of the last message of the kernel that is in the journal, or that was passed over."""
    journal_number: int
    """Of the last entry that belongs to this state."""
    created_unix_s: float
    last_active_unix_s: float
    attached_unix_s: float
    settled: bool
    """Its notebook has it: it stays, whoever leaves."""
    executions: int
    python_version: str
    working_folder: str
    setting: KernelSetting
    """Without variables."""
    current: Mapping[str, Any] | None = None
    """The request that runs."""
    version: int = field(default=_VERSION)


def state_to_json(state: SessionState) -> bytes:
    record = {each.name: getattr(state, each.name) for each in fields(state)}
    record["request"] = asdict(state.request)
    record["lease"] = asdict(state.lease) if state.lease is not None else None
    record["kernel_exit"] = asdict(state.kernel_exit) if state.kernel_exit is not None else None
    setting = state.setting
    record["setting"] = {
        "python": setting.python,
        "environment": setting.environment,
        "path_entries": list(setting.path_entries),
    }
    return json.dumps(record).encode()


def state_from_json(content: bytes) -> SessionState:
    """Returns the state.

    Raises:
        ValueError, KeyError, TypeError: It is none, or of another version.
    """
    record = json.loads(content)
    if record["version"] != _VERSION:
        raise ValueError(f"version {record['version']} of what was written is not understood")
    request = dict(record["request"])
    if (spec := request.pop("spec")) is not None:
        spec = Spec(tuple(Alternative(**each) for each in spec["alternatives"]), spec["text"])
    lease = dict(record["lease"]) if record["lease"] is not None else None
    if lease is not None:
        lease["accelerator_ids"] = tuple(lease["accelerator_ids"])
    setting = dict(record["setting"])
    setting["path_entries"] = tuple(setting["path_entries"])
    return SessionState(
        **{
            **record,
            "request": SessionRequest(spec=spec, **request),
            "lease": LeaseState(**lease) if lease is not None else None,
            "kernel_exit": KernelExit(**record["kernel_exit"]) if record["kernel_exit"] is not None else None,
            "setting": KernelSetting(**setting),
        }
    )


def lease_state(lease: Lease | None) -> LeaseState | None:
    if lease is None:
        return None
    ids = tuple(each.id for each in lease.accelerators)
    return LeaseState(lease.id, ids, lease.granted_unix_s, lease.expires_unix_s)


_REQUEST_FIELDS = (
    "request_id", "message_id", "header", "execution_count", "cell_id", "code_digest", "counts", "replied",
    "succeeded", "idle", "started_unix_s", "first_number", "timeout_s", "source_digest", "shown_before",
    "notebook_id",
)  # fmt: skip


def request_to_record(request: Request) -> dict[str, Any]:
    """Returns what is to be known of a request that has begun; its code is not."""
    return {name: getattr(request, name) for name in _REQUEST_FIELDS}


def request_from_record(record: Mapping[str, Any]) -> Request:
    return Request(parts=(), sent=True, begun=True, **record)


def execution_to_json(execution: Execution) -> bytes:
    return json.dumps({**asdict(execution), "accelerators": [asdict(each) for each in execution.accelerators]}).encode()


def execution_from_json(content: bytes) -> Execution:
    """Returns the execution.

    Raises:
        ValueError, KeyError, TypeError: It is none.
    """
    execution = Execution(**json.loads(content))
    return replace(execution, accelerators=tuple(Accelerator(**each) for each in execution.accelerators))  # type: ignore[arg-type]
