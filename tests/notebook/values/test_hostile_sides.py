"""A client that sends nonsense with a cell, and a session that answers with it: nothing is lost or done by it."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fakes.two_sides import TwoSides
from nbgpu.errors import NoSuchBlobError
from nbgpu.values.errors import SessionAnswerError
from nbgpu.values.handle import Handle
from nbgpu.values.transfer import Transfer
from nbgpu.values.wish import Wish
from nbgpu_kernel.values.blob_files import BlobFiles
from nbgpu_kernel.values.exchange import UndecodableError
from nbgpu_kernel.values.session_values import StaleValuesError

LARGE = 1_000_000
REMOVED = object()


@pytest.fixture
def sides(tmp_path: Path) -> TwoSides:
    return TwoSides(tmp_path / "blobs")


def changed(message: Any, path: str, value: Any) -> Any:
    """Returns the message with something else at a path such as `parcels.0.names`."""
    made = found = copy.deepcopy(message)
    *above, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in above:
        found = found[part]
    if value is REMOVED:
        del found[last]
    else:
        found[last] = value
    return made


# -- Requests ------------------------------------------------------------------------------------------------------


class SentError(Exception):
    """Instead of an answer."""


def request_of(sides: TwoSides) -> tuple[dict[str, Any], list[Any]]:
    """Returns what a cell is sent with that reads one value of every kind."""
    sides.local("import numpy as np\nimport math\nclass C: pass\nx, y, c = [1], np.zeros(1000), C()")
    taken: list[Any] = []

    def bind(request: Any, buffers: Any, client: str) -> None:
        taken.append((copy.deepcopy(request), [bytes(each) for each in buffers]))
        raise SentError

    real, sides.values.bind = sides.values.bind, bind  # type: ignore[method-assign, assignment]
    with pytest.raises(SentError):
        sides.gpu("x, y, c, math\nz = 1")
    sides.values.bind = real  # type: ignore[method-assign]
    return taken[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("parcels", 5), ("parcels", None), ("parcels", {}), ("parcels.0", "x"), ("parcels.0.names", "x"),
        ("parcels.0.names", []), ("parcels.0.names", [1]), ("parcels.0.names", ["q"]), ("parcels.0.pickle", -1),
        ("parcels.0.pickle", 10**30), ("parcels.0.pickle", 99), ("parcels.0.pickle", "0"),
        ("parcels.0.pickle", REMOVED), ("parcels.0.names", REMOVED), ("parcels.0.buffers", [[0, 0, 1]]),
        ("parcels.0.buffers", [[99, 0, 1, 0]]), ("parcels.0.buffers", [[0, -5, 1, 0]]), ("parcels.0.buffers", 3),
        ("parcels.0.pickle", True), ("places", REMOVED), ("places", [1]), ("places", []),
        ("places.0", {}), ("places.0", {"inline": 99}), ("places.0", {"inline": -1}), ("places.0", {"inline": None}),
        ("places.0", {"blob": 5}), ("definitions", []), ("definitions.k", {"name": "C", "pickle": 99}),
        ("definitions.k", {"pickle": 0}), ("definitions.k", None), ("tokens", []), ("tokens", {}),
        ("tokens.x", 5), ("tokens.extra", "notebook 1"), ("known", [1]), ("known", {"x": 5}), ("modules", {"m": 5}),
        ("modules", {"math": []}), ("modules", ["os"]), ("outputs", "z"), ("outputs", [["z"]]), ("force", 5),
        ("fetch", {}), ("by_handle", [None]), ("watched", 1), ("mutated", [1]), ("release", 7), ("release", [[]]),
        ("limit_bytes", -1), ("limit_bytes", 10**40), ("limit_bytes", "16"), ("notebook", 5), ("plain", "no"),
        ("certain", 1), ("lacks", {"z": 1}),
    ],
)  # fmt: skip
def test_a_request_that_is_none_is_refused_and_binds_nothing(sides: TwoSides, path: str, value: Any) -> None:
    request, buffers = request_of(sides)
    before = dict(sides.there)
    with pytest.raises(UndecodableError):
        sides.values.bind(changed(request, path, value), buffers, "evil")
    assert sides.there == before
    sides.values.bind(request, buffers, "good")
    assert sides.there["x"] == [1]


@pytest.mark.parametrize("request_", [[], 5, "values", [[]], True])
def test_a_request_that_is_no_object(sides: TwoSides, request_: Any) -> None:
    with pytest.raises(UndecodableError):
        sides.values.bind(request_, [], "evil")


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "lent:" + "0" * 32,
        "lent:../../secret",
        "sha256:" + "0" * 64,
        "xxh3:\0",
        "",
        "lent:\n",
    ],
)
def test_only_names_of_the_store_are_looked_for_in_it(sides: TwoSides, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"\x80\x05K\x01\x85.")
    request, buffers = request_of(sides)
    with pytest.raises(StaleValuesError):
        sides.values.bind(changed(request, "places.0", {"blob": name}), buffers, "evil")
    assert "x" not in sides.there


def test_a_pickle_that_is_none_is_refused(sides: TwoSides) -> None:
    request, buffers = request_of(sides)
    before = dict(sides.there)
    for content in (b"", b"\xff" * 10, buffers[0][:-3], b"\x80\x05K\x01.", b"\x80\x05)."):
        with pytest.raises(UndecodableError):
            sides.values.bind(request, [content, *buffers[1:]], "evil")
        assert sides.there == before


# -- Answers -------------------------------------------------------------------------------------------------------


def answered(sides: TwoSides, path: str, value: Any) -> None:
    """Has what comes back next have something else at a path."""
    collect = sides.values.collect

    def nonsense(request: Any, client: str) -> Any:
        sides.values.collect = collect  # type: ignore[method-assign]
        content, parts = collect(request, client)
        return changed(json.loads(json.dumps(content)), path, value), parts

    sides.values.collect = nonsense  # type: ignore[method-assign]


SETUP = "class C: pass\nc = C(); c.v = 1; alias = c; items = [1]"
CELL = "c.v = 2; items.append(2); made = [c, items]; lock = __import__('threading').Lock()"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("parcels", 5), ("parcels", REMOVED), ("parcels.0.names", 7), ("parcels.0.pickle", 10**20),
        ("parcels.0.pickle", 99), ("parcels.0.buffers", [[0]]), ("places", {}), ("places.0", {"inline": 50}),
        ("places.0", {"blob": "lent:" + "0" * 32}), ("places.0", {"blob": "../x", "bytes": -1}), ("in_place", 5),
        ("in_place", REMOVED), ("modules", ["os"]), ("modules", {"made": 5}), ("left", {"c": {}}), ("left", [1]),
        ("handles", {"lock": {}}), ("handles", {"lock": {"id": 5, "type": "x"}}), ("handles.lock.shape", "5"),
        ("handles.lock.size_bytes", "huge"), ("refused", [1]), ("tokens", {"c": 1}), ("tokens", REMOVED),
        ("python", "3.11"), ("definitions", 1), ("plain", 1),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_changes_nothing(sides: TwoSides, path: str, value: Any) -> None:
    sides.local(SETUP)
    before = dict(sides.here)
    answered(sides, path, value)
    with pytest.raises(SessionAnswerError, match="cannot be understood"):
        sides.gpu(CELL)
    assert sides.here == before
    assert sides.here["c"].v == 1
    sides.gpu("c.v += 1; items")
    assert sides.here["alias"].v == sides.there["c"].v


@pytest.mark.parametrize(
    "reply",
    [
        5, [], {}, {"bound": 1}, {"bound": True}, {"bound": True, "overwritten": "x", "separated": []},
        {"bound": True, "overwritten": [], "separated": [["a"]]}, {"bound": False}, {"bound": False, "stale": 5},
        {"bound": False, "stale": [[]]}, {"bound": False, "name": 5, "ename": "", "evalue": ""},
    ],
)  # fmt: skip
def test_a_reply_that_is_none(sides: TwoSides, reply: Any) -> None:
    sides.local("x = 1")
    outgoing = sides.synchroniser.prepare(_reads("x"))
    with pytest.raises(SessionAnswerError):
        sides.synchroniser.accepted(outgoing, {"nbgpu_values": reply})


def _reads(name: str) -> Wish:
    return Wish(reads=frozenset([name]))


def test_what_nobody_asked_for_is_not_unpickled(sides: TwoSides) -> None:
    sides.gpu("x = 1")
    _, parts = sides.values.collect({"force": ["x"], "limit_bytes": 100}, "notebook-1")

    class Message:
        buffers = parts

        def content(self) -> Any:
            raise AssertionError("looked at")

    outgoing = sides.synchroniser.prepare(_reads("nothing"))
    assert outgoing.request == {}
    assert sides.synchroniser.receive(Message(), outgoing).values == {}  # type: ignore[arg-type]


def test_a_module_that_no_name_is_bound_to_is_not_imported(sides: TwoSides, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr("nbgpu.values.synchroniser.find_module", looked.append)
    answered(sides, "modules.other", "this")
    sides.gpu("x = 1")
    assert looked == []
    assert sides.here["x"] == 1


def test_names_that_were_not_asked_for_are_not_bound(sides: TwoSides) -> None:
    sides.local("mine = 'kept'")
    answered(sides, "parcels.0.names", ["mine"])
    sides.gpu("x = 1")
    assert sides.here["mine"] == "kept"


def test_fewer_values_than_names_are_handles(sides: TwoSides) -> None:
    answered(sides, "parcels.0.names", ["x", "y", "z"])
    sides.gpu("x = [1]")
    assert isinstance(sides.here["x"], Handle)


@pytest.mark.parametrize("size_bytes", [1, LARGE * 2, 10**17, 1 << 62])
def test_sizes_that_lie(sides: TwoSides, tmp_path: Path, size_bytes: int) -> None:
    transfer = Transfer(None, tmp_path / "blobs")  # type: ignore[arg-type]
    sides.synchroniser._transfer = transfer
    collect = sides.values.collect

    def lie(request: Any, client: str) -> Any:
        content, parts = collect(request, client)
        for place in content["places"]:
            if "blob" in place:
                place["bytes"] = size_bytes
        return content, parts

    sides.values.collect = lie  # type: ignore[method-assign]
    sides.gpu(f"x = bytes({LARGE})")
    assert isinstance(sides.here["x"], Handle)
    del sides.values.collect  # type: ignore[method-assign]
    sides.gpu("n = len(x)")
    assert sides.here["n"] == LARGE


class Pool:
    """Has one blob."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks
        self.taken = 0

    async def get_blob(self, digest: str) -> Any:
        for chunk in self.chunks:
            self.taken += 1
            yield chunk


@pytest.mark.parametrize("chunks", [(b"12",), (b"12", b"3456"), (b"12345",), (), (b"1234", b"5", b"6" * 9, b"7")])
def test_a_blob_of_another_size_than_announced_is_refused(chunks: tuple[bytes, ...]) -> None:
    pool = Pool(*chunks)
    with pytest.raises(NoSuchBlobError, match="4 were announced"):
        Transfer(pool, None).get("xxh3:" + "0" * 32, 4)  # type: ignore[arg-type]
    assert pool.taken <= 2, "the rest of what is too long is not waited for"


def test_there_is_no_room_for_what_is_announced() -> None:
    for size_bytes in (1 << 62, 1 << 70):
        with pytest.raises(MemoryError):
            Transfer(Pool(b"x"), None).get("xxh3:" + "0" * 32, size_bytes)  # type: ignore[arg-type]


def test_a_file_in_the_store_that_was_cut(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    name = files.lend([b"1234"])
    os.truncate(tmp_path / name.replace(":", "-"), 2)
    with pytest.raises(NoSuchBlobError, match="2 bytes, 4 were announced"):
        Transfer(None, tmp_path).get(name, 4)  # type: ignore[arg-type]


# -- Between the two -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_object_that_was_changed_there_is_itself_again_when_the_rest_fails(
    sides: TwoSides, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*_: Any) -> None:
        raise error

    sides.local(SETUP)
    for place in ("note_definitions", "find_module", "can_update_in_place"):
        with monkeypatch.context() as patch:
            patch.setattr(f"nbgpu.values.synchroniser.{place}", fail)
            try:
                sides.gpu("import math as m\nc.v = 5; items.append(3)")
            except error:
                assert vars(sides.here["c"]) == {"v": 1}, place
                assert sides.here["items"] == [1]
            else:
                assert place == "note_definitions", "which is not needed"
                sides.local("c.v = 1; del items[1:]")


def test_an_interrupt_after_all_is_bound_leaves_it_bound(sides: TwoSides, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    sides.local(SETUP)
    monkeypatch.setattr(sides.synchroniser._ledger, "note", fail)
    with pytest.raises(KeyboardInterrupt):
        sides.gpu(CELL)
    assert vars(sides.here["c"]) == {"v": 2}
    assert sides.here["made"][0] is sides.here["c"] is sides.here["alias"]
    monkeypatch.undo()
    sides.gpu("c.v += 1")
    assert sides.here["alias"].v == 3
