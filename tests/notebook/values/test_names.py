"""The names that a cell reads and binds."""

from __future__ import annotations

import builtins
import contextlib
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from nbgpu.values.names import analyse

BUILTINS = set(dir(builtins))


def reads(code: str) -> set[str]:
    names = analyse(code)
    assert names is not None
    return names.reads - BUILTINS - {"get_ipython"}


def binds(code: str) -> list[str]:
    names = analyse(code)
    assert names is not None
    return names.binds


@pytest.mark.parametrize(
    ("code", "read", "bound"),
    [
        ("pass", set(), []),
        ("a = a + 1", {"a"}, ["a"]),
        ("a += b", {"a", "b"}, ["a"]),
        ("a = 1\nprint(a)", set(), ["a"]),
        ("a: int", set(), []),
        ("a: int = b", {"b"}, ["a"]),
        ("a.b = c\nd[e] = f", set("acdef"), []),
        ("(a := b) + a", {"b"}, ["a"]),
        ("[x * k for x in xs if x]", {"k", "xs"}, []),
        ("[y for x in xs for y in x]", {"xs"}, []),
        ("[(last := x) for x in xs]", {"xs"}, ["last"]),
        ("{k: v for k, v in p.items()}", {"p"}, []),
        ("x = [x for x in x]", {"x"}, ["x"]),
        ("lambda q, d=e: q + w", {"e", "w"}, []),
        ("if c:\n    a = 1\na", {"c", "a"}, ["a"]),
        ("if c:\n    a = 1\nelse:\n    a = 2\na", {"c"}, ["a"]),
        ("for i in r:\n    a = i\na, i", {"r", "a", "i"}, ["i", "a"]),
        ("while c:\n    c = d", {"c", "d"}, ["c"]),
        ("with o(p) as f, q as (g, h):\n    f, g, h", {"o", "p", "q"}, ["f", "g", "h"]),
        ("try:\n    a = 1\nexcept E as e:\n    e\na", {"E", "a"}, ["a", "e"]),
        ("try:\n    a = b\nfinally:\n    c = 1\nc", {"b"}, ["a", "c"]),
        ("match v:\n    case [a, *b] if t:\n        a, b", {"v", "t"}, ["a", "b"]),
        ("match v:\n    case {'k': w, **rest}:\n        w, rest", {"v"}, ["w", "rest"]),
        ("match v:\n    case K(z=1) as m:\n        m", {"v", "K"}, ["m"]),
        ("del a", {"a"}, []),
        ("a = 1\ndel a\na", {"a"}, ["a"]),
        ("import a.b, c as d\nfrom e import f as g, h\na, d, g, h", set(), ["a", "d", "g", "h"]),
        ("from a import *\nb", {"b"}, []),
        ("def f(a, b=c):\n    return a + b + g", {"c", "g"}, ["f"]),
        ("def f():\n    return g()\ndef g():\n    return 1\nf()", set(), ["f", "g"]),
        ("def f():\n    return g()\nf()\ndef g():\n    return 1", {"g"}, ["f", "g"]),
        ("def f():\n    global n\n    n += 1\nf()", {"n"}, ["f", "n"]),
        ("def f():\n    n = 0\n    def g():\n        nonlocal n\n        n += k\n    return g", {"k"}, ["f"]),
        ("def f():\n    import os\n    try:\n        pass\n    except E as e:\n        return os, e", {"E"}, ["f"]),
        ("def f(a):\n    def g():\n        global a\n        a = a + 1\n    a = g()\nf(1)", {"a"}, ["f", "a"]),
        ("def f(xs):\n    return [x + k for x in xs]", {"k"}, ["f"]),
        ("def f():\n    class C:\n        a = b\n        def m(self): return d\n    return C", {"b", "d"}, ["f"]),
        ("@dec\ndef f():\n    return k", {"dec", "k"}, ["f"]),
        ("async def f():\n    async for x in y:\n        await z", {"y", "z"}, ["f"]),
        ("class A(B, metaclass=M):\n    q = w\n    r = q\n    def m(self): return G", {"B", "M", "w", "G"}, ["A"]),
        ("class A:\n    b = 1\n    c = [b for i in (1, b)], lambda: b", {"b"}, ["A"]),
        ("def f():\n    a = 1\n    class C:\n        a = a\n    return C", {"a"}, ["f"]),
        ("f'{a}{b!r:>{c}}'", {"a", "b", "c"}, []),
        ("!echo $a {b + 1} $$HOME", {"a", "b"}, []),
        ("x = !ls {folder}", {"folder"}, ["x"]),
        ("%timeit -n 2 -r 1 f(x)", {"f", "x"}, []),
        ("%time r = f(x)", {"f", "x"}, ["r"]),
        ("%matplotlib inline", set(), []),
        ("%%time\nr = f(x)", {"f", "x"}, ["r"]),
        ("%%timeit s\nr = f(x)", {"f", "x"}, []),
        ("%%capture out\nr = x", {"x"}, ["r", "out"]),
        ("%%bash\necho x = y", set(), []),
        ("await f(x)", {"f", "x"}, []),
        ("object?", set(), []),
    ],
)  # fmt: skip
def test_a_cell(code: str, read: set[str], bound: list[str]) -> None:
    assert reads(code) == read
    assert binds(code) == bound


@pytest.mark.parametrize("code", ["x = = 3", "def f(:", "'", "x = \0", "if a:\n  b\n c", "(" * 300 + ")" * 300])
def test_what_is_no_python_has_no_names(code: str) -> None:
    assert analyse(code) is None


def test_attributes_are_collected_wherever_they_are() -> None:
    names = analyse("a.b.c\ndef f():\n    return [x.d for x in y.e]")
    assert names is not None
    assert names.attributes >= {"b", "c", "d", "e"}


NAMES = st.sampled_from("abcde")


@st.composite
def statements(draw: st.DrawFn, depth: int = 2) -> str:
    """A program that ends, over a few names."""
    lines = draw(st.lists(simple_or_compound(depth), min_size=1, max_size=4))
    return "\n".join(lines)


def indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.split("\n"))


@st.composite
def simple_or_compound(draw: st.DrawFn, depth: int) -> str:
    a, b, c = draw(NAMES), draw(NAMES), draw(NAMES)
    simple = [
        f"{a} = {b} + {c}", f"{a} += {b}", f"{a} = 1", f"del {a}", f"{a} = [{b} for {b} in (1, {c})][0]",
        f"{a} = (lambda {b}: {b} + {c})({a})", f"{a} = ({b} := {c})", f"{a} = [({b} := {c} + i) for i in (1, 2)][-1]",
    ]  # fmt: skip
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(simple))
    body, other = indented(draw(statements(depth - 1))), indented(draw(statements(depth - 1)))
    return draw(
        st.sampled_from(
            [
                f"if {a} > 2:\n{body}\nelse:\n{other}",
                f"for {a} in range({b} % 3):\n{body}",
                f"try:\n{body}\nexcept ZeroDivisionError as {a}:\n{other}",
                f"def f_{a}({b}):\n{body}\n    return {c}\n{c} = f_{a}(1)",
                f"def f_{a}():\n    global {b}\n{body}\n{c} = f_{a}()",
                f"class C_{a}:\n{body}",
            ]
        )
    )


def run_traced(code: str) -> tuple[set[str], set[str]]:
    """Runs a program as a cell; returns the notebook's names that it cannot do without, and those that it bound.

    Functions look globals up in a real dict, so that they cannot be traced in one of another type. Each of the
    notebook's names is taken away in turn instead.
    """
    namespace: dict[str, Any] = dict.fromkeys("abcde", 5)
    with contextlib.suppress(NameError, TypeError):
        exec(code, namespace)
    bound = {name for name in "abcde" if name in namespace and namespace[name] != 5}
    return {name for name in "abcde" if needs(code, name)}, bound


def needs(code: str, name: str) -> bool:
    """Says whether the program fails for want of that very name without it, and not with it."""
    return name_missed(code, set("abcde") - {name}) == name and name_missed(code, set("abcde")) != name


def name_missed(code: str, names: set[str]) -> str | None:
    try:
        exec(code, dict.fromkeys(names, 5))
    except UnboundLocalError:
        return None
    except NameError as error:
        return error.name
    except TypeError:
        return None
    return None


@given(statements())
def test_what_a_program_needs_is_among_what_it_is_said_to_read(code: str) -> None:
    try:
        compile(code, "<program>", "exec")
    except SyntaxError:  # a walrus in a comprehension in a class's body, or a global that was used before
        reject()
    names = analyse(code)
    assert names is not None
    read, bound = run_traced(code)
    assert read <= names.reads
    assert bound <= set(names.binds)


@given(st.lists(st.tuples(NAMES, NAMES, NAMES), min_size=1, max_size=6))
def test_a_straight_program_reads_exactly_what_is_said(lines: list[tuple[str, str, str]]) -> None:
    expected: set[str] = set()
    done: set[str] = set()
    for target, first, second in lines:
        expected |= {first, second} - done
        done.add(target)
    names = analyse("\n".join(f"{target} = {first} + {second}" for target, first, second in lines))
    assert names is not None
    assert names.reads == expected
    assert set(names.binds) == done
