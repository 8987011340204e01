"""From the protocol's messages to what a page receives. Nothing else in the server part knows protobuf."""

from __future__ import annotations

from nbgpu.server.views import (
    AcceleratorView,
    ExecutionView,
    KernelExitView,
    KernelState,
    NodeView,
    OfferView,
    Phase,
    PoolView,
    SessionView,
)
from nbgpu_protocol.v1 import pool_pb2

_PHASES: dict[int, Phase] = {
    pool_pb2.QUEUED: "queued",
    pool_pb2.PLACING: "placing",
    pool_pb2.MATERIALISING: "materialising",
    pool_pb2.STARTING: "starting",
    pool_pb2.READY: "ready",
    pool_pb2.CLOSED: "closed",
}
_KERNEL_STATES: dict[int, KernelState] = {
    pool_pb2.KERNEL_STARTING: "starting",
    pool_pb2.KERNEL_IDLE: "idle",
    pool_pb2.KERNEL_EXECUTING: "executing",
    pool_pb2.KERNEL_DEAD: "dead",
}


def pool_view(state: pool_pb2.PoolState) -> PoolView:
    """Converts a whole state. A value of a newer protocol that this version does not know becomes None."""
    return PoolView(
        node=_node_view(state.node) if state.HasField("node") else None,
        offers=[_offer_view(offer) for offer in state.offers],
        accelerators=[_accelerator_view(accelerator) for accelerator in state.accelerators],
        sessions=[_session_view(session) for session in state.sessions],
    )


def _node_view(node: pool_pb2.Node) -> NodeView:
    return NodeView(
        id=node.id,
        hostname=node.hostname,
        platform=node.platform,
        cpu_count=node.cpu_count,
        memory_bytes=node.memory_bytes or None,
        driver_version=node.driver_version or None,
    )


def _offer_view(offer: pool_pb2.Offer) -> OfferView:
    return OfferView(
        type=offer.type,
        memory_bytes=offer.memory_bytes or None,
        total=offer.total,
        free=offer.free,
        queued=offer.queued,
        simulated=offer.simulated,
        shared=offer.shared,
        node_hostname=offer.node_hostname or None,
    )


def _accelerator_view(accelerator: pool_pb2.Accelerator) -> AcceleratorView:
    return AcceleratorView(
        id=accelerator.id,
        index=accelerator.index,
        type=accelerator.type,
        product_name=accelerator.product_name,
        memory_bytes=accelerator.memory_bytes or None,
        simulated=accelerator.simulated,
        shared=accelerator.shared,
        session_id=accelerator.session_id or None,
    )


def _session_view(session: pool_pb2.SessionInfo) -> SessionView:
    return SessionView(
        id=session.id,
        notebook_id=session.notebook_id or None,
        notebook_name=session.notebook_name or None,
        spec_text=session.spec_text,
        phase=_PHASES.get(session.phase),
        kernel_state=_KERNEL_STATES.get(session.kernel_state),
        kernel_exit=_kernel_exit_view(session.kernel_exit) if session.HasField("kernel_exit") else None,
        accelerators=[_accelerator_view(accelerator) for accelerator in session.accelerators],
        node_hostname=session.node.hostname or None,
        executing=_execution_view(session.executing) if session.HasField("executing") else None,
        created_unix_s=session.created_unix_s,
        last_active_unix_s=session.last_active_unix_s,
    )


def _execution_view(execution: pool_pb2.Execution) -> ExecutionView:
    return ExecutionView(
        execution_count=execution.execution_count or None,
        started_unix_s=execution.started_unix_s,
    )


def _kernel_exit_view(kernel_exit: pool_pb2.KernelExit) -> KernelExitView:
    return KernelExitView(
        exit_code=kernel_exit.exit_code if kernel_exit.HasField("exit_code") else None,
        signal=kernel_exit.signal if kernel_exit.HasField("signal") else None,
        asked_for=kernel_exit.asked_for,
    )
