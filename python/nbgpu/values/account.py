"""What a session has of a notebook's variables, by name and size. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from nbgpu.values.handle import Handle, Home


class Entry(Protocol):
    """What is known of a variable that both sides had the same of."""

    @property
    def digest(self) -> str: ...
    @property
    def group(self) -> frozenset[str]: ...
    @property
    def size_bytes(self) -> int: ...


@dataclass(frozen=True)
class Account:
    """Variables that the session has, the largest first."""

    sent: tuple[tuple[str, int], ...] = ()
    """By value: name, and bytes pickled."""
    handles: tuple[tuple[str, int | None], ...] = ()
    """That are in the session and handles here: name, and bytes where they are known."""
    sent_bytes: int = 0
    """Of all that were sent; what goes by several names counts once."""


def account(namespace: Mapping[str, Any], known: Mapping[str, Entry], home: Home) -> Account:
    """Returns what the session's kernel has.

    Args:
        namespace: The notebook's variables.
        known: What both sides had the same of, by name.
        home: The session's kernel as it is now.
    """
    values = dict(namespace)
    handles = {
        name: value.size_bytes
        for name, value in values.items()
        if type(value) is Handle and value.home == home and not name.startswith("_")
    }
    sent: dict[str, int] = {}
    contents: dict[tuple[str, frozenset[str]], int] = {}
    for name, entry in dict(known).items():
        value = values.get(name)
        if name not in values or isinstance(value, ModuleType) or type(value) is Handle:
            continue
        sent[name] = entry.size_bytes
        contents[entry.digest, entry.group] = entry.size_bytes
    return Account(
        tuple(sorted(sent.items(), key=lambda item: (-item[1], item[0]))),
        tuple(sorted(handles.items(), key=lambda item: (-(item[1] or 0), item[0]))),
        sum(contents.values()),
    )
