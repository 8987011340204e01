"""What a page receives, as JSON. `js/src/state.ts` mirrors these types; None is unknown, or not there."""

from __future__ import annotations

from typing import Literal, TypedDict

Phase = Literal["queued", "placing", "materialising", "starting", "ready", "closed"]
KernelState = Literal["starting", "idle", "executing", "dead"]


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


class AcceleratorView(TypedDict):
    id: str
    index: int
    type: str
    product_name: str
    memory_bytes: int | None
    simulated: bool
    shared: bool
    session_id: str | None


class ExecutionView(TypedDict):
    execution_count: int | None
    started_unix_s: float


class KernelExitView(TypedDict):
    exit_code: int | None
    signal: int | None
    asked_for: bool


class SessionView(TypedDict):
    id: str
    notebook_id: str | None
    """The notebook's Jupyter kernel id."""
    notebook_name: str | None
    spec_text: str
    phase: Phase | None
    kernel_state: KernelState | None
    kernel_exit: KernelExitView | None
    accelerators: list[AcceleratorView]
    """Empty while the session holds none."""
    node_hostname: str | None
    executing: ExecutionView | None
    created_unix_s: float
    last_active_unix_s: float


class PoolView(TypedDict):
    node: NodeView | None
    offers: list[OfferView]
    accelerators: list[AcceleratorView]
    sessions: list[SessionView]


class ProblemView(TypedDict):
    message: str
    """One sentence without a full stop."""
    hint: str | None
    """What a person can do; commands are in backticks."""


class PageState(TypedDict):
    """Everything that a page shows. Sent whole after every change, and now and then without one."""

    link: Literal["connecting", "connected", "unreachable"]
    """How the Jupyter server stands with the pool."""
    progress: str | None
    """While connecting: what is happening, in words."""
    problem: ProblemView | None
    """While unreachable: why."""
    pool: PoolView | None
    """While connected."""
    sent_unix_s: float
    """By the clock of the Jupyter server, so that a page whose clock is wrong still counts right."""
