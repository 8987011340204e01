"""Generated values: they come back equal, of their type, and share what they shared."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.two_sides import TwoSides

QUICKLY = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
DTYPES = [
    "f2", "f4", "f8", ">f8", "i1", "i8", "u2", "?", "c8", "c16", "U3", "S2", "M8[ns]", "M8[D]", "m8[s]", "O",
    [("a", "i4"), ("b", "f8", (2,))],
]  # fmt: skip


def there_and_back(value: Any) -> Any:
    """Sends a value to a session, binds it to another name there, and returns what came back."""
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        sides = TwoSides(Path(name) / "blobs")
        sides.here["value"] = value
        sides.gpu("found = [value]", bring=("found",))
        assert sides.files_left == []
        return sides.here["found"][0]


# -- Containers with sharing and cycles ----------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> list[Any]:
    """A few containers that hold each other, and themselves."""
    kinds = draw(st.lists(st.sampled_from([list, dict, set, bytearray]), min_size=1, max_size=6))
    nodes: list[Any] = [kind() for kind in kinds]
    holders = [node for node in nodes if isinstance(node, (list, dict))]
    for node in holders:
        for index in draw(st.lists(st.integers(0, len(nodes) - 1), max_size=4)):
            if isinstance(node, list):
                node.append(draw(st.sampled_from([nodes[index], (nodes[index], 1), frozenset([index])])))
            else:
                node[draw(st.sampled_from(["k", 1, (1, 2), None]))] = nodes[index]
    for node in nodes:
        if isinstance(node, set):
            node.update(draw(st.lists(st.integers() | st.text(max_size=3), max_size=3)))
        elif isinstance(node, bytearray):
            node.extend(draw(st.binary(max_size=8)))
    return nodes


def shape_of(value: Any, seen: dict[int, int] | None = None) -> Any:
    """Describes a value, each container by the number under which it was met first."""
    seen = {} if seen is None else seen
    if not isinstance(value, (list, dict, set, bytearray, tuple, frozenset)):
        return value
    if not isinstance(value, (tuple, frozenset)):
        if id(value) in seen:
            return ("seen", seen[id(value)])
        seen[id(value)] = len(seen)
    if isinstance(value, dict):
        return ("dict", [(key, shape_of(item, seen)) for key, item in value.items()])
    if isinstance(value, (set, frozenset)):
        return (type(value).__name__, frozenset(value))
    if isinstance(value, bytearray):
        return ("bytearray", bytes(value))
    return (type(value).__name__, [shape_of(item, seen) for item in value])


@QUICKLY
@given(graphs())
def test_containers_keep_what_they_share(nodes: list[Any]) -> None:
    assert shape_of(there_and_back(nodes)) == shape_of(nodes)


# -- Arrays --------------------------------------------------------------------------------------------------------


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    scale = draw(st.sampled_from([1, 400]))
    shape = (shape[0] * scale, *shape[1:]) if shape else shape
    size = int(np.prod(shape, dtype=int))
    flat: Any = np.zeros(size, dtype)
    if dtype.names is not None:
        flat["a"] = np.arange(size)
    elif dtype.kind == "O":
        flat[:] = [str(i) if i % 2 else None for i in range(size)]
    elif dtype.kind not in "?":
        flat = (np.arange(size) % 100).astype("i8").astype(dtype)
    array = flat.reshape(shape, order=draw(st.sampled_from("CF")))
    if array.ndim and draw(st.booleans()):
        array = array[:: draw(st.sampled_from([2, -1, 3]))]
    if draw(st.booleans()):
        array = array.T
    if draw(st.booleans()) and array.ndim:
        array = np.broadcast_to(array, (2, *array.shape))
    if draw(st.booleans()):
        array = array.view()
        array.flags.writeable = False
    return array


@QUICKLY
@given(arrays())
def test_arrays_of_every_kind(array: Any) -> None:
    found = there_and_back(array)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert np.array_equal(found, array)
    assert type(found) is type(array)


def test_memory_maps_come_as_arrays_of_their_content(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "data", dtype="f4", mode="w+", shape=(100, 20))
    mapped[:] = np.arange(20)
    found = there_and_back(mapped)
    assert np.array_equal(np.asarray(found), np.asarray(mapped))


# -- Data frames ---------------------------------------------------------------------------------------------------

COLUMNS: list[Any] = [
    [1, 2, 3], [0.5, None, 2.0], ["a", None, "c"], pd.Categorical(["x", "y", "x"], ordered=True),
    pd.array([1, None, 3], dtype="Int64"), pd.array([True, None, False], dtype="boolean"),
    pd.array(["a", None, "b"], dtype="string"), pd.to_datetime(["2026-01-01", None, "2026-03-01"]),
    pd.to_datetime(["2026-01-01"] * 3).tz_localize("Europe/Berlin"), pd.to_timedelta([1, 2, 3], unit="s"),
    pd.period_range("2026-01", periods=3, freq="M"), pd.interval_range(0, 3), [[1], {"k": 2}, ()],
    pd.arrays.SparseArray([0, 0, 1]),
]  # fmt: skip
INDEXES: list[Any] = [
    pd.RangeIndex(3), pd.Index(["p", "q", "p"], name="letters"),
    pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["l", "n"]),
    pd.DatetimeIndex(["2026-01-01", "2026-01-02", "2026-01-03"], freq="D"),
]  # fmt: skip


@QUICKLY
@given(st.lists(st.sampled_from(range(len(COLUMNS))), max_size=4), st.sampled_from(range(len(INDEXES))), st.booleans())
def test_data_frames_of_every_kind(columns: list[int], index: int, is_nested: bool) -> None:
    frame = pd.DataFrame(
        {f"c{n}": pd.Series(list(COLUMNS[n]), dtype=getattr(COLUMNS[n], "dtype", None)) for n in columns}
    )
    frame = frame.reindex(range(3)).set_axis(INDEXES[index], axis=0)
    if is_nested and columns:
        frame.columns = pd.MultiIndex.from_product([["top"], frame.columns])
    frame.attrs["source"] = "generated"
    found = there_and_back(frame)
    pd.testing.assert_frame_equal(found, frame)
    assert found.attrs == frame.attrs


# -- Tensors -------------------------------------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    dtype = getattr(
        torch, draw(st.sampled_from(["float32", "float64", "bfloat16", "float16", "int8", "bool", "complex64"]))
    )
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    tensor = (torch.arange(int(np.prod(shape, dtype=int))) % 50).to(dtype).reshape(shape)
    if tensor.ndim and draw(st.booleans()):
        tensor = tensor[:: draw(st.sampled_from([1, 2]))]
    if draw(st.booleans()) and tensor.ndim > 1:
        tensor = tensor.transpose(0, 1)
    if draw(st.booleans()) and tensor.ndim == 2 and tensor.dtype == torch.float32:
        return draw(st.sampled_from([tensor.to_sparse(), torch.nn.Parameter(tensor)]))
    if tensor.dtype.is_floating_point and draw(st.booleans()):
        tensor = tensor.clone().requires_grad_()
    return tensor


@QUICKLY
@given(tensors())
def test_tensors_of_every_kind(tensor: Any) -> None:
    found = there_and_back(tensor)
    assert type(found) is type(tensor)
    assert (found.dtype, found.shape, found.layout) == (tensor.dtype, tensor.shape, tensor.layout)
    assert found.requires_grad == tensor.requires_grad
    assert torch.equal(found.detach().to_dense(), tensor.detach().to_dense())


@QUICKLY
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), min_size=2, max_size=4))
def test_views_of_one_storage_go_on_sharing_it(cuts: list[tuple[int, int]]) -> None:
    whole = torch.zeros(50)
    found = there_and_back([whole, *(whole[start : start + length] for start, length in cuts)])
    found[0][:] = torch.arange(50)
    for view, (start, length) in zip(found[1:], cuts, strict=True):
        assert view.tolist() == list(range(start, start + length))
