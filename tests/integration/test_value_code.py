"""Code that a `%%gpu` cell reads is there too: functions, classes and modules; what cannot travel is named before."""

from __future__ import annotations

from pathlib import Path

import pytest

from notebook_kernel import NotebookKernel, failure, run, value


def test_functions_and_classes_keep_their_identity_and_are_redefined(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        from dataclasses import dataclass, asdict
        import enum

        class Colour(enum.Enum):
            RED = 1

        @dataclass
        class Point:
            x: int
            colour: Colour = Colour.RED

            def moved(self):
                return Point(self.x + offset, self.colour)

        offset = 10
        def move(point):
            return point.moved()
        start = Point(1)
        """,
    )
    run(notebook, "%%gpu\nend = move(start)\nfresh = Point(7)\nthere = isinstance(start, Point), asdict(fresh)['x']")
    assert value(notebook, "isinstance(end, Point), end.x, end.colour is Colour.RED, type(fresh) is Point, there") == (
        "(True, 11, True, True, (True, 7))"
    )
    run(notebook, "%%gpu\nearlier = isinstance(start, Point) and isinstance(end, Point) and isinstance(fresh, Point)")
    assert value(notebook, "earlier") == "True"
    run(notebook, "offset = 100")
    run(notebook, "%%gpu\nend = move(start)")
    assert value(notebook, "end.x") == "101"
    run(notebook, "def move(point):\n    return 'redefined'")
    run(notebook, "%%gpu\nend = move(start)")
    assert value(notebook, "end") == "'redefined'"
    run(notebook, "@dataclass\nclass Point:\n    x: int\n    def moved(self):\n        return 'new'\nstart = Point(2)")
    run(notebook, "%%gpu\nend = start.moved(), type(start) is Point")
    assert value(notebook, "end") == "('new', True)"


def test_a_function_there_sees_the_globals_there(notebook: NotebookKernel) -> None:
    run(notebook, "scale = 2\ndef scaled(v):\n    return v * scale")
    run(notebook, "%%gpu\nfirst = scaled(3)\nscale = 5\nsecond = scaled(3)")
    assert value(notebook, "first, second, scale, scaled(1)") == "(6, 15, 5, 5)"
    run(notebook, "def count():\n    global counter\n    counter = counter + 1\ncounter = 0")
    run(notebook, "%%gpu\ncount(); count()")
    assert value(notebook, "counter") == "2"


def test_a_function_that_a_cell_defines_works_here(notebook: NotebookKernel) -> None:
    run(notebook, "base = 40")
    run(
        notebook,
        """
        %%gpu
        import functools

        @functools.lru_cache(maxsize=None)
        def fib(n):
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        def added(n):
            return base + n

        def make_counter():
            n = 0
            def step():
                nonlocal n
                n += 1
                return n
            def look():
                return n
            return step, look

        step, look = make_counter()
        step()
        class Made:
            def me(self):
                return super().__repr__()[:9]
        """,
    )
    assert value(notebook, "fib(10), added(2), step(), look(), Made().me()") == "(55, 42, 2, 2, '<__main__')"
    assert "base + n" in (value(notebook, "import inspect; inspect.getsource(added)") or "")


def test_local_modules_are_imported_there(notebook: NotebookKernel, own_folders: Path) -> None:
    (own_folders / "work" / "beside.py").write_text("def double(v):\n    return 2 * v\nclass Thing:\n    pass\n")
    run(notebook, "import beside\nfrom beside import Thing\nthing = Thing()")
    run(notebook, "%%gpu\ndoubled = beside.double(21)\nother = Thing()\nsame = isinstance(thing, beside.Thing)")
    assert value(notebook, "doubled, isinstance(other, Thing), same") == "(42, True, True)"


def test_submodules_that_a_cell_mentions_are_imported_there(notebook: NotebookKernel) -> None:
    run(notebook, "import xml.dom.minidom")
    run(notebook, "%%gpu\ntag = xml.dom.minidom.parseString('<a/>').documentElement.tagName")
    assert value(notebook, "tag") == "'a'"


def test_modules_that_the_session_lacks_are_named(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        import sys, types
        lacking = sys.modules['lacking'] = types.ModuleType('lacking')
        """,
    )
    text = failure(notebook, "%%gpu\nran = True\nlacking")
    assert "`lacking` needs what the session does not have: ModuleNotFoundError: No module named 'lacking'" in text
    assert "--no-sync" in text
    assert "NameError" in failure(notebook, "ran")
    run(notebook, "class Base: pass\nBase.__module__ = 'lacking'\nlacking.Base = Base\nthing = [Base()]")
    text = failure(notebook, "%%gpu\nran = True\nthing")
    assert "`thing` needs what the session does not have" in text


@pytest.mark.parametrize(
    ("setup", "name", "expected"),
    [
        ("gen = (i for i in [])", "gen", "`gen` cannot be sent: a generator"),
        (
            "import threading\nguarded = {'a': [1, threading.Lock()]}",
            "guarded",
            "`guarded['a'][1]` cannot be sent: a lock",
        ),
        (
            "class L: pass\ntrainer = L(); trainer.logger = L(); trainer.logger.file = open('f.txt', 'w')",
            "trainer",
            "`trainer.logger.file` cannot be sent: an open file",
        ),
        (
            "import threading\nlock = threading.Lock()\ndef locked():\n    return lock",
            "locked()",
            "`lock`, which `locked` reads, cannot be sent: a lock",
        ),
        (
            "class Bad:\n    def __reduce__(self):\n        raise RuntimeError('no way')\nholder = [Bad()]",
            "holder",
            "`holder[0]` cannot be sent: a __main__.Bad (RuntimeError: no way)",
        ),
        ("loop = []\nloop.append(loop)\nloop.append(x for x in ())", "loop", "`loop[1]` cannot be sent: a generator"),
    ],
)
def test_what_cannot_be_pickled_is_named_before_anything_runs(
    notebook: NotebookKernel, setup: str, name: str, expected: str
) -> None:
    run(notebook, setup)
    text = failure(notebook, f"%%gpu\nprint('ran')\n{name}")
    assert f"NotPicklableError: {expected}" in text
    assert "ran" not in text
    run(notebook, "trainer = loop = None")


def test_recursive_structures(notebook: NotebookKernel) -> None:
    run(notebook, "ring = [1]\nring.append({'self': ring})")
    run(notebook, "%%gpu\nclosed = ring[1]['self'] is ring\nother = {}\nother['o'] = [other]")
    assert value(notebook, "closed, other['o'][0] is other") == "(True, True)"


def test_a_value_that_fails_to_unpickle_stops_the_cell(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        class Odd:
            def __setstate__(self, state):
                raise ValueError('not with me')
        odd = Odd(); odd.a = 1
        fine = 1
        """,
    )
    text = failure(notebook, "%%gpu\nfine\nprint('ran')\nodd")
    assert "`odd` cannot be put together in the session: ValueError: not with me" in text
    assert "'fine' in globals()" not in text
    cell = run(notebook, "%%gpu --no-sync\nprint('fine' in globals(), 'odd' in globals())")
    assert cell.text() == "False False\n"  # all or nothing


def test_a_value_that_unpickles_differently_is_sent_once(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        class Host:
            def __init__(self):
                self.made_by = os.getpid()
            def __reduce__(self):
                return Host, ()
        import os
        host = Host()
        """,
    )
    run(notebook, "%%gpu\nseen = id(host)")
    run(notebook, "first = seen")
    run(notebook, "%%gpu\nseen = id(host)")
    assert value(notebook, "first == seen") == "True"
    assert value(notebook, "host.made_by == os.getpid()") == "True"


def test_shadowed_builtins_and_unread_names(notebook: NotebookKernel) -> None:
    run(notebook, "max = 'shadow'\nunread = (i for i in [])")
    run(notebook, "%%gpu\nshadowed = max\nunread = 5\nfresh_len = len([1])")
    assert value(notebook, "shadowed, unread, fresh_len") == "('shadow', 5, 1)"
    run(notebook, "del max")
    run(notebook, "%%gpu\ndel max")


def test_a_syntax_error_sends_nothing(notebook: NotebookKernel) -> None:
    run(notebook, "import threading\nunsendable = threading.Lock()")
    text = failure(notebook, "%%gpu\nunsendable\nx = = 3")
    assert "SyntaxError" in text
    assert "cannot be sent" not in text
