"""Who calls: set once for each RPC by the interceptor, read where something belongs to somebody."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """The user behind an RPC."""

    user: str
    """Empty for the owner, who has the agent's own token."""
    administrator: bool = False
    token_id: str = ""
    """Of a token that can be revoked; empty for the agent's own."""


OWNER = Caller("", administrator=True)
_caller: ContextVar[Caller] = ContextVar("nbgpu_caller")


def current_caller() -> Caller:
    """Returns who calls.

    Tasks that are made, and threads that `asyncio.to_thread` runs, have their maker's caller.

    Raises:
        LookupError: Nobody does: a bug of ours, and no way past a check.
    """
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Sets who calls, for the task of this RPC and what it starts."""
    _caller.set(caller)
