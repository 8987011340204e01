"""From the protocol's messages to what a page receives."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from nbgpu.server.views import (
    AcceleratorView,
    ClosingCause,
    DifferenceView,
    EnvironmentView,
    ExecutionView,
    KernelExitView,
    KernelState,
    NodeView,
    OfferView,
    PackageChangeView,
    Phase,
    ProcessView,
    SampleView,
    SessionView,
    SharedVariablesView,
    SharedVariableView,
    StateView,
    XidView,
)
from nbgpu_protocol.v1 import pool_pb2

T = TypeVar("T")

PHASES: dict[int, Phase] = {
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
_CLOSING_CAUSES: dict[int, ClosingCause] = {
    pool_pb2.Closing.IDLE: "idle",
    pool_pb2.Closing.LIFETIME: "lifetime",
    pool_pb2.Closing.LEASE: "lease",
    pool_pb2.Closing.BUDGET: "budget",
}


def state_view(state: pool_pb2.PoolState) -> StateView:
    """Converts a whole state. A value of a newer protocol that this version does not know becomes None."""
    return StateView(
        node=node_view(state.node) if state.HasField("node") else None,
        offers=[_offer_view(offer) for offer in state.offers],
        accelerators=[_accelerator_view(accelerator) for accelerator in state.accelerators],
        sessions=[_session_view(session) for session in state.sessions],
    )


def samples_text(samples: Iterable[pool_pb2.Sample]) -> str:
    """Returns the samples as JSON: the inside of a list."""
    return json.dumps([sample_view(sample) for sample in samples], separators=(",", ":"))[1:-1]


def sample_view(sample: pool_pb2.Sample) -> SampleView:
    known = {field.name: value for field, value in sample.ListFields()}
    return SampleView(
        accelerator_id=sample.accelerator_id,
        time_unix_s=sample.time_unix_s,
        simulated=sample.simulated,
        utilisation_percent=known.get("utilisation_percent"),
        memory_used_bytes=known.get("memory_used_bytes"),
        memory_total_bytes=known.get("memory_total_bytes"),
        power_watts=known.get("power_watts"),
        power_limit_watts=known.get("power_limit_watts"),
        temperature_celsius=known.get("temperature_celsius"),
        sm_clock_mhz=known.get("sm_clock_mhz"),
        memory_clock_mhz=known.get("memory_clock_mhz"),
        pcie_tx_bytes_per_s=known.get("pcie_tx_bytes_per_s"),
        pcie_rx_bytes_per_s=known.get("pcie_rx_bytes_per_s"),
        nvlink_tx_bytes_per_s=known.get("nvlink_tx_bytes_per_s"),
        nvlink_rx_bytes_per_s=known.get("nvlink_rx_bytes_per_s"),
        throttle_reasons=list(sample.throttle_reasons),
        ecc_errors_corrected=known.get("ecc_errors_corrected"),
        ecc_errors_uncorrected=known.get("ecc_errors_uncorrected"),
        xid=_xid_view(sample.xid) if "xid" in known else None,
        session_id=sample.session_id or None,
        processes=[_process_view(process) for process in sample.processes],
    )


def node_view(node: pool_pb2.Node) -> NodeView:
    return NodeView(
        id=node.id,
        hostname=node.hostname,
        platform=node.platform,
        cpu_count=node.cpu_count,
        memory_bytes=node.memory_bytes or None,
        driver_version=node.driver_version or None,
    )


def _known(message: Message, name: str, value: T) -> T | None:
    return value if message.HasField(name) else None


def _xid_view(xid: pool_pb2.Xid) -> XidView:
    return XidView(code=xid.code, time_unix_s=xid.time_unix_s, meaning=xid.meaning)


def _process_view(process: pool_pb2.AcceleratorProcess) -> ProcessView:
    return ProcessView(
        pid=process.pid,
        session_id=process.session_id or None,
        memory_bytes=_known(process, "memory_bytes", process.memory_bytes),
        name=process.name or None,
        other_user=process.other_user,
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
        price_per_hour=_known(offer, "price_per_hour", offer.price_per_hour),
        currency=offer.currency or None,
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
        mig_parent_id=accelerator.parent_id or None,
    )


def _session_view(session: pool_pb2.SessionInfo) -> SessionView:
    return SessionView(
        id=session.id,
        notebook_id=session.notebook_id or None,
        notebook_name=session.notebook_name or None,
        notebook_key=session.notebook_key or None,
        notebook_connected=session.notebook_connected,
        spec_text=session.spec_text,
        phase=PHASES.get(session.phase),
        queue_position=session.queue_position or None,
        queue_length=session.queue_length or None,
        detail=session.detail,
        kernel_state=_KERNEL_STATES.get(session.kernel_state),
        kernel_exit=_kernel_exit_view(session.kernel_exit) if session.HasField("kernel_exit") else None,
        kernel_generation=session.kernel_generation,
        accelerators=[_accelerator_view(accelerator) for accelerator in session.accelerators],
        node_hostname=session.node.hostname or None,
        environment=_environment_view(session.environment) if session.HasField("environment") else None,
        difference=_difference_view(session.notebook.difference) if session.notebook.HasField("difference") else None,
        variables=_variables_view(session.notebook.variables) if session.notebook.HasField("variables") else None,
        executing=_execution_view(session.executing) if session.HasField("executing") else None,
        executions=session.executions,
        last_executions=[_execution_view(execution) for execution in session.last_executions],
        accelerator_seconds=session.accelerator_seconds,
        cost=_known(session, "cost", session.cost),
        cost_per_hour=_known(session, "cost_per_hour", session.cost_per_hour),
        currency=session.currency or None,
        created_unix_s=session.created_unix_s,
        last_active_unix_s=session.last_active_unix_s,
        attached_unix_s=session.attached_unix_s or None,
        expires_unix_s=session.lease.expires_unix_s or None,
        idle_close_s=_known(session.closing, "idle_close_s", session.closing.idle_close_s),
        idle_since_unix_s=_known(session.closing, "idle_since_unix_s", session.closing.idle_since_unix_s),
        closes_unix_s=_known(session.closing, "closes_unix_s", session.closing.closes_unix_s),
        closing_warn_unix_s=_known(session.closing, "warn_unix_s", session.closing.warn_unix_s),
        closing_cause=_CLOSING_CAUSES.get(session.closing.cause),
        python_version=session.python_version or None,
    )


def _environment_view(facts: pool_pb2.EnvironmentFacts) -> EnvironmentView:
    return EnvironmentView(
        own=facts.own,
        package_count=_known(facts, "package_count", facts.package_count),
        done=_known(facts, "done", facts.done),
        total=_known(facts, "total", facts.total),
        current=facts.current or None,
    )


def _difference_view(difference: pool_pb2.EnvironmentDifference) -> DifferenceView:
    return DifferenceView(
        package_count=difference.package_count,
        packages=[
            PackageChangeView(name=each.name, before=each.before or None, now=each.now or None)
            for each in difference.packages
        ],
        file_count=difference.file_count,
        files=list(difference.files),
        variables=list(difference.variables),
    )


def _variables_view(variables: pool_pb2.SharedVariables) -> SharedVariablesView:
    return SharedVariablesView(
        sent_count=variables.sent_count,
        sent=[_variable_view(each) for each in variables.sent],
        sent_bytes=variables.sent_bytes,
        handle_count=variables.handle_count,
        handles=[_variable_view(each) for each in variables.handles],
    )


def _variable_view(variable: pool_pb2.SharedVariable) -> SharedVariableView:
    return SharedVariableView(name=variable.name, size_bytes=_known(variable, "size_bytes", variable.size_bytes))


def _execution_view(execution: pool_pb2.Execution) -> ExecutionView:
    return ExecutionView(
        execution_count=execution.execution_count or None,
        request_id=execution.message_id,
        started_unix_s=execution.started_unix_s,
        ended_unix_s=_known(execution, "ended_unix_s", execution.ended_unix_s),
        succeeded=_known(execution, "succeeded", execution.succeeded),
        accelerators=_types_in_words(execution.accelerator_types),
        simulated=execution.simulated,
        mean_utilisation_percent=_known(execution, "mean_utilisation_percent", execution.mean_utilisation_percent),
        peak_memory_bytes=_known(execution, "peak_memory_bytes", execution.peak_memory_bytes),
        cost=_known(execution, "cost", execution.cost),
        currency=execution.currency or None,
    )


def _types_in_words(types: Iterable[str]) -> str:
    counts: dict[str, int] = {}
    for each in types:
        counts[each] = counts.get(each, 0) + 1
    return ", ".join(name if count == 1 else f"{name} ×{count}" for name, count in counts.items())


def _kernel_exit_view(kernel_exit: pool_pb2.KernelExit) -> KernelExitView:
    return KernelExitView(
        exit_code=kernel_exit.exit_code if kernel_exit.HasField("exit_code") else None,
        signal=kernel_exit.signal if kernel_exit.HasField("signal") else None,
        asked_for=kernel_exit.asked_for,
        ended_because=kernel_exit.ended_because or None,
    )
