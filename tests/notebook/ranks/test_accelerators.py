"""What a call asks for, under all names, and whether a session has it."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from nbgpu.errors import CommandError, SpecError
from nbgpu.ranks.accelerators import parse_wanted
from nbgpu.ranks.function import DistributedFunction, distributed
from nbgpu_protocol.v1 import pool_pb2


class GPUType(enum.Enum):
    H100 = "h100_80gb"


def held(*types: str) -> list[pool_pb2.Accelerator]:
    return [pool_pb2.Accelerator(type=each, memory_bytes=80 * 10**9, shared=each == "CPU") for each in types]


@pytest.mark.parametrize(
    ("count", "kind", "session", "world_size"),
    [
        (None, None, ["H100"] * 4, 4),
        (2, None, ["H100"] * 4, 2),
        (2, None, ["H100"], None),
        (None, "H100", ["H100"] * 4, 1),
        (4, "H100", ["H100"] * 4, 4),
        (2, "H100", ["H100"] * 4, 2),
        (8, "H100", ["H100"] * 4, None),
        (None, "GPU_8xH100", ["H100"] * 8, 8),
        (8, "GPU_8xH100", ["H100"] * 8, 8),
        (None, "GPU_1xA10", ["A10"], 1),
        (None, "GPU_8xH100", ["H100"] * 4, None),
        (4, "h100_80gb", ["H100"] * 4, 4),
        (4, GPUType.H100, ["H100"] * 4, 4),
        (4, "A10", ["H100"] * 4, None),
        (2, "24GB+", ["H100"] * 4, 2),
        (2, "200GB+", ["H100"] * 4, None),
        (2, "B200|H100", ["H100"] * 2, 2),
        (3, "CPU", ["CPU"], 3),
        (None, "CPU", ["CPU"], 1),
        (3, None, ["CPU"], 3),
        (3, "H100", ["CPU"], None),
    ],
)
def test_a_session_has_what_is_wanted(count: int | None, kind: Any, session: list[str], world_size: int | None) -> None:
    wanted = parse_wanted(count, kind)
    assert wanted.is_met_by(held(*session)) is (world_size is not None)
    if world_size is not None:
        assert wanted.world_size(held(*session)) == world_size


@pytest.mark.parametrize(("count", "kind"), [(4, "GPU_8xH100"), (0, "H100"), (-1, None), (True, None), (1, "H100x")])
def test_what_makes_no_sense_is_refused(count: int, kind: str | None) -> None:
    with pytest.raises(SpecError):
        parse_wanted(count, kind)


def work(x: int, *, y: int = 1) -> int:
    """Adds."""
    return x + y


def test_with_and_without_arguments() -> None:
    for decorated in (distributed(work), distributed()(work), distributed(gpus=2, gpu_type="H100", remote=True)(work)):
        assert isinstance(decorated, DistributedFunction)
        assert decorated(1, y=2) == 3
        assert (decorated.__name__, decorated.__doc__) == ("work", "Adds.")


def test_the_names_of_both_of_their_clients() -> None:
    for decorated in (
        distributed(8, "H100")(work),
        distributed(num_accelerators=8, accelerator_type="H100")(work),
        distributed(gpus=8, gpu_type="H100")(work),
        distributed(8, "H100", gpus=8, gpu_type="H100")(work),
        distributed(work).with_overrides(gpus=8, gpu_type="H100"),
        distributed(1, "A10")(work).with_overrides(8, "H100"),
    ):
        assert decorated._wanted.world_size(held(*["H100"] * 8)) == 8
        assert not decorated._wanted.is_met_by(held(*["A10"] * 8))


def test_overrides_take_back_and_leave_the_original() -> None:
    original = distributed(8, "H100", timeout=5)(work)
    free = original.with_overrides(num_accelerators=None, accelerator_type=None)
    assert free._wanted.is_met_by(held("A10"))
    assert free._options["timeout"] == 5
    assert not original._wanted.is_met_by(held("A10"))
    with pytest.raises(CommandError, match="under two names"):
        original.with_overrides(2, gpus=3)
    with pytest.raises(CommandError, match="above 0"):
        original.with_overrides(timeout=-1)


def test_a_method_is_bound() -> None:
    class Trainer:
        rate = 3

        @distributed
        def train(self, x: int) -> int:
            return self.rate * x

    assert Trainer().train(2) == 6
    assert isinstance(Trainer.train, DistributedFunction)
