"""Which variables go to ranks that stay: what a cell reads and they lack, and nothing that is their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nbgpu_kernel.ranks.cell_values import CellNames, CellValues, names_of_cell, read_cell_values
from nbgpu_kernel.ranks.payload import UnsendableError
from nbgpu_kernel.values.definitions import Definitions


class Side:
    """A session's kernel with ranks 1 and 2, whose cells are plain Python."""

    def __init__(self, folder: Path) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.tokens: dict[str, str] = {}
        self.values = CellValues(Definitions(self.namespace), {}, self.tokens.get)
        self.ranks: dict[int, dict[str, Any]] = {}
        self._file = folder / "values"
        for rank in (1, 2):
            self.make(rank)

    def make(self, rank: int) -> None:
        self.ranks[rank] = {"__name__": "__main__", "rank": rank}
        self.values.welcome(rank)

    def run(
        self, code: str, ranks: tuple[int, ...] = (0, 1, 2), reads: tuple[str, ...] = (), comes_back: str = ""
    ) -> dict[int, set[str]]:
        """Runs a cell, of which a value comes back to the notebook; returns the names that went to each rank."""
        names = names_of_cell(code)
        others = [rank for rank in ranks if rank]
        selection = self.values.select(names, reads, others)
        if not selection.is_empty:
            selection.write(self._file, Definitions(self.namespace))
        self.values.begin(selection)
        for rank in others:
            if selection.taken_by[rank]:
                read_cell_values(self._file, Definitions(self.ranks[rank]), selection.taken_by[rank])
            exec(code, self.ranks[rank])
        if 0 in ranks:
            exec(code, self.namespace)
        if comes_back:
            self.tokens[comes_back] = f"session:{len(self.tokens)}"
        self.values.end(names, ranks)
        return {rank: set(taken) for rank, taken in selection.taken_by.items()}

    def run_plain(self, code: str) -> None:
        exec(code, self.namespace)
        self.values.forget_replaced()


def both(*names: str) -> dict[int, set[str]]:
    return {1: set(names), 2: set(names)}


def nothing() -> dict[int, set[str]]:
    return both()


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


@pytest.mark.parametrize(
    ("code", "reads", "binds"),
    [
        ("y = x", {"x"}, {"y"}),
        ("x = 1\ny = x", set(), {"x", "y"}),
        ("y = x\nx = 1", {"x"}, {"x", "y"}),
        ("x += 1", {"x"}, {"x"}),
        ("def f():\n    global g\n    g = x", {"x"}, {"f", "g"}),
        ("y = [x for _ in z]", {"x", "z"}, {"y"}),
        ("import os.path", set(), {"os"}),
        ("y = await x", {"x"}, {"y"}),
        ("del x", {"x"}, set()),
        ("not a cell (", set(), set()),
    ],
)
def test_the_names_of_a_cell(code: str, reads: set[str], binds: set[str]) -> None:
    found = names_of_cell(code)
    assert (found.reads, found.binds) == (reads, binds)


def test_what_a_cell_reads_goes_once(side: Side) -> None:
    side.run_plain("import math\nx = [1]\nfactor = 2\ndef f(v):\n    return math.floor(v) * factor")
    assert side.run("y = f(x[0])") == both("x", "f", "factor", "math")
    assert side.ranks[1]["y"] == 2
    assert side.run("y = f(x[0])") == nothing()
    side.run_plain("factor = 5")
    assert side.run("y = f(x[0])") == both("factor")
    assert side.ranks[2]["y"] == 5


def test_what_a_cell_bound_is_each_ranks_own_until_it_is_bound_anew(side: Side) -> None:
    side.namespace["rank"] = 0
    side.run_plain("x = 0")
    side.run("x = rank * 10", reads=())
    # In rank 0 it is bound to what it was bound to before.
    assert side.namespace["x"] == 0
    side.run("y = x + 1")
    assert (side.ranks[1]["y"], side.ranks[2]["y"]) == (1, 1), "`rank` came from the kernel, once"
    side.run_plain("x = 7")
    assert side.run("y = x") == both("x")


def test_a_change_in_place_by_a_plain_cell_goes_and_one_on_the_ranks_does_not(side: Side) -> None:
    side.run_plain("items = []")
    side.tokens["items"] = "notebook:1"
    side.run("items.append(1)", comes_back="items")
    assert side.run("items") == nothing()
    side.run_plain("settings = {}")
    side.tokens["settings"] = "notebook:2"
    side.run("settings")
    side.run_plain("settings['a'] = 1")
    side.tokens["settings"] = "session:2"
    assert side.run("settings") == both("settings")
    assert side.ranks[1]["settings"] == {"a": 1}


def test_a_rank_that_is_made_anew_gets_what_is_not_the_ranks_own(side: Side) -> None:
    side.run_plain("x = [1]")
    side.run("import math\nown = x + x\ndef f():\n    return math.pi")
    side.make(2)
    with pytest.raises(NameError):
        side.run("y = x, own, f()")
    assert "own" not in side.ranks[2], "rank 0's is not that of rank 2"
    assert side.ranks[2]["x"] == [1]
    assert side.ranks[2]["f"]() == side.ranks[1]["f"]()


def test_ranks_that_do_not_run_a_cell_get_what_it_read_later(side: Side) -> None:
    side.run_plain("x = [1]")
    assert side.run("x", ranks=(0, 1)) == {1: {"x"}}
    assert side.run("x") == {1: set(), 2: {"x"}}
    side.run("z = 1", ranks=(1,))
    assert "z" not in side.namespace
    assert side.run("x", ranks=(1, 2)) == nothing()


def test_what_cannot_be_sent_is_named_with_its_reader(side: Side) -> None:
    side.run_plain("numbers = (n for n in 'ab')\ndef f():\n    return next(numbers)")
    with pytest.raises(UnsendableError, match="`numbers`, which `f` reads, cannot be sent to the ranks: TypeError"):
        side.run("f()")
    with pytest.raises(UnsendableError, match="`numbers`, which the cell reads"):
        side.run("next(numbers)")
    side.run("numbers = 3\nnumbers + 1", reads=("numbers",))
    assert side.ranks[1]["numbers"] == 3


def test_nothing_is_kept_alive_that_was_replaced(side: Side) -> None:
    import weakref

    class Large:
        pass

    side.namespace["large"] = kept = [Large()]
    reference = weakref.ref(kept[0])
    del kept
    side.values.begin(side.values.select(CellNames(), (), [1]))
    side.values.end(CellNames(binds=frozenset({"large"})), (0, 1))
    side.run_plain("large = None")
    assert reference() is None
