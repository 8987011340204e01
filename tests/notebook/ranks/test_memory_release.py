"""Whether accelerators have their memory back: only a real one's, and only after a while is it said that not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from nbgpu.errors import AgentUnreachableError
from nbgpu.ranks import memory_release
from nbgpu_protocol.v1 import pool_pb2

GIB = 1 << 30


class Samples:
    """A pool that gives one batch after the other, each the bytes in use by accelerator."""

    def __init__(self, *batches: dict[str, int] | Exception) -> None:
        self._batches = list(batches)
        self.asked = 0

    async def watch_samples(self, history_s: float = 0) -> AsyncIterator[pool_pb2.SampleBatch]:
        self.asked += 1
        while self._batches:
            batch = self._batches.pop(0)
            if isinstance(batch, Exception):
                raise batch
            samples = [pool_pb2.Sample(accelerator_id=name, memory_used_bytes=size) for name, size in batch.items()]
            yield pool_pb2.SampleBatch(samples=[*samples, pool_pb2.Sample(accelerator_id="somebody else's")])
            if history_s:
                return


def client_of(pool: Samples, *, simulated: bool = False) -> Any:
    accelerators = [pool_pb2.Accelerator(id=name, type="H100", simulated=simulated) for name in ("gpu-0", "gpu-1")]
    return SimpleNamespace(pool=pool, info=SimpleNamespace(accelerators=accelerators))


def test_memory_that_comes_back_is_not_spoken_of(capsys: pytest.CaptureFixture[str]) -> None:
    pool = Samples(
        {"gpu-0": GIB, "gpu-1": 0}, {"gpu-0": 40 * GIB, "gpu-1": 40 * GIB}, {"gpu-0": GIB, "gpu-1": GIB // 4}
    )
    before = memory_release.memory_used(client_of(pool))
    assert before == {"gpu-0": GIB, "gpu-1": 0}
    memory_release.verify(client_of(pool), before)
    assert capsys.readouterr().err == ""
    assert pool._batches == []


def test_memory_that_stays_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    pool = Samples({"gpu-0": 4 * GIB, "gpu-1": 0}, {"gpu-0": 4 * GIB, "gpu-1": 0})
    memory_release.verify(client_of(pool), {"gpu-0": GIB, "gpu-1": 0})
    assert capsys.readouterr().err == (
        "nbgpu: gpu-0 still has 3.0 GiB more in use than before the call; "
        "`%gpu restart` ends all processes of the session\n"
    )


def test_simulated_accelerators_are_not_asked() -> None:
    pool = Samples({"gpu-0": GIB})
    assert memory_release.memory_used(client_of(pool, simulated=True)) == {}
    memory_release.verify(client_of(pool, simulated=True), {})
    assert pool.asked == 0


def test_an_agent_that_does_not_answer_is_no_reason_to_fail(capsys: pytest.CaptureFixture[str]) -> None:
    pool = Samples(AgentUnreachableError("gone"), AgentUnreachableError("gone"))
    assert memory_release.memory_used(client_of(pool)) == {}
    memory_release.verify(client_of(pool), {"gpu-0": 0})
    assert capsys.readouterr().err == ""
