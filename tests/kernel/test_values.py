"""The codec of values, and the kernel's end of their exchange, without a kernel."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbgpu_kernel.values.blob_files import BlobFiles, MissingBlobError
from nbgpu_kernel.values.definitions import Definitions
from nbgpu_kernel.values.encoding import OUT_OF_BAND_BYTES, encode
from nbgpu_kernel.values.exchange import (
    UndecodableError,
    content_digest,
    gather_definitions,
    group_by_sharing,
    load,
    pack_definitions,
)
from nbgpu_kernel.values.objects import Objects, describe
from nbgpu_kernel.values.packing import INLINE_BYTES, Packer, Unpacker
from nbgpu_kernel.values.session_values import SessionValues, StaleValuesError
from nbgpu_kernel.values.tensors import ValueTooLargeError


class Side:
    """One process: its namespace, its classes."""

    def __init__(self) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
        self.definitions = Definitions(self.namespace)

    def run(self, code: str) -> None:
        exec(code, self.namespace)

    def send(self, name: str, other: Side, store: BlobFiles | Memory | None = None) -> Any:
        """Sends a variable to another side and binds it there."""
        encoded = encode((self.namespace[name],), self.definitions)
        packer = Packer()
        message = {
            "definitions": pack_definitions(gather_definitions(encoded.classes, self.definitions), {}, packer),
            "parcels": [{"names": [name], **packer.add(encoded)}],
        }
        store = store or Memory()
        places, buffers = packer.finish(store.lend)
        unpacker = Unpacker(places, buffers, store.map)
        other.namespace.update(load(message, unpacker, other.definitions, {}))
        return other.namespace[name]


class Memory:
    """A store that is no folder."""

    def __init__(self) -> None:
        self._parts: list[memoryview] = []

    def lend(self, part: Any) -> str:
        self._parts.append(memoryview(bytearray(b"".join(part))))
        return str(len(self._parts) - 1)

    def map(self, name: str) -> memoryview:
        return self._parts[int(name)]


def there_and_back(value: Any, store: BlobFiles | None = None) -> Any:
    here, there = Side(), Side()
    here.namespace["value"] = value
    here.send("value", there, store)
    return there.send("value", Side(), store)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.frozensets(st.integers())
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back_equal(value: Any) -> None:
    found = there_and_back(value)
    assert found == value
    assert type(found) is type(value)


@given(
    st.lists(st.integers(0, 5), max_size=3),
    st.sampled_from(["f4", "f8", "i2", "?", "c16", "U3", "M8[s]"]),
    st.booleans(),
    st.booleans(),
)
def test_arrays_come_back_equal(shape: list[int], dtype: str, transposed: bool, strided: bool) -> None:
    array = np.arange(math.prod(shape) * 1, dtype="i4").reshape(shape).astype(dtype)
    array = np.tile(array, 200) if array.ndim else array
    array = array.T if transposed else array
    array = array[::2] if strided and array.ndim else array
    found = there_and_back(array)
    assert np.array_equal(found, array)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.flags.writeable


def test_large_buffers_are_not_copied_into_the_pickle(tmp_path: Path) -> None:
    array = np.arange(INLINE_BYTES, dtype="f8")
    encoded = encode((array, b"x" * INLINE_BYTES), Definitions({}))
    assert [each.nbytes for each in encoded.buffers] == [array.nbytes]
    assert any(len(segment) == INLINE_BYTES for segment in encoded.segments)
    assert sum(len(segment) for segment in encoded.segments) < INLINE_BYTES + 1000
    found = there_and_back([array, b"x" * INLINE_BYTES, bytearray(INLINE_BYTES)], BlobFiles(tmp_path))
    found[0][0] = 7  # a mapped file, of which nobody else sees the change
    assert np.array_equal(found[0][1:], array[1:])
    assert found[1:] == [b"x" * INLINE_BYTES, bytearray(INLINE_BYTES)]
    assert there_and_back(array, BlobFiles(tmp_path))[0] == 0


def test_read_only_arrays_stay_so() -> None:
    array = np.ones(OUT_OF_BAND_BYTES)
    array.flags.writeable = False
    assert not there_and_back(array).flags.writeable


def test_tensors() -> None:
    base = torch.arange(4096, dtype=torch.float32).reshape(64, 64)
    values = {
        "bf16": base.to(torch.bfloat16),
        "transposed": base.t(),
        "strided": base[::3, 1::2],
        "slice": base[3:4],
        "zero": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "grad": torch.ones(5, requires_grad=True),
        "complex": torch.ones(3, dtype=torch.complex64).conj(),
        "sparse": torch.eye(3).to_sparse(),
        "parameter": torch.nn.Parameter(base.clone()),
        "expanded": torch.ones(1).expand(4, 5),
    }
    found = there_and_back(values)
    for name, tensor in values.items():
        assert torch.equal(found[name].to_dense(), tensor.to_dense()), name
        assert found[name].dtype == tensor.dtype
        assert found[name].requires_grad == tensor.requires_grad
        assert type(found[name]) is type(tensor)


def test_tensors_where_another_device_is_the_default() -> None:
    tensor = torch.ones(2000)
    torch.set_default_device("meta")
    try:
        found = there_and_back([tensor, torch.nn.Parameter(tensor[:3])])
    finally:
        torch.set_default_device(None)
    assert torch.equal(found[0], tensor)
    assert found[1].tolist() == [1, 1, 1]


def test_tensors_that_share_a_storage_go_on_sharing_it() -> None:
    whole = torch.zeros(4096)
    tagged = torch.zeros(3)
    tagged.note = "kept"
    shared, view, other = there_and_back([whole, whole[:3000], tagged])
    shared[0] = 9
    assert view[0] == 9
    assert other.note == "kept"
    # A small view of a large storage travels alone.
    assert encode(torch.zeros(1_000_000)[:10], Definitions({})).size_bytes < 2000


def test_cuda_tensors_are_not_fetched_beyond_the_limit() -> None:
    meta = torch.empty(10, device="meta")
    assert there_and_back(meta).device.type == "meta"
    with pytest.raises(ValueTooLargeError):
        encode(torch.ones(100_000), Definitions({}), total_limit_bytes=1000)


def test_functions_see_the_globals_of_the_side_that_they_are_on() -> None:
    here, there = Side(), Side()
    here.run(
        "def fact(n): return 1 if n < 2 else n * fact(n - 1)\n"
        "def pair():\n n = 0\n def up():\n  nonlocal n\n  n += 1\n def get():\n  return n, g\n return up, get\n"
        "two = pair()\ng = 'here'"
    )
    here.send("fact", there)
    here.send("two", there)
    there.run("g = 'there'\ntwo[0]()\nseen = two[1]()\nsix = fact(3)")
    assert there.namespace["seen"] == (1, "there")
    assert there.namespace["six"] == 6
    assert here.namespace["two"][1]() == (0, "here")


def test_classes_that_refer_to_each_other_keep_their_identity() -> None:
    here, there = Side(), Side()
    here.run(
        "class A:\n def other(self): return B()\n def me(self): return super().__hash__() == object.__hash__(self)\n"
        "class B(A):\n twin = A\n"
        "A.friend = B\na = A()\nclass Sub(B):\n x: int = 3\nsub = Sub()"
    )
    a, sub = here.send("a", there), here.send("sub", there)
    assert type(sub).__mro__[2] is type(a)
    assert type(a).friend is type(sub).__mro__[1]
    assert a.me()
    there.run("both = [a, sub, type(sub)]")
    found = there.send("both", here)
    assert [type(found[0]), type(found[1]), found[2]] == [
        here.namespace["A"],
        here.namespace["Sub"],
        here.namespace["Sub"],
    ]


def test_digests_tell_changes_and_nothing_else() -> None:
    side = Side()
    side.run("class C: pass\nc = C(); c.x = [1]\ndef f(): return c")
    digests = [content_digest(encode(side.namespace[name], side.definitions)) for name in ("c", "c", "f", "f")]
    assert digests[0] == digests[1]
    assert digests[2] == digests[3]
    side.run("c.x.append(2)")
    assert content_digest(encode(side.namespace["c"], side.definitions)) != digests[0]
    large = np.zeros(3 << 20)
    before = content_digest(encode(large, side.definitions))
    large[-1] = 1
    assert content_digest(encode(large, side.definitions)) != before


def test_values_that_share_are_one_group() -> None:
    shared = [1]
    values = {"a": [shared], "b": {"k": shared}, "c": [2], "d": "text", "e": "text", "f": (shared,)}
    encoded = {name: encode((each,), Definitions({}), with_memo=True) for name, each in values.items()}
    groups = {frozenset(each) for each in group_by_sharing(encoded)}
    assert groups == {frozenset("abf"), frozenset("c"), frozenset("d"), frozenset("e")}


def test_a_pickle_beyond_its_limit_is_given_up() -> None:
    with pytest.raises(ValueTooLargeError):
        encode([str(i) for i in range(100_000)], Definitions({}), limit_bytes=10_000)
    encode(np.zeros(100_000), Definitions({}), limit_bytes=10_000)


def test_blobs_are_whole_or_not_there(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path / "blobs")
    name = files.lend([b"ab", memoryview(b"cd"), bytearray(5 << 20)])
    mapped = files.map(name)
    assert bytes(mapped[:5]) == b"abcd\0"
    for wrong in (name, "sha256:../../etc/passwd", "xxh3:1", "", "md5:1"):
        with pytest.raises(MissingBlobError):
            files.map(wrong)

    def failing() -> Any:
        yield b"begun"
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        files.lend(failing())
    files.discard(files.lend([b"untaken"]))
    assert list((tmp_path / "blobs").iterdir()) == []


def test_blobs_of_the_store_can_be_mapped_again(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    for name in ("sha256:" + "0" * 64, "xxh3:" + "0" * 32):
        (tmp_path / name.replace(":", "-")).write_bytes(b"kept")
        files.map(name)[0] = ord("c")
        assert bytes(files.map(name)) == b"kept"
        files.discard(name)
        assert bytes(files.map(name)) == b"kept"


def test_what_nobody_takes_is_removed_in_the_end(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    forgotten, fresh = files.lend([b"forgotten"]), files.lend([b"fresh"])
    os.utime(tmp_path / forgotten.replace(":", "-"), (0, 0))
    last = files.lend([b"last"])
    assert {each.name for each in tmp_path.iterdir()} == {each.replace(":", "-") for each in (fresh, last)}


def test_what_is_lent_is_gone_once_it_is_taken(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    name = files.lend([b"ab", memoryview(b"cd")])
    taken = files.map(name)
    assert list(tmp_path.iterdir()) == []
    taken[0] = ord("x")
    assert bytes(taken) == b"xbcd"
    with pytest.raises(MissingBlobError):
        files.map(name)


class Unloadable:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def request(values: dict[str, Any], **fields: Any) -> tuple[dict[str, Any], list[bytes]]:
    packer = Packer()
    parcels = [{"names": [name], **packer.add(encode((value,), Definitions({})))} for name, value in values.items()]
    places, buffers = packer.finish(Memory().lend)
    tokens = {name: f"t-{name}" for name in values}
    return {"parcels": parcels, "places": places, "tokens": tokens, "limit_bytes": 1000, **fields}, buffers


def session_values(**namespace: Any) -> tuple[SessionValues, dict[str, Any]]:
    return SessionValues(namespace, {}, None), namespace


def test_binding_is_all_or_nothing() -> None:
    session, namespace = session_values(a="old")
    with pytest.raises(UndecodableError) as caught:
        session.bind(*request({"a": 1, "b": Unloadable(), "c": 3}), "me")
    assert caught.value.name == "b"
    assert namespace == {"a": "old"}
    with pytest.raises(UndecodableError, match="ModuleNotFoundError"):
        session.bind({"modules": {"m": ["no_such_module"]}, "tokens": {"m": "t"}}, [], "me")
    assert namespace == {"a": "old"}


def test_a_client_that_counts_on_what_is_not_there_is_told() -> None:
    session, namespace = session_values()
    session.bind(*request({"a": 1}), "me")
    assert session.bind({"known": {"a": "t-a"}}, [], "me").overwritten == []
    with pytest.raises(StaleValuesError):
        session.bind({"known": {"a": "another"}}, [], "me")
    del namespace["a"]
    with pytest.raises(StaleValuesError):
        session.bind({"known": {"a": "t-a"}}, [], "me")
    blob = {"parcels": [{"names": ["a"], "pickle": 0}], "places": [{"blob": "sha256:" + "0" * 64, "bytes": 1}]}
    with pytest.raises(StaleValuesError):
        session.bind({**blob, "tokens": {"a": "t"}}, [], "me")
    assert namespace == {}


def test_what_was_changed_over_there_is_told_when_it_is_overwritten() -> None:
    session, namespace = session_values(unknown=0)
    assert session.bind(*request({"a": [1], "b": 2, "unknown": 1}), "me").overwritten == ["unknown"]
    namespace["a"].append(2)
    assert session.bind(*request({"a": [1], "b": 2}), "me").overwritten == ["a"]


def test_what_a_cell_bound_and_changed_is_collected() -> None:
    session, namespace = session_values()
    session.bind(*request({"a": [1], "b": {"k": 1}, "c": 3}), "me")
    asked = {
        "outputs": ["new", "large", "gen", "module", "c", "missing"],
        "watched": ["a", "b", "c"],
        "known": {"a": "t-a", "b": "t-b", "c": "t-c"},
        "limit_bytes": 1000,
    }
    session.bind(asked, [], "me")
    namespace["a"].append(2)
    namespace["b"] = {"k": 1}
    namespace.update(new=5, large="x" * 5000, gen=(i for i in ()), module=sys)
    content, _ = session.collect(asked, "me")
    assert sorted(name for parcel in content["parcels"] for name in parcel["names"]) == ["a", "b", "new"]
    assert content["in_place"] == ["a"]
    assert {name: each["type"] for name, each in content["handles"].items()} == {"large": "str", "gen": "generator"}
    assert content["modules"] == {"module": "sys"}
    assert content["refused"] == {}
    asked["known"] = {name: content["tokens"].get(name, f"t-{name}") for name in "abc"}
    session.bind(asked, [], "me")
    again, _ = session.collect(asked, "me")
    assert again["parcels"] == []
    session.bind(asked, [], "me")
    forced, _ = session.collect({**asked, "force": ["large", "gen"]}, "me")
    assert [parcel["names"] for parcel in forced["parcels"]] == [["large"]]
    assert list(forced["refused"]) == ["gen"]


def test_objects_live_as_long_as_their_handles() -> None:
    objects = Objects()
    thing = object()
    first = objects.keep(thing, "me")
    assert objects.keep(thing, "me") == first
    objects.release([first, "unknown"], "me")
    assert objects.by_id == {}
    assert objects.keep(thing, "me") != first


def test_descriptions() -> None:
    assert describe(np.ones((2, 3)))["shape"] == [2, 3]
    model = torch.nn.Linear(10, 10)
    assert describe(model) == {
        "type": "torch.nn.modules.linear.Linear",
        "dtype": "torch.float32",
        "device": "cpu",
        "size_bytes": 440,
    }

    class Hostile:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    assert "Hostile" in describe(Hostile())["type"]
