"""`nbgpu output`: what a session's cells printed, for a terminal or a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from nbgpu.client.executions import list_executions
from nbgpu.client.pool import Pool
from nbgpu.missed import executions_table, find, missed, name_in_words, outcome_in_words
from nbgpu.missed_reading import read_output
from nbgpu.replay import Output

COMMAND = "nbgpu output SESSION"


async def print_executions(pool: Pool, session_id: str) -> None:
    """Prints what a session has run, a line each.

    Raises:
        NoSuchSessionError: It is closed.
        AgentUnreachableError: The agent does not answer.
    """
    executions = (await list_executions(pool, session_id)).executions
    print(executions_table(executions, missed(executions, "", lambda request_id: False), time.time()))


async def print_output(pool: Pool, session_id: str, given: Sequence[str]) -> None:
    """Prints the output of a cell, each stream to its own; what the cell is, and how it ended, to standard error.

    Args:
        pool: Whose agent has the session.
        session_id: The session.
        given: The number of the cell or the beginning of its id; empty: the newest.

    Raises:
        CommandError: There is no such cell.
        NoSuchSessionError: The session is closed.
        AgentUnreachableError: The agent does not answer, again and again.
    """
    execution = find((await list_executions(pool, session_id)).executions, given, COMMAND)
    replay, area = await read_output(pool, session_id, execution)
    outcome = outcome_in_words(execution, time.time(), replay)
    print(f"{name_in_words(execution, replay.code)} {outcome}", file=sys.stderr, flush=True)
    if replay.is_cut:
        print("its first output is no longer held by the agent", file=sys.stderr, flush=True)
    for each in area.outputs():
        _print(each)


def _print(output: Output) -> None:
    if output.kind == "stream":
        stream = sys.stderr if output.content["name"] == "stderr" else sys.stdout
        stream.write(output.content["text"])
        stream.flush()
        return
    data = output.content["data"]
    print(data.get("text/plain") or f"<{', '.join(data)}>")
