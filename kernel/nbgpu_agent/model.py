"""The agent's own values: accelerators, specs, leases, offers, samples, sessions. Frozen, and free of gRPC."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """One leasable device: a whole GPU or a MIG slice. CPU is an accelerator that any number of sessions share."""

    id: str
    """NVML's UUID; `sim-h100-0` for a simulated one; `cpu`."""
    index: int
    type: str
    """Canonical, see `nbgpu_protocol.accelerator_types`."""
    product_name: str
    memory_bytes: int
    """Nominal capacity; 0 for CPU."""
    simulated: bool = False
    shared: bool = False


@dataclass(frozen=True)
class Alternative:
    type: str
    """Canonical; empty for any GPU."""
    count: int
    min_memory_bytes: int = 0


@dataclass(frozen=True)
class Spec:
    """What the user asks for: alternatives in order of preference."""

    alternatives: tuple[Alternative, ...]
    text: str


@dataclass(frozen=True)
class Lease:
    """A time-bounded, renewable right to accelerators."""

    id: str
    accelerators: tuple[Accelerator, ...]
    granted_unix_s: float
    expires_unix_s: float | None = None


@dataclass(frozen=True)
class Offer:
    type: str
    memory_bytes: int
    total: int
    free: int
    queued: int
    simulated: bool
    shared: bool


@dataclass(frozen=True)
class Node:
    id: str
    hostname: str
    platform: str
    cpu_count: int
    memory_bytes: int
    driver_version: str | None


@dataclass(frozen=True)
class Sample:
    """One timed reading of one accelerator. None is unknown, never zero."""

    accelerator_id: str
    time_unix_s: float
    simulated: bool
    utilisation_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    temperature_celsius: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    session_id: str | None = None


class Phase(enum.Enum):
    QUEUED = "queued"
    PLACING = "placing"
    MATERIALISING = "materialising"
    STARTING = "starting"
    READY = "ready"
    CLOSED = "closed"


class KernelState(enum.Enum):
    STARTING = "starting"
    IDLE = "idle"
    EXECUTING = "executing"
    DEAD = "dead"


@dataclass(frozen=True)
class KernelExit:
    """How a kernel's process ended: by an exit code or by a signal."""

    exit_code: int | None
    signal: int | None
    stderr_tail: str
    """Last lines of its standard error, at most 4 KiB."""
    asked_for: bool
    """Ended by a restart, a close, or an escalated interrupt."""


@dataclass(frozen=True)
class Execution:
    request_id: str
    execution_count: int | None
    started_unix_s: float


@dataclass(frozen=True)
class SessionRequest:
    """What a session is opened with."""

    spec: Spec | None
    notebook_id: str = ""
    notebook_name: str = ""
    python: str = ""
    working_folder: str = ""


@dataclass(frozen=True)
class SessionInfo:
    id: str
    request: SessionRequest
    phase: Phase
    lease: Lease | None
    kernel_state: KernelState
    kernel_generation: int
    created_unix_s: float
    last_active_unix_s: float
    executing: Execution | None
    executions: int
    kernel_exit: KernelExit | None
    python_version: str
    working_folder: str


@dataclass(frozen=True)
class SessionUpdate:
    """What is happening to a request for a session."""

    phase: Phase
    queue_position: int = 0
    queue_length: int = 0
    detail: str = ""
    session: SessionInfo | None = None
    existing: bool = False
