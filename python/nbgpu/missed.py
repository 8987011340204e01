"""Which executions of a session nobody was shown to their end, and how they are told of. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nbgpu import cell_timeout
from nbgpu.errors import CommandError
from nbgpu.output_area import Excerpt
from nbgpu.replay import Replay
from nbgpu.words import duration_in_words, exit_in_words, table
from nbgpu_protocol.v1 import pool_pb2

UNENDED = (pool_pb2.EXECUTION_WAITING, pool_pb2.EXECUTION_RUNNING)
ID_CHARACTERS = 8
_NUMBER_DIGITS = 6
LISTED = 10
"""Cells that are told of in a line each, the newest."""
_NAMED = 8
_FIRST_LINE_CHARACTERS = 60


def missed(
    executions: Iterable[pool_pb2.Execution], notebook_id: str, has: Callable[[str], bool]
) -> list[pool_pb2.Execution]:
    """Returns those that nobody was shown to their end, and that nobody but this notebook would be.

    Args:
        executions: Of a session.
        notebook_id: This notebook's; an execution that an earlier process of it asked for is nobody's now.
        has: Says whether this process itself waits for an execution, or has just shown it.
    """
    return [
        each
        for each in executions
        if not each.shown
        and not has(each.request_id)
        and not (each.attended and (not each.notebook_id or each.notebook_id != notebook_id))
    ]


def find(executions: Sequence[pool_pb2.Execution], given: Sequence[str], command: str) -> pool_pb2.Execution:
    """Returns the newest execution of a cell's number, or the one whose id begins so; of nothing, the newest of all.

    Args:
        executions: Of a session.
        given: What the person named; one word, or none.
        command: That was given it, for hints.

    Raises:
        CommandError: There is none, or there are too many words.
    """
    listing = f"`{command} --list` says what the session has run"
    if len(given) > 1 or any(each.startswith("-") for each in given):
        raise CommandError(f"the number of one cell is expected here, not {' '.join(given)!r}", listing)
    wanted = given[0].strip("[]").lower() if given else ""
    is_number = wanted.isdigit() and len(wanted) <= _NUMBER_DIGITS
    for each in reversed(executions):
        if each.execution_count == int(wanted) if is_number else each.request_id.startswith(wanted):
            return each
    raise CommandError(f"the session has run no cell [{wanted}]" if wanted else "the session has run no cell", listing)


def name_in_words(execution: pool_pb2.Execution, code: str = "") -> str:
    """Returns "cell [5] `train(model)`", as far as it is known."""
    cell = f"cell [{execution.execution_count}]" if execution.execution_count else "a cell"
    line = first_line(code)
    if line:
        return f"{cell} `{line}`"
    return f"{cell} ({execution.cell_id})" if execution.cell_id and not execution.execution_count else cell


def first_line(code: str) -> str:
    """Returns the first line of code that says what it is about, cut if it is long: no comment, magic or import."""
    lines = [line for line in map(str.strip, code.splitlines()) if line]
    of_code = [line for line in lines if not line.startswith(("#", "%"))]
    telling = [line for line in of_code if not line.startswith(("import ", "from "))]
    found = next(iter(telling or of_code or lines), "")
    return found if len(found) <= _FIRST_LINE_CHARACTERS else found[: _FIRST_LINE_CHARACTERS - 1] + "…"


def outcome_in_words(execution: pool_pb2.Execution, now_unix_s: float, replay: Replay | None = None) -> str:
    """Returns how it ended and how long it took: "raised ValueError after 0:12"; of what is known without its output
    less is said.
    """
    if execution.state == pool_pb2.EXECUTION_WAITING:
        return "waits for its turn"
    if execution.state == pool_pb2.EXECUTION_RUNNING:
        return f"still runs, for {duration_in_words(now_unix_s - execution.started_unix_s)} so far"
    took = duration_in_words(execution.ended_unix_s - execution.started_unix_s)
    if replay is not None and replay.timeout_s is not None and execution.state != pool_pb2.EXECUTION_SUCCEEDED:
        return f"was interrupted after its timeout of {cell_timeout.duration_in_words(replay.timeout_s)}"
    if execution.state == pool_pb2.EXECUTION_SUCCEEDED:
        return f"ran for {took}"
    if execution.state == pool_pb2.EXECUTION_FAILED:
        name = replay.error_name if replay is not None else ""
        if name == "KeyboardInterrupt":
            return f"was interrupted after {took}"
        return f"raised {name} after {took}" if name else f"failed after {took}"
    exit = replay.kernel_exit if replay is not None else None
    why = exit_in_words(exit) if exit is not None else "its kernel ended"
    return f"did not come to its end: {why} after {took}"


def left_out_in_words(excerpt: Excerpt, execution: pool_pb2.Execution, command: str) -> str:
    """Returns what an excerpt does not show, and how to see it; empty if it shows all."""
    parts = []
    if excerpt.left_out_displays:
        parts.append(f"{excerpt.left_out_displays:,} displays")
    if excerpt.left_out_lines:
        parts.append(f"{excerpt.left_out_lines:,} line{'' if excerpt.left_out_lines == 1 else 's'}")
    if not parts:
        return ""
    return f"… {' and '.join(parts)} before this are left out here; `{command} {key(execution)}` shows all"


def bound_in_words(replay: Replay, execution: pool_pb2.Execution, session: pool_pb2.SessionInfo) -> str:
    """Returns where what it bound is, and how it comes here; empty if it bound nothing, as far as is known."""
    if not replay.bound or execution.state != pool_pb2.EXECUTION_SUCCEEDED:
        return ""
    names, more = " ".join(replay.bound[:_NAMED]), len(replay.bound) - _NAMED
    is_there = session.kernel_state != pool_pb2.KERNEL_DEAD and (
        execution.kernel_generation in (0, session.kernel_generation)
    )
    if not is_there:
        return f"what it bound went with its kernel: {names}" + (f" and {more} more" if more > 0 else "")
    others = f", as are {more} more" if more > 0 else ""
    return f"`%gpu pull {names}` brings here what it bound; it is there for `%%gpu` cells{others}"


def key(execution: pool_pb2.Execution) -> str:
    """Returns by what a person names it: the beginning of its id, as cells' numbers begin anew with every kernel."""
    return execution.request_id[:ID_CHARACTERS]


def brief(executions: Sequence[pool_pb2.Execution], codes: Sequence[str], now_unix_s: float) -> list[str]:
    """Returns a line for each, the last ones if there are many."""
    named = list(zip(executions, codes, strict=True))
    lines = [f"    {name_in_words(each, code)} {outcome_in_words(each, now_unix_s)}" for each, code in named[-LISTED:]]
    more = len(named) - len(lines)
    return [f"    {more} more before these", *lines] if more else lines


def status_in_words(executions: Sequence[pool_pb2.Execution], now_unix_s: float) -> str:
    """Returns in one line what ran while nobody looked; empty if nothing did."""
    if not executions:
        return ""
    said = [f"{name_in_words(each)} {outcome_in_words(each, now_unix_s)}" for each in executions[-3:]]
    more = len(executions) - len(said)
    before = f"{more} more cells, " if more else ""
    return f"not shown yet: {before}{', '.join(said)}; `%gpu attach` shows the output"


def executions_table(
    executions: Sequence[pool_pb2.Execution], not_shown: Sequence[pool_pb2.Execution], now_unix_s: float
) -> str:
    """Returns executions as lines, the newest last; of some of them it is said that nobody was shown them."""
    if not executions:
        return "the session has run no cell"
    rows = [
        (
            key(each),
            f"[{each.execution_count}]" if each.execution_count else "",
            outcome_in_words(each, now_unix_s),
            "not shown yet" if each in not_shown else "",
        )
        for each in executions
    ]
    return table(("ID", "CELL", "", ""), rows)
