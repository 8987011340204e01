"""Programs that alias and change objects, whose cells run here and there in turns: what is one object stays one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fakes.two_sides import TwoSides, new_namespace

torch = pytest.importorskip("torch")

PRELUDE = """
import torch

class Box:
    def __init__(self, v):
        self.v = v

def put(x, y):
    if isinstance(x, list):
        x.append(y)
    elif isinstance(x, dict):
        x['k'] = y
    elif isinstance(x, Box):
        x.v = y
    elif isinstance(x, torch.Tensor):
        x += 1
    return x

def get(x):
    if isinstance(x, list):
        return x[-1] if x else x
    if isinstance(x, dict):
        return x.get('k', x)
    if isinstance(x, Box):
        return x.v
    return x[:2] if isinstance(x, torch.Tensor) else x

a, b, c, e = [], {}, Box(1), torch.zeros(4)
"""
NAMES = "abce"
ALL = "a, b, c, e"
NAME = st.sampled_from(NAMES)
FRESH = st.sampled_from(["[{}]", "{{'k': {}}}", "Box({})", "torch.ones(4)"])


@st.composite
def statement(draw: st.DrawFn) -> str:
    x, y, z = draw(NAME), draw(NAME), draw(NAME)
    fresh = draw(FRESH).format(y)
    return draw(
        st.sampled_from([f"{x} = {y}", f"{x} = {fresh}", f"put({x}, {y})", f"{x} = get({y})", f"put({x}, {fresh})"])
        | st.just(f"put({x}, {y})\nput({y}, {z})")
    )


@st.composite
def rebinding_or_change(draw: st.DrawFn) -> str:
    x, y = draw(NAME), draw(NAME)
    changes = [
        f"{x} = {y}", f"{x} = {y}", f"{x} = [1]", f"{x} = Box(2)",
        f"put({x}, 5) if not isinstance({x}, (int, torch.Tensor)) else None",
    ]  # fmt: skip
    return draw(st.sampled_from(changes))


def cells(statements: st.SearchStrategy[str], reads: st.SearchStrategy[str]) -> Any:
    code = st.lists(statements, min_size=1, max_size=4).map("\n".join)
    return st.lists(st.tuples(st.booleans(), reads, code), min_size=2, max_size=6)


def shape_of(namespace: dict[str, Any]) -> list[Any]:
    """Returns what the names are bound to, with every object numbered where it is met first."""
    numbers: dict[int, int] = {}
    found: list[Any] = []
    waiting: list[Any] = [namespace[name] for name in NAMES]
    kept: list[Any] = []
    while waiting:
        obj = waiting.pop(0)
        kept.append(obj)
        is_met = id(obj) in numbers
        number = numbers.setdefault(id(obj), len(numbers)) if not isinstance(obj, int) else -1
        if isinstance(obj, int):
            found.append(obj)
        elif is_met:
            found.append(("met", number))
        elif isinstance(obj, list):
            found.append(("list", number, len(obj)))
            waiting.extend(obj)
        elif isinstance(obj, dict):
            found.append(("dict", number, sorted(obj)))
            waiting.extend(obj[key] for key in sorted(obj))
        elif isinstance(obj, torch.Tensor):
            storage = numbers.setdefault(-obj.untyped_storage().data_ptr(), len(numbers))
            found.append(("tensor", number, storage, obj.tolist()))
        else:
            assert type(obj) is namespace["Box"]
            found.append(("box", number))
            waiting.append(obj.v)
    return found


def run(program: list[tuple[bool, str, str]]) -> tuple[list[Any], list[Any], list[str]]:
    """Returns what is here in the end, what is where all of it ran here, and what was said."""
    expected = new_namespace()
    exec(PRELUDE, expected)
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        sides = TwoSides(Path(name) / "blobs")
        sides.local(PRELUDE)
        for is_there, reads, code in program:
            whole = f"({reads})\n{code}"
            exec(whole, expected)
            (sides.gpu if is_there else sides.local)(whole)
        return shape_of(sides.here), shape_of(expected), sides.said


SETTINGS = settings(
    derandomize=True, deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow]
)  # fmt: skip


@SETTINGS
@given(cells(statement(), st.just(ALL)))
@example([(True, ALL, "a = b = [c]"), (False, ALL, "a = [c]"), (True, ALL, "put(a, 5)")])
@example([(True, ALL, "a = e"), (False, ALL, "a = a[:]"), (True, ALL, "b = a")])
def test_what_the_cells_read_is_shared_as_it_is_here(program: list[tuple[bool, str, str]]) -> None:
    found, expected, said = run(program)
    assert found == expected
    assert said == []


@SETTINGS
@given(cells(rebinding_or_change(), st.lists(NAME, min_size=1, max_size=2).map(", ".join).map("{},".format)))
@example([(True, "a,", "a = [1]\nb = a"), (False, "a,", "a = [1]"), (True, "a, b", "put(a, 5)")])
@example([(True, "a,", "a = [1]\nb = a"), (False, "a,", "a = [1]"), (True, "a,", "put(a, 5)"), (True, "b,", "c = b")])
def test_names_of_one_object_that_cells_do_not_read_stay_its_names(program: list[tuple[bool, str, str]]) -> None:
    found, expected, _ = run(program)  # a name that was changed by another is said to have been
    assert found == expected
