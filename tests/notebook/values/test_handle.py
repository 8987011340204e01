"""What a handle says of itself, and to those who take it for what it stands for."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from nbgpu.values.errors import StaleHandleError
from nbgpu.values.handle import Handle, Home

DESCRIBED = {"type": "numpy.ndarray", "shape": [1000, 10], "dtype": "float64", "device": "cpu", "size_bytes": 80_000}
WHAT_TO_DO = "use it in a `%%gpu` cell, or take a copy with .fetch()"


@pytest.fixture
def handle() -> Handle:
    return Handle("id", DESCRIBED, Home("s1", 1, "gpu-03"), lambda handle: "its value", lambda object_id: None)


def test_it_says_what_it_stands_for(handle: Handle) -> None:
    assert repr(handle) == "<handle of numpy.ndarray: 1000×10, float64, 80 KB, on cpu; at gpu-03, session s1>"
    assert handle.fetch() == "its value"


def test_an_attribute_that_it_has_not_is_the_objects(handle: Handle) -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'mean': the numpy\.ndarray itself") as raised:
        handle.mean()
    assert WHAT_TO_DO in str(raised.value)
    assert not hasattr(handle, "mean")


@pytest.mark.parametrize(
    "use",
    [len, iter, float, lambda each: each(1), lambda each: each[0], lambda each: each + 1, lambda each: 2 @ each],
)
def test_it_is_not_used_as_what_it_stands_for(handle: Handle, use: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError) as raised:
        use(handle)
    assert str(raised.value) == f"a handle stands for a numpy.ndarray that is in its session: {WHAT_TO_DO}"


def test_it_can_be_compared_and_kept(handle: Handle) -> None:
    assert handle
    assert {handle: 1}[handle] == 1
    assert operator.eq(handle, handle)
    assert f"{handle}" == repr(handle)


@pytest.mark.parametrize("use", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_is_not_copied_or_stored(handle: Handle, use: Callable[[Any], Any]) -> None:
    with pytest.raises(StaleHandleError, match="cannot be copied or stored"):
        use(handle)
