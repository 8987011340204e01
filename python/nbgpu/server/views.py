"""What a page receives, as JSON. `js/src/state.ts` mirrors these types; None is unknown, or not there."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Phase = Literal["queued", "placing", "materialising", "starting", "ready", "closed"]
KernelState = Literal["starting", "idle", "executing", "dead"]
ClosingCause = Literal["idle", "lifetime", "lease", "budget"]
Link = Literal["connecting", "connected", "unreachable"]


class NodeView(TypedDict):
    id: str
    hostname: str
    platform: str
    cpu_count: int
    memory_bytes: int | None
    driver_version: str | None


class OfferView(TypedDict):
    type: str
    memory_bytes: int | None
    total: int
    free: int
    queued: int
    simulated: bool
    shared: bool
    """Any number can have it; `total` and `free` mean nothing."""
    node_hostname: str | None
    price_per_hour: float | None
    """Of one accelerator, in `currency`."""
    currency: str | None
    """ISO 4217."""


class AcceleratorView(TypedDict):
    id: str
    index: int
    type: str
    product_name: str
    memory_bytes: int | None
    simulated: bool
    shared: bool
    session_id: str | None
    mig_parent_id: str | None
    """The UUID of the GPU that a MIG slice is of."""


class ExecutionView(TypedDict):
    execution_count: int | None
    request_id: str
    """`msg_id` of the execute_request that the notebook's front end sent."""
    started_unix_s: float
    ended_unix_s: float | None
    """None while it runs."""
    succeeded: bool | None
    """None while it runs, and where its kernel ended first."""
    accelerators: str
    """In words, such as "H100 ×8"."""
    simulated: bool
    mean_utilisation_percent: float | None
    peak_memory_bytes: int | None
    cost: float | None
    currency: str | None


class KernelExitView(TypedDict):
    exit_code: int | None
    signal: int | None
    asked_for: bool
    ended_because: str | None
    """Of a limit that it exceeded: "at its memory limit of 64 GB"."""


class EnvironmentView(TypedDict):
    own: bool
    """Built from the notebook's snapshot; else the agent's or the notebook's interpreter."""
    package_count: int | None
    done: int | None
    """While it is built: packages that are on the node."""
    total: int | None
    current: str | None
    """While it is built: what is being fetched or built, in words."""


class PackageChangeView(TypedDict):
    name: str
    before: str | None
    """Version that the session has; None: none."""
    now: str | None
    """Version that the notebook has; None: none."""


class DifferenceView(TypedDict):
    """How the notebook's environment differs from what the session was given; nothing: it is in sync."""

    package_count: int
    packages: list[PackageChangeView]
    """The first of them, by name."""
    file_count: int
    files: list[str]
    """The first of them, by path."""
    variables: list[str]
    """Names of environment variables that the session is yet to get."""


class SharedVariableView(TypedDict):
    name: str
    size_bytes: int | None


class SharedVariablesView(TypedDict):
    """What the session has of the notebook's variables."""

    sent_count: int
    sent: list[SharedVariableView]
    """The largest of them."""
    sent_bytes: int
    """Of all of them."""
    handle_count: int
    handles: list[SharedVariableView]
    """The largest of them."""


class SessionView(TypedDict):
    id: str
    notebook_id: str | None
    """The notebook's Jupyter kernel id."""
    notebook_name: str | None
    notebook_key: str | None
    """By what the notebook is known again when it has another kernel."""
    notebook_connected: bool
    """Its notebook's kernel, or another program that uses it, is connected to it."""
    spec_text: str
    phase: Phase | None
    queue_position: int | None
    """1 is next; while it is queued."""
    queue_length: int | None
    detail: str
    """What is happening, in words; may be empty."""
    kernel_state: KernelState | None
    kernel_exit: KernelExitView | None
    kernel_generation: int
    accelerators: list[AcceleratorView]
    """Empty while the session holds none."""
    node_hostname: str | None
    environment: EnvironmentView | None
    difference: DifferenceView | None
    """None: the notebook has not said."""
    variables: SharedVariablesView | None
    """None: the notebook has not said."""
    executing: ExecutionView | None
    executions: int
    """Cells run so far."""
    last_executions: list[ExecutionView]
    """That have ended, newest last, at most 20."""
    accelerator_seconds: float
    """Leased until `sent_unix_s`: seconds times accelerators that are not shared."""
    cost: float | None
    """Of these, in `currency`."""
    cost_per_hour: float | None
    currency: str | None
    created_unix_s: float
    last_active_unix_s: float
    attached_unix_s: float | None
    """When its notebook began to use it; of several, a notebook uses the one with the latest."""
    expires_unix_s: float | None
    """When its lease ends, and it is closed, unless it is renewed."""
    idle_close_s: float | None
    """After which time without work it is closed."""
    idle_since_unix_s: float | None
    """None: it works, or is not ready."""
    closes_unix_s: float | None
    """When it is closed by itself, if nothing changes."""
    closing_warn_unix_s: float | None
    """From when on its user is to be warned of that."""
    closing_cause: ClosingCause | None
    python_version: str | None


class ProblemView(TypedDict):
    message: str
    """One sentence without a full stop."""
    hint: str | None
    """What a person can do; commands are in backticks."""


class RequestView(TypedDict):
    """A request for a session that a page made; one that failed is kept for a while."""

    request_id: str
    notebook_id: str | None
    notebook_name: str | None
    spec_text: str
    phase: Phase | None
    """None while a pool is being looked for, and when it has failed."""
    detail: str
    queue_position: int | None
    queue_length: int | None
    session_id: str | None
    """The session that comes of it, which is in the pool's list, once it is known."""
    problem: ProblemView | None
    """Why it failed."""


class StateView(TypedDict):
    """What a pool says of itself."""

    node: NodeView | None
    offers: list[OfferView]
    accelerators: list[AcceleratorView]
    sessions: list[SessionView]


class PoolView(StateView):
    name: str
    address: str
    """For display."""
    embedded: bool
    """This machine's own agent."""
    removable: bool
    """The person added it; else the environment or this machine has it."""
    link: Link
    """How the Jupyter server stands with the pool."""
    progress: str | None
    """While connecting: what is happening, in words."""
    problem: ProblemView | None
    """While unreachable: why."""
    latency_ms: float | None
    """Of a call and its answer."""
    requests: list[RequestView]


class PageState(TypedDict):
    """Everything that a page shows. Sent whole after every change, and now and then without one."""

    kind: Literal["state"]
    sent_unix_s: float
    """By the clock of the Jupyter server, so that a page whose clock is wrong still counts right."""
    pools: list[PoolView]
    problem: ProblemView | None
    """Why pools that the person added are not among them."""


class XidView(TypedDict):
    code: int
    time_unix_s: float
    meaning: str
    """In words; empty for a code that there are none for."""


class ProcessView(TypedDict):
    pid: int
    session_id: str | None
    memory_bytes: int | None
    name: str | None
    other_user: bool
    """Of another user's session: only the memory is known."""


class SampleView(TypedDict):
    accelerator_id: str
    time_unix_s: float
    """By the clock of the node."""
    simulated: bool
    utilisation_percent: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    power_watts: float | None
    power_limit_watts: float | None
    temperature_celsius: float | None
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    pcie_tx_bytes_per_s: float | None
    pcie_rx_bytes_per_s: float | None
    nvlink_tx_bytes_per_s: float | None
    nvlink_rx_bytes_per_s: float | None
    throttle_reasons: list[str]
    ecc_errors_corrected: int | None
    ecc_errors_uncorrected: int | None
    xid: XidView | None
    session_id: str | None
    processes: list[ProcessView]


class SamplesMessage(TypedDict):
    kind: Literal["samples"]
    pool: str
    samples: list[SampleView]
    """Of one or more readings, oldest first."""


class PoolTestView(TypedDict):
    """What came of trying to reach a pool."""

    ok: bool
    message: str
    hint: str | None
    latency_ms: float | None
    node: NodeView | None


EMPTY_STATE: StateView = {"node": None, "offers": [], "accelerators": [], "sessions": []}


class OutputView(TypedDict):
    """A message of the Jupyter protocol, as an output area takes it."""

    msg_type: str
    """Such as "stream", "display_data", "update_display_data", "clear_output", "execute_result", "error"."""
    content: dict[str, Any]


class ReplayMessage(TypedDict):
    """A piece of what one cell's last execution put out, in order, from its beginning on."""

    kind: Literal["outputs"]
    cell_id: str
    request_id: str
    """`msg_id` of the execute_request that the notebook's front end sent."""
    execution_count: int | None
    outputs: list[OutputView]
    dropped: int
    """How many messages of its session from its time the agent does not hold any more."""
    caught_up: bool
    """What comes after this is new."""
    over: bool
    """Nothing comes after this."""
