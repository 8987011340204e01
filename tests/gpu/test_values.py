"""Values on a real GPU: CUDA tensors come back as CPU tensors, and what is large stays as a handle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fakes.two_sides import TwoSides
from nbgpu.values.handle import Handle
from nbgpu_kernel.values.definitions import Definitions
from nbgpu_kernel.values.encoding import encode
from nbgpu_kernel.values.objects import describe
from nbgpu_kernel.values.tensors import ValueTooLargeError


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU stands in for the GPU everywhere; on a GPU the same is to be the case."""
    if request.param == "cuda":
        assert torch.cuda.is_available(), "this machine has a GPU that torch cannot use"
    return str(request.param)


@pytest.fixture
def sides(tmp_path: Path, device: str) -> TwoSides:
    sides = TwoSides(tmp_path / "blobs")
    sides.local(f"import torch\ndevice = {device!r}")
    return sides


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "bool", "complex64"])
def test_tensors_come_back_as_cpu_tensors(sides: TwoSides, dtype: str) -> None:
    sides.gpu(f"t = torch.arange(6).reshape(2, 3).to(torch.{dtype}).to(device)\nt = t.t()")
    found = sides.here["t"]
    assert found.device.type == "cpu"
    assert found.dtype == getattr(torch, dtype)
    assert torch.equal(found, torch.arange(6).reshape(2, 3).to(found.dtype).t())


def test_parameters_and_gradients_come_back(sides: TwoSides) -> None:
    sides.gpu("p = torch.nn.Parameter(torch.ones(3, device=device))\n(p * 2).sum().backward()\ng = p.grad")
    assert type(sides.here["p"]) is torch.nn.Parameter
    assert sides.here["p"].device.type == "cpu"
    assert sides.here["p"].requires_grad
    assert sides.here["g"].tolist() == [2, 2, 2]


def test_tensors_that_share_memory_go_on_sharing_it(sides: TwoSides) -> None:
    sides.gpu("whole = torch.zeros(100, device=device)\nhalf = whole[:60]")
    sides.here["half"][0] = 5
    assert sides.here["whole"][0] == 5


def test_a_large_model_stays_and_says_where(sides: TwoSides, device: str) -> None:
    sides.gpu("model = torch.nn.Linear(3000, 3000).to(device)\nx = torch.ones(1, 3000)")
    handle = sides.here["model"]
    assert isinstance(handle, Handle)
    assert (handle.device or "").split(":")[0] == device
    assert handle.size_bytes == 4 * (3000 * 3000 + 3000)
    sides.gpu("shape = tuple(model(x.to(device)).shape)")
    assert sides.here["shape"] == (1, 3000)
    fetched = handle.fetch()
    assert next(fetched.parameters()).device.type == "cpu"
    assert fetched(sides.here["x"]).shape == (1, 3000)


def test_a_model_that_was_sent_and_moved_comes_back_on_the_cpu(sides: TwoSides) -> None:
    sides.local("model = torch.nn.Linear(4, 2)\nbefore = model.weight.detach().clone()")
    sides.gpu("model = model.to(device)\nwith torch.no_grad():\n    model.weight += 1")
    model: Any = sides.here["model"]
    assert model.weight.device.type == "cpu"
    assert torch.allclose(model.weight, sides.here["before"] + 1)


def test_nothing_is_fetched_beyond_the_limit(device: str) -> None:
    tensor = torch.ones(100_000, device=device)
    with pytest.raises(ValueTooLargeError):
        encode(tensor, Definitions({}), total_limit_bytes=1000)
    assert describe(tensor)["device"].split(":")[0] == device
    if device == "cuda":
        with pytest.raises(ValueTooLargeError):
            encode(tensor, Definitions({}), fetch_limit_bytes=1000)
