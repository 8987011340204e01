"""Converts between the agent's values and protobuf messages; nothing else in the agent's core knows both."""

from __future__ import annotations

from collections.abc import Iterable

from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.model import (
    Accelerator,
    AcceleratorProcess,
    Alternative,
    Closing,
    ClosingCause,
    EnvironmentFacts,
    Execution,
    ExecutionState,
    KernelExit,
    KernelState,
    Lease,
    Node,
    Offer,
    OthersProcess,
    OthersSample,
    Phase,
    Sample,
    SessionInfo,
    SessionRequest,
    SessionUpdate,
    Spec,
    Xid,
)
from nbgpu_agent.prices import PriceList
from nbgpu_agent.service.notebook_facts import notebook_facts_message
from nbgpu_protocol.accelerator_types import CPU, canonical_type
from nbgpu_protocol.v1 import pool_pb2

MAX_ALTERNATIVES = 16
MAX_COUNT = 1024
MAX_TEXT_CHARACTERS = 1024

_PHASES = {
    Phase.QUEUED: pool_pb2.QUEUED,
    Phase.PLACING: pool_pb2.PLACING,
    Phase.MATERIALISING: pool_pb2.MATERIALISING,
    Phase.STARTING: pool_pb2.STARTING,
    Phase.READY: pool_pb2.READY,
    Phase.CLOSED: pool_pb2.CLOSED,
}
_KERNEL_STATES = {
    KernelState.STARTING: pool_pb2.KERNEL_STARTING,
    KernelState.IDLE: pool_pb2.KERNEL_IDLE,
    KernelState.EXECUTING: pool_pb2.KERNEL_EXECUTING,
    KernelState.DEAD: pool_pb2.KERNEL_DEAD,
}
_CLOSING_CAUSES = {
    ClosingCause.IDLE: pool_pb2.Closing.IDLE,
    ClosingCause.LIFETIME: pool_pb2.Closing.LIFETIME,
    ClosingCause.LEASE: pool_pb2.Closing.LEASE,
    ClosingCause.BUDGET: pool_pb2.Closing.BUDGET,
}
_EXECUTION_STATES = {
    ExecutionState.WAITING: pool_pb2.EXECUTION_WAITING,
    ExecutionState.RUNNING: pool_pb2.EXECUTION_RUNNING,
    ExecutionState.SUCCEEDED: pool_pb2.EXECUTION_SUCCEEDED,
    ExecutionState.FAILED: pool_pb2.EXECUTION_FAILED,
    ExecutionState.LOST: pool_pb2.EXECUTION_LOST,
}


def node_message(node: Node) -> pool_pb2.Node:
    return pool_pb2.Node(
        id=node.id,
        hostname=node.hostname,
        platform=node.platform,
        cpu_count=node.cpu_count,
        memory_bytes=node.memory_bytes,
        driver_version=node.driver_version or "",
    )


def accelerator_message(
    accelerator: Accelerator, node: Node, session_id: str | None, *, other_user: bool = False
) -> pool_pb2.Accelerator:
    """Returns the message.

    Args:
        accelerator: What to tell of.
        node: The node that it is in.
        session_id: The session that holds it; None where it is free, shared, or another user's.
        other_user: Whether a session of another user than who is told of it holds it.
    """
    return pool_pb2.Accelerator(
        id=accelerator.id,
        index=accelerator.index,
        type=accelerator.type,
        product_name=accelerator.product_name,
        memory_bytes=accelerator.memory_bytes,
        simulated=accelerator.simulated,
        shared=accelerator.shared,
        node_id=node.id,
        session_id=session_id or "",
        parent_id=accelerator.parent_id,
        other_user=other_user,
    )


def offer_message(offer: Offer, node: Node, prices: PriceList) -> pool_pb2.Offer:
    price = prices.per_hour.get(offer.type)
    return pool_pb2.Offer(
        type=offer.type,
        memory_bytes=offer.memory_bytes,
        total=offer.total,
        free=offer.free,
        queued=offer.queued,
        simulated=offer.simulated,
        shared=offer.shared,
        node_hostname=node.hostname,
        price_per_hour=price,
        currency="" if price is None else prices.currency,
    )


def lease_message(lease: Lease) -> pool_pb2.Lease:
    return pool_pb2.Lease(
        id=lease.id,
        accelerator_ids=[accelerator.id for accelerator in lease.accelerators],
        granted_unix_s=lease.granted_unix_s,
        expires_unix_s=lease.expires_unix_s or 0,
    )


def execution_message(execution: Execution, prices: PriceList, *, attended: bool = False) -> pool_pb2.Execution:
    cost = None
    if execution.ended_unix_s is not None:
        cost = prices.cost(execution.accelerators, execution.ended_unix_s - execution.started_unix_s)
    message = pool_pb2.Execution(
        request_id=execution.request_id,
        execution_count=max(execution.execution_count or 0, 0),
        started_unix_s=execution.started_unix_s,
        message_id=execution.message_id,
        ended_unix_s=execution.ended_unix_s,
        accelerator_types=[each.type for each in execution.accelerators],
        simulated=any(each.simulated for each in execution.accelerators),
        mean_utilisation_percent=execution.mean_utilisation_percent,
        peak_memory_bytes=execution.peak_memory_bytes,
        state=_EXECUTION_STATES[execution.state],
        cell_id=execution.cell_id,
        code_digest=execution.code_digest,
        source_digest=execution.source_digest,
        saved=execution.saved,
        first_number=execution.first_number,
        last_number=execution.last_number,
        shown=execution.shown,
        attended=attended,
        notebook_id=execution.notebook_id,
        kernel_generation=execution.kernel_generation,
        cost=cost,
        currency="" if cost is None else prices.currency,
    )
    if execution.succeeded is not None:
        message.succeeded = execution.succeeded
    return message


def environment_facts_message(facts: EnvironmentFacts) -> pool_pb2.EnvironmentFacts:
    return pool_pb2.EnvironmentFacts(
        own=facts.own, package_count=facts.package_count, done=facts.done, total=facts.total, current=facts.current
    )


def kernel_exit_message(kernel_exit: KernelExit) -> pool_pb2.KernelExit:
    return pool_pb2.KernelExit(
        exit_code=kernel_exit.exit_code,
        signal=kernel_exit.signal,
        stderr_tail=kernel_exit.stderr_tail,
        asked_for=kernel_exit.asked_for,
        ended_because=kernel_exit.ended_because,
    )


def closing_message(closing: Closing) -> pool_pb2.Closing:
    return pool_pb2.Closing(
        idle_close_s=closing.idle_close_s,
        idle_since_unix_s=closing.idle_since_unix_s,
        closes_unix_s=closing.closes_unix_s,
        warn_unix_s=closing.warn_unix_s,
        cause=_CLOSING_CAUSES[closing.cause] if closing.cause else pool_pb2.Closing.CAUSE_UNSPECIFIED,
    )


def session_info_message(info: SessionInfo, node: Node, prices: PriceList) -> pool_pb2.SessionInfo:
    request = info.request
    accelerators = info.lease.accelerators if info.lease else ()
    cost_per_hour = prices.cost_per_hour(accelerators)
    held = sum(not each.shared for each in accelerators)
    return pool_pb2.SessionInfo(
        id=info.id,
        notebook_id=request.notebook_id,
        notebook_name=request.notebook_name,
        notebook_key=request.notebook_key,
        notebook_connected=info.notebook_connected,
        spec_text=request.spec.text if request.spec else "",
        phase=_PHASES[info.phase],
        lease=lease_message(info.lease) if info.lease else None,
        accelerators=[accelerator_message(each, node, None if each.shared else info.id) for each in accelerators],
        node=node_message(node),
        kernel_state=_KERNEL_STATES[info.kernel_state],
        kernel_generation=info.kernel_generation,
        created_unix_s=info.created_unix_s,
        last_active_unix_s=info.last_active_unix_s,
        executing=execution_message(info.executing, prices) if info.executing else None,
        executions=info.executions,
        kernel_exit=kernel_exit_message(info.kernel_exit) if info.kernel_exit else None,
        python_version=info.python_version,
        working_folder=info.working_folder,
        queue_position=info.queue_position,
        queue_length=info.queue_length,
        detail=info.detail,
        environment=environment_facts_message(info.environment),
        accelerator_seconds=info.accelerator_seconds,
        cost=prices.cost(accelerators, info.accelerator_seconds / held) if held else None,
        cost_per_hour=cost_per_hour,
        currency="" if cost_per_hour is None else prices.currency,
        last_executions=[execution_message(each, prices) for each in info.last_executions],
        journal_problem=info.journal_problem,
        attached_unix_s=info.attached_unix_s,
        closing=closing_message(info.closing),
        owner=info.request.owner,
        notebook=notebook_facts_message(info.notebook) if info.notebook is not None else None,
    )


def session_update_message(update: SessionUpdate, node: Node, prices: PriceList) -> pool_pb2.SessionUpdate:
    return pool_pb2.SessionUpdate(
        phase=_PHASES[update.phase],
        queue_position=update.queue_position,
        queue_length=update.queue_length,
        detail=update.detail,
        session=session_info_message(update.session, node, prices) if update.session else None,
        existing=update.existing,
        notice=update.notice,
    )


def sample_message(sample: Sample) -> pool_pb2.Sample:
    return pool_pb2.Sample(
        accelerator_id=sample.accelerator_id,
        time_unix_s=sample.time_unix_s,
        simulated=sample.simulated,
        utilisation_percent=sample.utilisation_percent,
        memory_used_bytes=sample.memory_used_bytes,
        memory_total_bytes=sample.memory_total_bytes,
        power_watts=sample.power_watts,
        power_limit_watts=sample.power_limit_watts,
        temperature_celsius=sample.temperature_celsius,
        sm_clock_mhz=sample.sm_clock_mhz,
        memory_clock_mhz=sample.memory_clock_mhz,
        session_id=sample.session_id or "",
        pcie_tx_bytes_per_s=sample.pcie_tx_bytes_per_s,
        pcie_rx_bytes_per_s=sample.pcie_rx_bytes_per_s,
        nvlink_tx_bytes_per_s=sample.nvlink_tx_bytes_per_s,
        nvlink_rx_bytes_per_s=sample.nvlink_rx_bytes_per_s,
        throttle_reasons=sample.throttle_reasons,
        ecc_errors_corrected=sample.ecc_errors_corrected,
        ecc_errors_uncorrected=sample.ecc_errors_uncorrected,
        xid=_xid_message(sample.xid) if sample.xid is not None else None,
        processes=[_process_message(each) for each in sample.processes],
        other_user=isinstance(sample, OthersSample),
    )


def _xid_message(xid: Xid) -> pool_pb2.Xid:
    return pool_pb2.Xid(code=xid.code, time_unix_s=xid.time_unix_s, meaning=xid.meaning)


def _process_message(process: AcceleratorProcess) -> pool_pb2.AcceleratorProcess:
    return pool_pb2.AcceleratorProcess(
        pid=process.pid,
        session_id=process.session_id or "",
        memory_bytes=process.memory_bytes,
        name=process.name,
        other_user=isinstance(process, OthersProcess),
    )


def sample_batch_message(samples: Iterable[Sample]) -> pool_pb2.SampleBatch:
    return pool_pb2.SampleBatch(samples=[sample_message(sample) for sample in samples])


def spec_from_message(message: pool_pb2.Spec) -> Spec:
    """Returns the spec, its types made canonical.

    Raises:
        InvalidRequestError: No alternative, or a count out of range.
    """
    if not message.alternatives:
        raise InvalidRequestError("a spec has no alternatives", "ask for one, such as `H100x8`, `any` or `CPU`")
    if len(message.alternatives) > MAX_ALTERNATIVES:
        raise InvalidRequestError(f"a spec has {len(message.alternatives)} alternatives, {MAX_ALTERNATIVES} at most")
    return Spec(
        tuple(_alternative_from_message(alternative) for alternative in message.alternatives),
        checked_text("spec.text", message.text),
    )


def _alternative_from_message(message: pool_pb2.Alternative) -> Alternative:
    if not 1 <= message.count <= MAX_COUNT:
        raise InvalidRequestError(f"{message.count} accelerators asked; a count is from 1 to {MAX_COUNT}")
    accelerator_type = canonical_type(checked_text("type", message.type))[0] if message.type else ""
    if message.type and not accelerator_type:
        raise InvalidRequestError(f"{message.type!r} is no accelerator type")
    if accelerator_type == CPU and message.count != 1:
        raise InvalidRequestError(f"{message.count} CPU asked; CPU is always 1", "ask for `CPU`")
    return Alternative(accelerator_type, message.count, message.min_memory_bytes)


def session_request_from_message(message: pool_pb2.OpenSessionRequest) -> SessionRequest:
    """Returns what the session is asked to be; the paths are as they came, unchecked.

    Raises:
        InvalidRequestError: The spec is invalid, or a text too long.
    """
    return SessionRequest(
        spec=spec_from_message(message.spec) if message.HasField("spec") else None,
        notebook_id=checked_text("notebook_id", message.notebook_id),
        notebook_name=checked_text("notebook_name", message.notebook_name),
        python=checked_text("python", message.python, limit=4096),
        working_folder=checked_text("working_folder", message.working_folder, limit=4096),
        snapshot_digest=checked_text("snapshot_digest", message.snapshot_digest),
        idle_close_s=message.idle_close_s if message.HasField("idle_close_s") else None,
        notebook_key=checked_text("notebook_key", message.notebook_key),
    )


def checked_text(field: str, text: str, *, limit: int = MAX_TEXT_CHARACTERS) -> str:
    """Returns a text that a client sent.

    Raises:
        InvalidRequestError: It is too long, or has a NUL.
    """
    if len(text) > limit:
        raise InvalidRequestError(f"{field} has {len(text)} characters, {limit} at most")
    if "\0" in text:
        raise InvalidRequestError(f"{field} has a NUL character")
    return text
