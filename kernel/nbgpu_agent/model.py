"""The agent's own values: accelerators, specs, leases, offers, samples, sessions. Frozen, and free of gRPC."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from nbgpu_agent.notebook_facts import NotebookFacts


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
    parent_id: str = ""
    """NVML's UUID of the GPU that a MIG slice is of; else empty."""


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

    def accelerator_seconds(self, now_unix_s: float) -> float:
        """Returns for how long it has been held, times what is held of it alone."""
        return sum(not each.shared for each in self.accelerators) * max(now_unix_s - self.granted_unix_s, 0.0)


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
class Xid:
    """An error that NVIDIA's driver reported of a GPU."""

    code: int
    time_unix_s: float
    meaning: str
    """In words; empty for a code that we have none for."""


@dataclass(frozen=True)
class AcceleratorProcess:
    """A process that computes on an accelerator."""

    pid: int
    """In the namespace of the host."""
    session_id: str | None
    memory_bytes: int | None
    """Of the accelerator."""
    name: str
    """Of its program; empty where it is unknown."""


@dataclass(frozen=True)
class OthersProcess(AcceleratorProcess):
    """A process of another user than who is told of it, of which only the memory is told."""


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
    pcie_tx_bytes_per_s: float | None = None
    """From the device."""
    pcie_rx_bytes_per_s: float | None = None
    """To the device."""
    nvlink_tx_bytes_per_s: float | None = None
    """Over all links."""
    nvlink_rx_bytes_per_s: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    """In words, such as "thermal limit"; empty also where it is unknown."""
    ecc_errors_corrected: int | None = None
    """Since the driver was loaded."""
    ecc_errors_uncorrected: int | None = None
    xid: Xid | None = None
    """The last one since the agent started."""
    processes: tuple[AcceleratorProcess, ...] = ()


@dataclass(frozen=True)
class OthersSample(Sample):
    """A reading of an accelerator that a session of another user holds than who is told of it."""


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
    ended_because: str = ""
    """Of a limit that it exceeded, to stand behind "the kernel was ended "; empty: not of one."""


class ExecutionState(enum.Enum):
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It raised, or was interrupted."""
    LOST = "lost"
    """Its kernel ended first."""


@dataclass(frozen=True)
class Execution:
    request_id: str
    execution_count: int | None
    started_unix_s: float
    message_id: str = ""
    """`msg_id` of the execute_request that the notebook's front end sent."""
    ended_unix_s: float | None = None
    """None while it runs."""
    succeeded: bool | None = None
    """None while it runs, and where its kernel ended first."""
    accelerators: tuple[Accelerator, ...] = ()
    """What its session held."""
    mean_utilisation_percent: float | None = None
    peak_memory_bytes: int | None = None
    cell_id: str = ""
    """Of the notebook's cell, as its front end names it."""
    code_digest: str = ""
    """`sha256:` of the code."""
    first_number: int = 0
    """Of its first entry in the journal; 0: none yet."""
    last_number: int = 0
    """Of its last entry; 0 while it waits or runs."""
    waiting: bool = False
    source_digest: str = ""
    """`sha256:` of the cell as its front end sent it; empty: it is not the whole of a cell."""
    shown_before: str = ""
    """What the notebook showed under the cell before, as JSON."""
    saved: bool = False
    """Its notebook needs nothing more of it: its file has it, or a person cleared it away."""
    shown: bool = False
    """A client has said that a person was shown it to its end."""
    client_id: str = ""
    """Of the process that asked for it."""
    notebook_id: str = ""
    """Jupyter kernel id of the notebook that asked for it; empty: none did."""
    kernel_generation: int = 0
    """Of the session's kernel that has what it bound; 0: not known."""

    @property
    def state(self) -> ExecutionState:
        if self.ended_unix_s is None:
            return ExecutionState.WAITING if self.waiting else ExecutionState.RUNNING
        if self.succeeded is None:
            return ExecutionState.LOST
        return ExecutionState.SUCCEEDED if self.succeeded else ExecutionState.FAILED


@dataclass(frozen=True)
class EnvironmentFacts:
    """What a session's kernels run in, and how far its building is."""

    own: bool = False
    """Built from the notebook's snapshot; else the agent's or the notebook's interpreter."""
    package_count: int | None = None
    done: int | None = None
    """Distributions that are on the node; while it is built."""
    total: int | None = None
    current: str = ""
    """What is being fetched or built, in words; while it is built."""


class ClosingCause(enum.Enum):
    """Why a session is closed by itself."""

    IDLE = "idle"
    LIFETIME = "lifetime"
    LEASE = "lease"
    BUDGET = "budget"


@dataclass(frozen=True)
class Closing:
    """When a session is closed by itself, as far as that can be foreseen. None: not at all, or unknown."""

    idle_close_s: float | None = None
    """Without work."""
    idle_since_unix_s: float | None = None
    """None: it works."""
    closes_unix_s: float | None = None
    """If nothing changes."""
    warn_unix_s: float | None = None
    """From when on its user is warned."""
    cause: ClosingCause | None = None


@dataclass(frozen=True)
class SessionRequest:
    """What a session is opened with."""

    spec: Spec | None
    notebook_id: str = ""
    notebook_name: str = ""
    python: str = ""
    working_folder: str = ""
    snapshot_digest: str = ""
    idle_close_s: float | None = None
    """Without work, after which it is closed; 0: never; None: as the pool has it."""
    owner: str = ""
    """The user whose it is; empty: the agent's owner."""
    notebook_key: str = ""
    """By what the notebook is known again when it has another kernel."""


@dataclass(frozen=True)
class KernelSetting:
    """What a session's kernels run in and with, beside their lease. Never written anywhere: it holds secrets."""

    python: str = ""
    """Path of the interpreter; empty: the agent's default."""
    environment: str = ""
    """Folder of the virtual environment; empty: none of ours."""
    path_entries: tuple[str, ...] = ()
    """To have on `sys.path`, after the working folder."""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


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
    queue_position: int = 0
    """1 is next; 0: it does not wait."""
    queue_length: int = 0
    detail: str = ""
    """Before READY: what is happening, in words."""
    environment: EnvironmentFacts = EnvironmentFacts()
    accelerator_seconds: float = 0.0
    """Leased so far: seconds times accelerators that are not shared."""
    last_executions: tuple[Execution, ...] = ()
    """That have ended, newest last."""
    journal_problem: str = ""
    """Why its output is not kept for the next agent, in words."""
    attached_unix_s: float = 0.0
    """When its notebook began to use it; 0: it is no notebook's."""
    closing: Closing = Closing()
    notebook: NotebookFacts | None = None
    """What its notebook says; None: nothing."""
    notebook_connected: bool = False
    """A client is connected that does more than read."""


@dataclass(frozen=True)
class SessionUpdate:
    """What is happening to a request for a session."""

    phase: Phase
    queue_position: int = 0
    queue_length: int = 0
    detail: str = ""
    session: SessionInfo | None = None
    existing: bool = False
    notice: str = ""
    """With READY: what became of the session that the notebook had before, if it was not its user's doing."""
