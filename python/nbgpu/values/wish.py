"""What is to be synchronised around a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbgpu.values.names import CellNames


@dataclass(frozen=True)
class Wish:
    """What is to be synchronised around a cell.

    Args:
        reads: Names that the cell reads.
        mentioned: Attributes that it mentions.
        binds: Names that it may bind.
        certain: Of these, the ones that it binds whenever it comes to its end.
        mutated: Names of objects that it is seen to change.
        given: Values to be sent under names of their own.
        send: Names that the person named to be sent, whatever their size.
        bring: Names that the person named to come back by value, whatever their size.
        fetch: Ids of objects whose values are wanted.
        keep: Names that are to come back as handles.
        watches: Whether what the cell reads comes back if it changes it in place.
    """

    reads: frozenset[str] = frozenset()
    mentioned: frozenset[str] = frozenset()
    binds: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    send: tuple[str, ...] = ()
    bring: tuple[str, ...] = ()
    fetch: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    certain: frozenset[str] = frozenset()
    mutated: frozenset[str] = frozenset()
    watches: bool = True

    @classmethod
    def of_cell(cls, names: CellNames | None, send: Sequence[str], bring: Sequence[str]) -> Wish:
        """Returns what a cell wishes by itself; one that is no Python wishes nothing."""
        if names is None:
            return cls()
        return cls(
            frozenset(names.reads),
            frozenset(names.attributes),
            tuple(names.binds),
            send=tuple(send),
            bring=tuple(bring),
            certain=frozenset(names.certain),
            mutated=frozenset(names.mutated),
        )
