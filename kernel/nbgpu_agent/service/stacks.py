"""Puts stacks, and what the accelerators do meanwhile, into messages."""

from __future__ import annotations

from collections.abc import Iterable

from nbgpu_agent.journal import CellTimedOut
from nbgpu_agent.model import Lease, Sample
from nbgpu_agent.service.conversions import sample_message
from nbgpu_agent.stacks import ProcessStacks, Stacks
from nbgpu_protocol.v1 import session_pb2


def stacks_message(stacks: Stacks, samples: Iterable[Sample]) -> session_pb2.StacksResponse:
    return session_pb2.StacksResponse(
        text=stacks.processes[0].dump,
        processes=[process_stacks_message(each) for each in stacks.processes],
        cells=stacks.cells,
        samples=[sample_message(each) for each in samples],
    )


def cell_timed_out_message(event: CellTimedOut) -> session_pb2.CellTimedOut:
    return session_pb2.CellTimedOut(
        request_id=event.request_id,
        timeout_s=event.timeout_s,
        processes=[process_stacks_message(each) for each in event.stacks.processes],
        cells=event.stacks.cells,
    )


def process_stacks_message(process: ProcessStacks) -> session_pb2.ProcessStacks:
    return session_pb2.ProcessStacks(
        pid=process.pid,
        dump=process.dump,
        rank=process.rank,
        world_size=process.world_size,
        group_id=process.group_id,
    )


def held_samples(lease: Lease | None, samples: Iterable[Sample]) -> list[Sample]:
    """Returns the samples of a lease's accelerators, in the lease's order."""
    newest = {each.accelerator_id: each for each in samples}
    held = lease.accelerators if lease is not None else ()
    return [newest[each.id] for each in held if each.id in newest]
