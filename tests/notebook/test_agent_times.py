"""Times that an agent tells, by a clock that is hours away from this machine's."""

from __future__ import annotations

import pytest

from nbgpu import words
from nbgpu.client.agent_times import to_own_clock
from nbgpu_protocol.v1 import pool_pb2

AGENT_S = 1_795_000_000.0


def state() -> pool_pb2.PoolState:
    session = pool_pb2.SessionInfo(
        phase=pool_pb2.READY,
        kernel_state=pool_pb2.KERNEL_EXECUTING,
        executing=pool_pb2.Execution(started_unix_s=AGENT_S - 90),
        closing=pool_pb2.Closing(closes_unix_s=AGENT_S + 1200, cause=pool_pb2.Closing.IDLE),
        lease=pool_pb2.Lease(granted_unix_s=AGENT_S - 100),
        last_executions=[pool_pb2.Execution(started_unix_s=AGENT_S - 200, ended_unix_s=AGENT_S - 150)],
    )
    return pool_pb2.PoolState(time_unix_s=AGENT_S, sessions=[session])


@pytest.mark.parametrize("ahead_s", [360_000.0, -360_000.0])
def test_spans_are_right_whatever_either_clock_is_set_to(ahead_s: float) -> None:
    told, own_s = state(), AGENT_S - ahead_s
    to_own_clock(told, told.time_unix_s, lambda: own_s)
    (session,) = told.sessions
    assert words.state_in_words(session, own_s) == "running a cell for 1:30"
    assert words.closing_in_words(session.closing, own_s) == "closes in 20 min, unless it is used"
    (ended,) = session.last_executions
    assert (ended.started_unix_s, ended.ended_unix_s) == (own_s - 200, own_s - 150)
    assert told.time_unix_s == AGENT_S, "what the agent's clock shows is told as it is"
    assert session.lease.expires_unix_s == 0, "no time stays none"


@pytest.mark.parametrize(("agent_s", "own_s"), [(AGENT_S, AGENT_S + 1.5), (0.0, AGENT_S + 360_000)])
def test_clocks_that_agree_and_agents_that_do_not_say_change_nothing(agent_s: float, own_s: float) -> None:
    told = state()
    to_own_clock(told, agent_s, lambda: own_s)
    assert told == state()
