"""What goes wrong with values between a notebook and its session: what the person reads, and what nobody lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbgpu_protocol.discovery import read_record
from notebook_kernel import NotebookKernel, failure, run, value


@pytest.fixture(autouse=True)
def attached(notebook: NotebookKernel) -> Iterator[None]:
    """Each test has a session, and ends with nothing of its own in the node's store."""
    run(notebook, "%gpu attach H100")
    run(notebook, "%%gpu --no-sync\nran = False")
    yield
    run(notebook, "%gpu attach H100")
    run(notebook, "%gpu restart")


def assert_nothing_ran(notebook: NotebookKernel) -> None:
    cell = run(notebook, "%%gpu --no-sync\nprint(ran, sorted(n for n in globals() if n.startswith('probe')))")
    assert cell.text() == "False []\n"


def lent_files(folder: Path) -> list[str]:
    return sorted(each.name for each in (folder / "agent" / "blobs").glob("*"))


@pytest.mark.parametrize(
    ("setup", "read", "expected"),
    [
        ("probe = (i for i in [])", "probe", "`probe` cannot be sent: a generator"),
        ("import threading\nprobe = {'a': threading.RLock()}", "probe", "`probe['a']` cannot be sent: a lock"),
        (
            "class Bad:\n    def __reduce__(self):\n        raise RuntimeError('no way')\nprobe = [1, Bad()]",
            "probe",
            "`probe[1]` cannot be sent: a __main__.Bad (RuntimeError: no way)",
        ),
        (
            "class Odd:\n    def __setstate__(self, state):\n        raise ValueError('not with me')\n"
            "probe = Odd(); probe.a = 1",
            "probe",
            "`probe` cannot be put together in the session: ValueError: not with me",
        ),
        (
            "probe = lambda: 0\nfor _ in range(100_000): probe = [probe]",
            "probe",
            "`probe",
        ),
    ],
    ids=["generator", "lock", "reduce", "setstate", "depth"],
)  # fmt: skip
def test_what_cannot_travel_stops_the_cell_before_it_runs(
    notebook: NotebookKernel, setup: str, read: str, expected: str
) -> None:
    run(notebook, "probe_first = [1]")
    run(notebook, setup)
    text = failure(notebook, f"%%gpu\nran = True\nprobe_first\n{read}")
    assert expected in text
    assert_nothing_ran(notebook)
    assert value(notebook, "'ran' in globals()") == "False"
    run(notebook, "del probe, probe_first")


def test_a_closure_over_too_much_is_refused_before_it_is_pickled(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        import numpy as np
        space = np.empty(400_000_000)  # 3.2 GB that nothing touches
        def make(data):
            def probe():
                return len(data)
            return probe
        probe = make(space)
        """,
    )
    text = failure(notebook, "%%gpu\nran = True\nprobe()")
    assert "TooLargeError: the cell would send 3.2 GB: `probe` (3.2 GB)" in text
    assert "`%%gpu -i probe`; else make or load it in a `%%gpu` cell" in text
    run(notebook, "probe = make(list(range(1_000_000)) * 30)\nimport nbgpu.values.gathering as g")
    run(notebook, "limit, g.REFUSE_BYTES = g.REFUSE_BYTES, 20 << 20")
    text = failure(notebook, "%%gpu\nran = True\nprobe()")
    assert "TooLargeError: the cell would send more than 21 MB: `probe` (more than 21 MB)" in text
    assert_nothing_ran(notebook)
    run(notebook, "g.REFUSE_BYTES = limit\ndel probe, space")


def test_a_syntax_error_sends_nothing(notebook: NotebookKernel) -> None:
    run(notebook, "probe = [1]")
    text = failure(notebook, "%%gpu\nran = True\nprobe\nx = = 3")
    assert "SyntaxError" in text
    assert_nothing_ran(notebook)
    run(notebook, "del probe")


def test_a_cell_that_fails_late_changes_nothing_here(notebook: NotebookKernel) -> None:
    run(notebook, "kept, grown, alias = 1, [1], {'k': 1}\nseen = grown")
    text = failure(notebook, "%%gpu\nkept = 2\nfresh = 3\ngrown.append(2)\nalias['k'] = 2\n1 / 0")
    assert "ZeroDivisionError" in text
    assert value(notebook, "kept, grown, alias, seen is grown, 'fresh' in globals()") == (
        "(1, [1], {'k': 1}, True, False)"
    )


def test_handles_of_sessions_that_are_gone(notebook: NotebookKernel) -> None:
    run(notebook, "%%gpu\nimport threading\nlock = threading.Lock()")
    run(notebook, "%gpu restart")
    assert "the session has a fresh kernel since" in failure(notebook, "%%gpu\nran = True\nlock")
    run(notebook, "%%gpu\nimport threading\nlock = threading.Lock()")
    run(notebook, "%gpu close")
    assert "is gone: " in failure(notebook, "lock.fetch()")
    run(notebook, "%gpu attach H100")
    assert "is in another session than" in failure(notebook, "%%gpu\nran = True\nlock")
    run(notebook, "del lock")


def test_an_interrupt_while_a_value_is_fetched_binds_nothing(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        import nbgpu.values.transfer as t
        took = t.Transfer.get
        def interrupted(*_):
            raise KeyboardInterrupt
        t.Transfer.get = interrupted
        """,
    )
    cell = notebook.run("%%gpu\nmade = bytes(1_000_000)\nsmall = 1")
    assert cell.errors[0]["ename"] == "KeyboardInterrupt"
    assert value(notebook, "'made' in globals() or 'small' in globals()") == "False"
    run(notebook, "t.Transfer.get = took")
    run(notebook, "%%gpu\nmade = made\nsmall = 1")
    assert value(notebook, "len(made), small") == "(1000000, 1)"


def test_an_interrupt_while_a_value_is_sent_sends_nothing(notebook: NotebookKernel, own_folders: Path) -> None:
    run(
        notebook,
        """
        import os, signal
        import nbgpu_kernel.values.blob_files as f
        wrote = f._write_all
        def interrupted(file, view):
            wrote(file, view[: len(view) // 2])
            os.kill(os.getpid(), signal.SIGINT)
            wrote(file, view[len(view) // 2 :])
        f._write_all = interrupted
        probe = bytes(3_000_000)
        """,
    )
    cell = notebook.run("%%gpu\nran = True\nprobe")
    assert cell.errors[0]["ename"] == "KeyboardInterrupt"
    assert lent_files(own_folders) == []
    assert_nothing_ran(notebook)
    run(notebook, "f._write_all = wrote")
    run(notebook, "%%gpu\nlength = len(probe)")
    assert value(notebook, "length") == "3000000"
    run(notebook, "del probe")


def test_values_survive_the_end_of_the_agent_while_their_cell_runs(
    notebook: NotebookKernel, own_folders: Path, tmp_path: Path
) -> None:
    run(notebook, "kept = [1]")
    record = read_record(own_folders / "agent")
    assert record is not None
    gate = tmp_path / "gate"

    def end_agent() -> None:
        os.kill(record.pid, signal.SIGKILL)
        gate.touch()

    cell = notebook.run(
        "%%gpu\nkept.append(2)\nlate = bytes(1_000_000)\nprint('begun', flush=True)\nimport os, time\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\nprint('done')",
        during=end_agent,
    )
    assert not cell.errors, cell.errors
    assert cell.text() == "begun\ndone\n"
    assert value(notebook, "kept, len(late)") == "([1, 2], 1000000)"
    run(notebook, "%%gpu\nkept.append(3)")
    assert value(notebook, "kept") == "[1, 2, 3]"


def test_nothing_waits_in_the_store_for_ever(notebook: NotebookKernel, own_folders: Path) -> None:
    run(notebook, "big = bytes(2_000_000)")
    run(notebook, "%%gpu\nresult = big + b'1'")
    assert value(notebook, "len(result)") == "2000001"
    assert lent_files(own_folders) == []


def test_kinds_of_definitions_reach_the_session_and_come_back(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        import abc, collections, dataclasses, enum, functools, typing
        T = typing.TypeVar('T')

        class Base(abc.ABC):
            @abc.abstractmethod
            def area(self): ...

        class Meta(type):
            def __call__(cls, *args):
                made = super().__call__(*args)
                made.tag = cls.__name__
                return made

        class Slotted:
            __slots__ = ('x', 'y')
            def __init__(self, x): self.x = x

        class Square(Base):
            def __init__(self, side): self.side = side
            def area(self): return self.side ** 2
            @property
            def double(self): return 2 * self.area()
            @staticmethod
            def unit(): return Square(1)
            @classmethod
            def of(cls, side): return cls(side)
            def __getstate__(self): return {'side': self.side, 'stated': True}

        class Special(Square):
            def area(self): return super().area() + 1

        class Box(typing.Generic[T]):
            def __init__(self, item: T): self.item = item

        class Tagged(metaclass=Meta): pass
        class Colour(enum.Flag):
            RED = 1
            BLUE = 2
        Pair = collections.namedtuple('Pair', 'a b')
        @dataclasses.dataclass(frozen=True)
        class Frozen:
            x: int = 3

        def twice(function):
            @functools.wraps(function)
            def wrapped(*args): return function(*args) * 2
            return wrapped
        @twice
        def three(): return 3
        async def later(): return 'later'
        add = functools.partial(lambda a, b: a + b, 1)
        table = {'square': lambda v: v * v, 'nested': {'cube': lambda v: v ** 3}}
        def make():
            count = [0]
            def up(): count[0] += 1; return count[0]
            def look(): return count[0]
            return up, look
        up, look = make()
        both = Colour.RED | Colour.BLUE
        things = [Special(2), Square.of(3), Slotted(4), Box(5), Tagged(), both, Pair(1, 2), Frozen()]
        """,
    )
    run(
        notebook,
        """
        %%gpu
        assert [type(t) for t in things] == [Special, Square, Slotted, Box, Tagged, Colour, Pair, Frozen]
        assert isinstance(things[0], Base) and things[0].area() == 5 and things[0].double == 10
        assert things[1].stated and Square.unit().area() == 1 and things[2].x == 4
        assert things[4].tag == 'Tagged' and Tagged().tag == 'Tagged' and Box[int](1).item == 1
        assert three() == 6 and await later() == 'later' and add(2) == 3
        assert table['square'](3) == 9 and table['nested']['cube'](2) == 8
        up(); up()
        try:
            Base()
        except TypeError:
            abstract = True
        back = list(things) + [Special(9), Colour.BLUE, Pair(3, 4), Slotted(8)]
        seen = look()
        """,
    )
    assert value(notebook, "[type(t) for t in back[8:]] == [Special, Colour, Pair, Slotted]") == "True"
    assert value(notebook, "[type(t) for t in back[:8]] == [type(t) for t in things]") == "True"
    assert value(notebook, "back[9] is Colour.BLUE, back[8].area(), back[11].x, seen, abstract") == (
        "(True, 82, 8, 2, True)"
    )
