"""An agent's clock is not this machine's: what it says of times is told by this machine's clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

SLACK_S = 2.0
"""A smaller difference is let be: the answer took a part of it to come."""
_ENDING = "_unix_s"
_TOLD = "time_unix_s"
"""The field that says what the agent's clock showed; it stays as it was told."""


def to_own_clock(message: Message, agent_unix_s: float, own: Callable[[], float] = time.time) -> None:
    """Changes all times in a message that has just come by how far the agent's clock is from this machine's.

    Spans from and to a time are right then, whatever either machine's clock is set to.

    Args:
        message: Of which fields that end in `_unix_s` are times, in seconds since the epoch, and 0 is none.
        agent_unix_s: What the agent's clock showed; 0: it did not say, and nothing is changed.
        own: The time here, in seconds since the epoch.
    """
    change_s = own() - agent_unix_s
    if agent_unix_s and abs(change_s) > SLACK_S:
        _move(message, change_s)


def _move(message: Message, change_s: float) -> None:
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in (value,) if isinstance(value, Message) else value:
                if isinstance(each, Message):  # a map's keys are none
                    _move(each, change_s)
        elif field.name.endswith(_ENDING) and field.name != _TOLD and value:
            setattr(message, field.name, value + change_s)
