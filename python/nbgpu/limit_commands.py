"""`%gpu keep`, `cost` and `budget`: how long a session stays, what was spent, and what may be."""

from __future__ import annotations

from collections.abc import Callable

from nbgpu import errors, words
from nbgpu.client.accounting import report_usage, set_budget
from nbgpu.client.background import background
from nbgpu.client.pool import Pool
from nbgpu.cost_words import budgets_in_words, usage_report
from nbgpu.notebook import notebook_id, this_notebook
from nbgpu.session_client import SessionClient
from nbgpu_protocol.spans import parse_span
from nbgpu_protocol.v1 import pool_pb2

IDLE_OPTION = "--idle"
MONTH_OPTION = "--month"
NEVER = frozenset({"off", "never", "0"})


class LimitCommands:
    """The commands.

    Args:
        chosen: Returns the session that the notebook uses.
    """

    def __init__(self, chosen: Callable[[], SessionClient]) -> None:
        self._chosen = chosen
        self.commands: dict[str, Callable[[str], None]] = {
            "keep": self._keep,
            "cost": self._cost,
            "budget": self._budget,
        }

    def _keep(self, line: str) -> None:
        rest, idle_close_s = take_idle(line)
        if rest:
            raise errors.CommandError(f"nothing else is expected here, but there is {rest!r}", "see `%gpu?`")
        client = self._chosen()
        closing = background().run(keep(client, idle_close_s))
        print(f"session {client.id} {words.closing_in_words(closing) or 'stays open until it is closed'}")

    def _cost(self, line: str) -> None:
        if line.strip():
            raise errors.CommandError(f"nothing is expected here, but there is {line.strip()!r}", "see `%gpu?`")
        session_id, pool = background().run(_session_and_pool())
        print(usage_report(background().run(report_usage(pool, session_id, notebook_id()))))

    def _budget(self, line: str) -> None:
        given = line.split()
        of_month = MONTH_OPTION in given
        amounts = [each for each in given if each != MONTH_OPTION]
        _, pool = background().run(_session_and_pool())
        if not amounts and not of_month:
            print(budgets_in_words(background().run(report_usage(pool, "", notebook_id())).allowances))
            return
        if len(amounts) != 1:
            raise errors.CommandError(f"an amount is expected here, not {line.strip()!r}", "such as `%gpu budget 20`")
        of = "" if of_month else notebook_id()
        if not of and not of_month:
            raise errors.CommandError(
                "only a notebook has a budget of its own", f"`%gpu budget 20 {MONTH_OPTION}` bounds what you spend"
            )
        print(budgets_in_words(background().run(set_budget(pool, of, read_amount(amounts[0])))))


async def _session_and_pool() -> tuple[str, Pool]:
    """Returns the chosen session's id, or none, and the pool that has it, or else the default one."""
    client = await this_notebook().find_chosen()
    return (client.id, client.pool) if client is not None else ("", await this_notebook().pool())


def read_amount(text: str) -> float | None:
    """Returns the amount, or None for "off".

    Raises:
        CommandError: It is neither.
    """
    if text.lower() in NEVER - {"0"}:
        return None
    try:
        return float(text.lstrip("$€£"))
    except ValueError as error:
        raise errors.CommandError(f"{text!r} is no amount", "such as `%gpu budget 20`, or `%gpu budget off`") from error


async def keep(client: SessionClient, idle_close_s: float | None) -> pool_pb2.Closing:
    """Has the session's time without work begin anew; returns when it is closed by itself from now on.

    Args:
        idle_close_s: From now on after so long; 0: never; None: as it was.
    """
    await client.pool.renew_lease(client.id, idle_close_s=idle_close_s)
    for info in await client.pool.list_sessions():
        if info.id == client.id:
            closing: pool_pb2.Closing = info.closing
            return closing
    return pool_pb2.Closing()


def take_idle(line: str) -> tuple[str, float | None]:
    """Takes `--idle SPAN`, or `--idle off`, out of a line; returns the rest, and the seconds: 0 for never.

    Raises:
        CommandError: The span cannot be read.
    """
    words_left = line.replace(f"{IDLE_OPTION}=", f"{IDLE_OPTION} ").split()
    if IDLE_OPTION not in words_left:
        return line, None
    at = words_left.index(IDLE_OPTION)
    value = words_left[at + 1] if at + 1 < len(words_left) else ""
    del words_left[at : at + 2]
    if value.lower() in NEVER:
        return " ".join(words_left), 0.0
    try:
        return " ".join(words_left), parse_span(value)
    except ValueError as error:
        raise errors.CommandError(
            f"{IDLE_OPTION} needs a span of time, and {value!r} is none", "such as `--idle 2h`, or `--idle off`"
        ) from error
