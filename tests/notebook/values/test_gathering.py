"""What is sent with a cell, why not, and what is said of it: without a session."""

from __future__ import annotations

import threading
import xml
import xml.dom.minidom
from typing import Any

import pytest

from nbgpu.values.closure import NotebookNames
from nbgpu.values.errors import NotDefinedError, NotPicklableError, PythonMismatchError, StaleHandleError, TooLargeError
from nbgpu.values.gathering import Gatherer, too_large
from nbgpu.values.handle import Handle, Home
from nbgpu.values.in_place import can_update_in_place, update_in_place
from nbgpu.values.outgoing import Outgoing
from nbgpu.values.synchroniser import Synchroniser
from nbgpu.values.wish import Wish
from nbgpu_kernel.values.code_names import modules_to_import
from nbgpu_kernel.values.definitions import Definitions

HERE = Home("s1", 1, "node")


class Notebook:
    """A namespace with a synchroniser, whose session is imagined."""

    def __init__(self, code: str = "", **hidden: Any) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__main__", **hidden}
        self.home = HERE
        self.python_version = ""
        self.said: list[str] = []
        exec(code, self.namespace)
        names = NotebookNames(self.namespace, hidden)
        definitions = Definitions(self.namespace)
        self.gatherer = Gatherer(names, definitions, lambda obj: NotImplemented)
        self.stored: list[Any] = []
        self.discarded: list[str] = []
        self.synchroniser = Synchroniser(
            names,
            definitions,
            lambda: self.home,
            lambda: self.python_version,
            self,  # type: ignore[arg-type]
            lambda handle: f"value of {handle.id}",
            self.said.append,
        )

    def put(self, part: Any) -> str:
        self.stored.append(part)
        return f"blob-{len(self.stored)}"

    def discard(self, names: list[str]) -> None:
        self.discarded += names

    def prepare(self, *reads: str, **fields: Any) -> Outgoing:
        return self.synchroniser.prepare(Wish(reads=frozenset(reads), **fields))

    def accept(self, outgoing: Outgoing, **answer: Any) -> bool:
        return self.synchroniser.accepted(
            outgoing, {"nbgpu_values": {"bound": True, "overwritten": [], "separated": [], **answer}}
        )


def sent(outgoing: Outgoing) -> set[str]:
    return {name for parcel in outgoing.request["parcels"] for name in parcel["names"]}


def test_a_cell_that_reads_and_binds_nothing_has_no_request() -> None:
    notebook = Notebook("x = 1")
    assert notebook.prepare().request == {}
    assert notebook.prepare("print", "undefined", "len").request == {}
    assert Wish.of_cell(None, (), ()) == Wish()


def test_what_has_not_changed_is_not_sent_again() -> None:
    notebook = Notebook("x = [1]\nimport json\nclass C: pass\nc = C()")
    first = notebook.prepare("x", "json", "c")
    assert sent(first) == {"x", "c"}
    assert first.request["modules"] == {"json": ["json"]}
    assert len(first.request["definitions"]) == 1
    assert sent(notebook.prepare("x")) == {"x"}  # nobody has said yet that it arrived
    assert notebook.accept(first)
    second = notebook.prepare("x", "json", "c")
    assert (sent(second), second.request["modules"], second.request["definitions"]) == (set(), {}, {})
    assert set(second.request["known"]) == {"x", "json", "c"}
    notebook.namespace["x"].append(2)
    notebook.namespace["C"].added = 1
    third = notebook.prepare("x", "c")
    assert sent(third) == {"x"}
    assert len(third.request["definitions"]) == 1
    notebook.home = Home("s1", 2, "node")
    assert sent(notebook.prepare("x", "c")) == {"x", "c"}


def test_a_session_that_has_something_else_gets_it_again() -> None:
    notebook = Notebook("x = [1]")
    notebook.accept(notebook.prepare("x"))
    assert not notebook.accept(notebook.prepare("x"), bound=False, stale=["x"])
    assert sent(notebook.prepare("x")) == {"x"}


def test_what_functions_read_comes_along_and_what_they_bind_comes_back() -> None:
    notebook = Notebook(
        "a = 1\nb = 2\nclass Net:\n def run(self): return helper(b)\n"
        "def helper(v):\n global counted\n counted = v\n return lambda: a\nnets = {'n': [Net()]}\nunused = 3"
    )
    gathered = notebook.gatherer.gather({"nets"}, (), {}, ())
    assert set(gathered.values) == {"nets", "helper", "a", "b"}
    assert gathered.via == {"helper": "nets", "b": "nets", "a": "helper"}
    assert gathered.binds == ["counted"]
    assert notebook.prepare("nets").request["outputs"] == ["counted"]


def test_hidden_and_managed_names_stay() -> None:
    notebook = Notebook("_mine = 1\n_ = 2\n_3 = 4\nIn = []\nOut = {}\n_i = ''", exit=exit)
    gathered = notebook.gatherer.gather({"exit", "_", "_3", "In", "Out", "_i", "_mine", "__name__"}, (), {}, ())
    assert set(gathered.values) == {"_mine"}
    assert notebook.prepare(binds=("_x", "y", "In", "_1")).request["outputs"] == ["y"]


def test_names_that_the_person_names_must_be_there() -> None:
    with pytest.raises(NotDefinedError, match="there is no variable nowhere here"):
        Notebook().prepare(send=("nowhere",))


def test_a_class_that_holds_what_cannot_travel_is_named() -> None:
    notebook = Notebook("import threading\nclass C:\n guard = threading.Lock()\nc = C()")
    with pytest.raises(NotPicklableError, match=r"`C\.guard` cannot be sent: a lock"):
        notebook.prepare("c")


def test_the_largest_are_named_with_who_reads_them() -> None:
    error = too_large({"a": 2_000_000_000, "b": 100_000_000, "c": 5, "d": 4}, {"a": "train"})
    assert error.message() == "the cell would send 2.1 GB: `a` (2.0 GB) through `train`, `b` (100 MB), `c` (5 B)"
    assert "`%%gpu -i a -i b`" in error.hint
    assert isinstance(error, TooLargeError)


def test_another_python_is_refused_before_anything_is_sent() -> None:
    notebook = Notebook("def x(): pass\ny = [1]")
    notebook.python_version = "2.7.18"
    with pytest.raises(PythonMismatchError, match=r"the session runs Python 2\.7\.18"):
        notebook.prepare("x")
    assert notebook.prepare("y").request["plain"]
    assert notebook.prepare().request == {}


def handle(home: Home = HERE, released: list[str] | None = None) -> Handle:
    described = {"type": "torch.Tensor", "shape": [3, 4], "dtype": "float32", "device": "cuda:0", "size_bytes": 48}
    return Handle("h1", described, home, lambda each: each.id, (released if released is not None else []).append)


def test_a_handle_says_what_it_stands_for() -> None:
    assert repr(handle()) == "<handle of torch.Tensor: 3×4, float32, 48 B, on cuda:0; at node, session s1>"
    assert handle().fetch() == "h1"
    released: list[str] = []
    handle(released=released)
    assert released == ["h1"]


def test_a_handle_costs_nothing_to_send_and_is_refused_elsewhere() -> None:
    notebook = Notebook()
    notebook.namespace["h"] = handle()
    outgoing = notebook.prepare("h")
    assert sum(map(len, outgoing.buffers)) < 200
    notebook.namespace["h"] = [handle(Home("s2", 1, "node"))]
    with pytest.raises(StaleHandleError, match="in another session"):
        notebook.prepare("h")
    notebook.namespace["h"] = handle(Home("s1", 0, "node"))
    with pytest.raises(StaleHandleError, match="fresh kernel"):
        notebook.prepare("h")


def test_submodules_that_are_mentioned_come_along() -> None:
    assert modules_to_import(xml, {"dom", "minidom"}) == ["xml", "xml.dom", "xml.dom.minidom"]
    assert modules_to_import(xml, {"etree"})[:1] == ["xml"]  # type: ignore[index]
    assert modules_to_import(threading, ()) == ["threading"]
    made = type(xml)("made_by_hand")
    assert modules_to_import(made, ()) is None


@pytest.mark.parametrize(
    ("local", "changed"),
    [([1], [1, 2]), ({"a": 1}, {"b": 2}), ({1}, {2}), (bytearray(b"a"), bytearray(b"bc"))],
)
def test_containers_are_changed_in_place(local: Any, changed: Any) -> None:
    alias = local
    assert can_update_in_place(local, changed)
    update_in_place(local, changed)
    assert alias == changed


def test_what_is_of_another_type_is_not_changed_in_place() -> None:
    assert not can_update_in_place([1], (1, 2))
    assert not can_update_in_place("a", "b")
