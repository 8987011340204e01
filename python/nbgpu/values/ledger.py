"""What a notebook and a session's kernel have the same of, and whether that still holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import xxhash

from nbgpu.values.gathering import REFUSE_BYTES, Gatherer
from nbgpu.values.handle import Home
from nbgpu_kernel.values.encoding import Encoded
from nbgpu_kernel.values.exchange import content_digest


@dataclass(frozen=True)
class Known:
    """What a name was bound to here when both sides had the same."""

    digest: str
    token: str
    group: frozenset[str]
    """The names that it was sent together with, itself included."""
    size_bytes: int = 0
    structure: str = ""
    """A digest of what the group's values share, which can change while none looks different; empty: not known."""


class Ledger:
    """By name, what both sides had; the one account of it.

    Args:
        gatherer: Encodes values, to compare them.
        home: The session's kernel.
    """

    def __init__(self, gatherer: Gatherer, home: Home) -> None:
        self._gatherer = gatherer
        self._generation = home.generation
        self.names: dict[str, Known] = {}
        self.definitions: dict[str, str] = {}
        """Digests of classes' definitions, by key."""

    def is_of(self, home: Home) -> bool:
        """Says whether it is the same kernel still."""
        return home.generation == self._generation

    def turn_to(self, home: Home) -> None:
        """Forgets all if the kernel is another."""
        if not self.is_of(home):
            self.forget()
            self._generation = home.generation

    def forget(self) -> None:
        self.names.clear()
        self.definitions.clear()

    def has(self, name: str, digest: str, group: Sequence[str], read: Collection[str]) -> bool:
        """Says whether the session has this of a name, among what it was sent together with.

        Args:
            name: Of the value.
            digest: Of its content.
            group: The names of what it shares something with here, itself included.
            read: All names that the cell reads.
        """
        known = self.names.get(name)
        return (
            known is not None
            and known.digest == digest
            and known.group.issuperset(group)
            # Nor does it share anything over there with what is apart from it here now, and may well look the same.
            and not any(other in read and other not in group for other in known.group)
        )

    def shares(self, values: Mapping[str, Any]) -> bool:
        """Says whether a group's values, each of which is known, share what they shared when they were.

        Where only some of the group are read that is not known, and taken for granted.
        """
        structures = {self.names[name].structure for name in values if self.names[name].group == values.keys()}
        if len(values) == 1 or not structures - {""}:
            return True
        return structures == {self.structure(values.values())}

    def note(self, name: str, value: Any, token: str | None, group: frozenset[str], structure: str) -> None:
        """Notes what a name is bound to here since it came from the session.

        Args:
            name: What it is bound to.
            value: Its value.
            token: What the session calls it; None: it is not to be known.
            group: The names that it came together with, itself included.
            structure: Of the group; empty: not known.
        """
        self.names.pop(name, None)
        if token is None:
            return
        size_bytes = 0
        if isinstance(value, ModuleType):
            digest = f"import {ModuleType.__getattribute__(value, '__name__')}"
        else:
            try:
                encoded = self._gatherer.encode(value, limit_bytes=REFUSE_BYTES)
            except Exception:  # noqa: BLE001 - it is sent again then, or the next cell says why it cannot be
                return
            digest, size_bytes = content_digest(encoded, xxhash.xxh3_128), encoded.size_bytes
        self.names[name] = Known(digest, token, group, size_bytes, structure)

    def structure(self, values: Iterable[Any]) -> str:
        """Returns the digest of what values share."""
        return structure_of(self._gatherer.encode_together(values))


def structure_of(encoded: Encoded) -> str:
    """Returns the digest of what values share that were encoded together."""
    found = xxhash.xxh3_128()
    for segment in encoded.segments:
        found.update(segment)
    return found.hexdigest()
