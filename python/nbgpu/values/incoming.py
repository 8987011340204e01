"""What came back from a session, put together and not bound yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nbgpu_kernel.values.adoption import Adoption
from nbgpu_kernel.values.exchange import UndecodableError


@dataclass
class Incoming:
    """What came back, put together."""

    values: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    groups: dict[str, frozenset[str]] = field(default_factory=dict)
    failed: dict[str, UndecodableError] = field(default_factory=dict)
    """What cannot be put together here."""
    in_place: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """What was named to come by value and cannot."""
    left: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was changed in the session, stays there, and is something else here: why, and what it is."""
    adoption: Adoption = field(default_factory=lambda: Adoption({}))

    def is_alone(self, name: str, before: Mapping[str, Any]) -> bool:
        """Says whether nothing else that came refers to what came under this name, but other names of it.

        Args:
            before: What the names were bound to here. Those of one object in the session can be of two here.
        """
        value = self.values[name]
        return all(
            self.values.get(each) is value and (each not in self.in_place or before.get(each) is before[name])
            for each in self.groups.get(name, ())
        )
