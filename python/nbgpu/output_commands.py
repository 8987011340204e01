"""`%gpu attach` and `%gpu output`: what a session's cells printed while this notebook's kernel was not there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from nbgpu.client.background import background
from nbgpu.client.executions import CAPABILITY, list_executions, patiently
from nbgpu.following import Following
from nbgpu.missed import (
    LISTED,
    UNENDED,
    bound_in_words,
    brief,
    executions_table,
    find,
    left_out_in_words,
    missed,
    name_in_words,
    outcome_in_words,
    status_in_words,
)
from nbgpu.missed_reading import read_beginning, read_output
from nbgpu.notebook import notebook_id
from nbgpu.output_area import Excerpt
from nbgpu.replay import Replay
from nbgpu.session_client import SessionClient
from nbgpu.stage import Stage
from nbgpu_protocol.v1 import pool_pb2

LIST_OPTION = "--list"
FOLLOW_OPTION = "--no-follow"
COMMAND = "%gpu output"
MOST_SHOWN = 20
"""Cells whose output `%gpu attach` shows, the newest."""


class FollowingStoppedError(KeyboardInterrupt):
    """Raised where a person stops to follow a cell, which goes on. Shown without frames."""

    def _render_traceback_(self) -> list[str]:
        return [f"\x1b[31mKeyboardInterrupt\x1b[0m: {self}"]


class OutputCommands:
    """The commands.

    Args:
        chosen: Returns the session that the notebook uses.
    """

    def __init__(self, chosen: Callable[[], SessionClient]) -> None:
        self._chosen = chosen
        self.commands: dict[str, Callable[[str], None]] = {"output": self._output}

    def _output(self, line: str) -> None:
        given = line.split()
        client = self._chosen()
        executions = background().run(list_executions(client.pool, client.id)).executions
        if given == [LIST_OPTION]:
            print(executions_table(executions, missed(executions, notebook_id(), client.has), time.time()))
            return
        execution = find(executions, given, COMMAND)
        replay, area = background().run(read_output(client.pool, client.id, execution))
        stage = Stage()
        show(stage, execution, replay, Excerpt(area.outputs()))
        say_what_it_bound(stage, client, execution, replay)
        if execution.state not in UNENDED:
            client.note_shown(execution.request_id)


def show(stage: Stage, execution: pool_pb2.Execution, replay: Replay, excerpt: Excerpt) -> None:
    """Shows which execution it is, how it ended, and its output."""
    outcome = outcome_in_words(execution, time.time(), replay)
    stage.say(f"▸ {name_in_words(execution, replay.code)} {outcome}")
    if replay.is_cut:
        stage.say("… its first output is no longer held by the agent")
    left_out = left_out_in_words(excerpt, execution, COMMAND)
    if left_out:
        stage.say(left_out)
    for each in excerpt.outputs:
        stage.show(each)


def say_what_it_bound(stage: Stage, client: SessionClient, execution: pool_pb2.Execution, replay: Replay) -> None:
    bound = bound_in_words(replay, execution, client.info)
    if bound:
        stage.say(f"  {bound}")


def show_missed(client: SessionClient, *, follow: bool) -> None:
    """Shows the output of each execution that nobody was shown to its end; what still runs is followed to its end.

    Raises:
        FollowingStoppedError: The person did not want to wait.
        SessionClosedError: The session was closed meanwhile.
        AgentUnreachableError: The agent does not answer, again and again.
    """
    if CAPABILITY not in client.pool.capabilities:
        return
    listing = background().run(patiently(lambda: list_executions(client.pool, client.id)))
    found = missed(listing.executions, notebook_id(), client.has)
    earlier, found = found[:-MOST_SHOWN], found[-MOST_SHOWN:]
    if earlier:
        Stage().say(f"… {len(earlier)} cells before these are left out here; `{COMMAND} {LIST_OPTION}` lists them")
    for execution in earlier:
        client.note_shown(execution.request_id)
    for execution in found:
        replay, area = background().run(read_output(client.pool, client.id, execution, listing.last_number))
        stage = Stage()
        if execution.state not in UNENDED:
            show(stage, execution, replay, area.excerpt())
            say_what_it_bound(stage, client, execution, replay)
        elif not follow:
            show(stage, execution, replay, area.excerpt())
            continue
        else:
            try:
                show(stage, execution, replay, area.excerpt())
                follow_to_its_end(client, execution, replay, stage, listing.last_number)
            except KeyboardInterrupt:  # from when its first output can be seen
                if replay.is_over:
                    raise
                raise FollowingStoppedError(
                    f"no longer following {name_in_words(execution, replay.code)}, which goes on; `%gpu attach` follows"
                    " it again, `%gpu interrupt` stops it"
                ) from None
        client.note_shown(execution.request_id)


def follow_to_its_end(
    client: SessionClient, execution: pool_pb2.Execution, replay: Replay, stage: Stage, after_number: int
) -> None:
    """Shows what an execution prints from now on, until it is over."""
    following = Following(execution, replay)
    stage.let_clear()
    try:
        background().run(patiently(lambda: following.begin(client, after_number)))
        for output in following.outputs():
            stage.show(output)
    finally:
        background().run(following.close())
    ended = background().run(patiently(lambda: _again(client, execution)))
    stage.say(f"▸ {name_in_words(ended, replay.code)} {outcome_in_words(ended, time.time(), replay)}")
    say_what_it_bound(stage, client, ended, replay)


def tell_missed(client: SessionClient) -> None:
    """Says in a line each what the session executed that nobody was shown to its end."""
    told = background().run(_missed_with_codes(client))
    if not told:
        return
    lines = brief([each for each, _ in told], [code for _, code in told], time.time())
    ends = "`%gpu attach` shows their output"
    if any(each.state in UNENDED for each, _ in told):
        ends += "; this cell waits for what runs, which `%gpu interrupt` stops"
    text = "\n".join(["nbgpu: this notebook's session went on without it:", *lines, f"nbgpu: {ends}"])
    print(text, file=sys.stderr, flush=True)


async def missed_in_words(client: SessionClient) -> str:
    """Returns in one line what the session executed that nobody was shown to its end; empty if there is nothing."""
    return status_in_words(await _missed(client), time.time())


async def _missed(client: SessionClient) -> list[pool_pb2.Execution]:
    if CAPABILITY not in client.pool.capabilities:
        return []
    listing = await list_executions(client.pool, client.id)
    return missed(listing.executions, notebook_id(), client.has)


async def _missed_with_codes(client: SessionClient) -> list[tuple[pool_pb2.Execution, str]]:
    found = []
    executions = await _missed(client)
    for execution in executions:
        is_listed = execution in executions[-LISTED:]
        code = (await read_beginning(client.pool, client.id, execution)).code if is_listed else ""
        found.append((execution, code))
    return found


async def _again(client: SessionClient, execution: pool_pb2.Execution) -> pool_pb2.Execution:
    """Returns what is known of an execution now."""
    listing = await list_executions(client.pool, client.id)
    return next((each for each in listing.executions if each.request_id == execution.request_id), execution)
