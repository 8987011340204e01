"""What a session has of a notebook's variables."""

from __future__ import annotations

import types
from dataclasses import dataclass, replace

from nbgpu.values.account import Account, account
from nbgpu.values.handle import Handle, Home

HOME = Home("s1", 1, "lab-1")


@dataclass
class Entry:
    digest: str
    group: frozenset[str]
    size_bytes: int


def handle(name: str, home: Home = HOME, size_bytes: int | None = None) -> Handle:
    size = {} if size_bytes is None else {"size_bytes": size_bytes}
    return Handle(name, {"type": "Tensor", **size}, home, lambda handle: None, lambda object_id: None)


def test_the_largest_come_first_and_one_value_of_two_names_counts_once() -> None:
    both = frozenset({"data", "same"})
    known = {
        "limit": Entry("d1", frozenset({"limit"}), 30),
        "data": Entry("d2", both, 5000),
        "same": Entry("d2", both, 5000),
        "math": Entry("import math", frozenset({"math"}), 0),
        "deleted": Entry("d3", frozenset({"deleted"}), 70),
        "model": Entry("d4", frozenset({"model"}), 90),
    }
    values = [1, 2]
    namespace = {"limit": 3, "data": values, "same": values, "math": types, "model": handle("model", size_bytes=8)}
    assert account(namespace, known, HOME) == Account(
        sent=(("data", 5000), ("same", 5000), ("limit", 30)), handles=(("model", 8),), sent_bytes=5030
    )


def test_handles_of_another_kernel_and_hidden_names_are_none_of_the_sessions() -> None:
    namespace = {
        "old": handle("old", replace(HOME, generation=0)),
        "_": handle("result"),
        "small": handle("small"),
        "large": handle("large", size_bytes=1 << 30),
    }
    assert account(namespace, {}, HOME).handles == (("large", 1 << 30), ("small", None))
