"""Programs whose cells run here and there in turns end as they do where all of their cells run here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from fakes.two_sides import TwoSides, new_namespace

PRELUDE = """
import contextlib

class Box:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None

a, b, c = 1, 2, 3
items, table, box = [1, 2], {'k': 1}, Box(5)
"""
NUMBERS = st.sampled_from("abc")
DATA = ("a", "b", "c", "items", "table", "box")


def indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.split("\n"))


@st.composite
def statement(draw: st.DrawFn, depth: int = 2) -> str:
    x, y, z = draw(NUMBERS), draw(NUMBERS), draw(NUMBERS)
    simple = [
        f"{x} = {y} + {z}", f"{x} += {y}", f"{x} = 1", f"{x}, {y} = {y}, {z}", f"{x}: int = {y}",
        f"items = [{x}, {y}]", f"items.append({x})", f"items[0] = {x}", f"items[-1] += {x}", f"items += [{x}]",
        f"table = {{'k': {x}}}", f"table['k'] = {x}", f"table.update(k={x})", "table['k'] += 1",
        f"box = Box({x})", f"box.x = {x}", "box.x += 1", f"setattr(box, 'y', {x})",
        f"{x} = sum([i + {y} for i in items[:3] if i != {z}])", f"{x} = [{y} for {y} in (1, {z})][0]",
        f"{x} = ({y} := {z} + 1)", f"{x} = [({y} := i + {z}) for i in (1, 2)][-1]",
        f"{x} = (lambda {y}: {y} + {z})({x})",
        f"spare = {x}\ndel spare", f"import math as {x}_math\n{x} = {x}_math.gcd({y}, 12)",
        f"from operator import add as plus\n{x} = plus({y}, 1)", f"{x} = len(table) if {y} else box.x",
        f"{x} = int(f'{{{y}}}') + (table['k'] if isinstance(table['k'], int) else 0)",
    ]  # fmt: skip
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(simple))
    body, other = indented(draw(block(depth - 1))), indented(draw(block(depth - 1)))
    compound = [
        f"if {x} > 2:\n{body}\nelse:\n{other}",
        f"for {x} in range({y} % 3):\n{body}",
        f"for _ in range(2):\n{body}\nelse:\n{other}",
        f"rounds = 0\nwhile rounds < 2:\n    rounds += 1\n{body}",
        f"with contextlib.nullcontext({y}) as {x}:\n{body}",
        f"try:\n{body}\n    {x} = {y} // ({z} % 2)\nexcept ZeroDivisionError as e:\n{other}\nfinally:\n    {x} = 4",
        f"def act():\n    global {x}\n    {x} = {y} + 1\nact()",
        f"def act({x}):\n    items.append({x})\n    return {y} + len(items)\n{z} = act({y})",
        f"def act():\n    def inner():\n        return {x} + box.x\n    return inner\n{y} = act()()",
        f"class Sub(Box):\n    n = {x}\n    def get(self):\n        return self.x + {y}\n{z} = Sub(2).get() + Sub.n",
        f"{x} = act() if 'act' in globals() and not act.__code__.co_argcount and isinstance(act(), int) else {y}",
        f"match items:\n    case [{x}, *_] if {x} != {y}:\n{body}\n    case _:\n{other}",
    ]
    return draw(st.sampled_from(compound))


def block(depth: int) -> st.SearchStrategy[str]:
    return st.lists(statement(depth), min_size=1, max_size=3).map("\n".join)


CELLS = st.lists(st.tuples(st.booleans(), block(2)), min_size=1, max_size=5)


def data_of(namespace: dict[str, Any]) -> dict[str, Any]:
    return {name: vars(namespace[name]) if name == "box" else namespace[name] for name in DATA}


@settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(CELLS)
def test_a_program_ends_as_it_does_here(cells: list[tuple[bool, str]]) -> None:
    expected = new_namespace()
    exec(PRELUDE, expected)
    try:
        for _, code in cells:
            exec(code, expected)
    except Exception:  # noqa: BLE001 - a program that fails here; what such cells leave is tested by itself
        reject()
    if any(isinstance(value, int) and abs(value) > 10**9 for value in expected.values()):
        reject()
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        sides = TwoSides(Path(name) / "blobs")
        sides.local(PRELUDE)
        for is_there, code in cells:
            (sides.gpu if is_there else sides.local)(code)
        assert data_of(sides.here) == data_of(expected)
        assert sides.said == []
