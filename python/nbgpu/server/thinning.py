"""Fewer samples of a long time: the last of each step, for charts that have no room for more."""

from __future__ import annotations

from collections.abc import Iterable

from nbgpu_protocol.v1 import pool_pb2


class Thinner:
    """Passes on at most one sample an accelerator and step, the last one, in the order of time.

    Args:
        step_s: In seconds; steps begin at whole multiples of it, so that all accelerators have the same. 0: all pass.
    """

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._newest: dict[str, pool_pb2.Sample] = {}

    def add(self, samples: Iterable[pool_pb2.Sample]) -> list[pool_pb2.Sample]:
        """Returns those whose step is over."""
        if self._step_s <= 0:
            return list(samples)
        over = []
        for sample in samples:
            before = self._newest.get(sample.accelerator_id)
            if before is not None and self._step(before) != self._step(sample):
                over.append(before)
            self._newest[sample.accelerator_id] = sample
        return over

    def rest(self) -> list[pool_pb2.Sample]:
        """Returns those of the steps that are not over, when nothing more comes."""
        rest, self._newest = list(self._newest.values()), {}
        return rest

    def _step(self, sample: pool_pb2.Sample) -> int:
        return int(sample.time_unix_s // self._step_s)
