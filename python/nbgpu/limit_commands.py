"""`%gpu keep`: how long a session stays that does nothing."""

from __future__ import annotations

from collections.abc import Callable

from nbgpu import errors, words
from nbgpu.client.background import background
from nbgpu.session_client import SessionClient
from nbgpu_protocol.spans import parse_span
from nbgpu_protocol.v1 import pool_pb2

IDLE_OPTION = "--idle"
NEVER = frozenset({"off", "never", "0"})


class LimitCommands:
    """The commands.

    Args:
        chosen: Returns the session that the notebook uses.
    """

    def __init__(self, chosen: Callable[[], SessionClient]) -> None:
        self._chosen = chosen
        self.commands: dict[str, Callable[[str], None]] = {"keep": self._keep}

    def _keep(self, line: str) -> None:
        rest, idle_close_s = take_idle(line)
        if rest:
            raise errors.CommandError(f"nothing else is expected here, but there is {rest!r}", "see `%gpu?`")
        client = self._chosen()
        closing = background().run(keep(client, idle_close_s))
        print(f"session {client.id} {words.closing_in_words(closing) or 'stays open until it is closed'}")


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
