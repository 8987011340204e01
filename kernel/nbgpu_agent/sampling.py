"""Samples the accelerators once an interval, remembers an hour of it, and streams it to any number of watchers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import psutil

from nbgpu_agent.accelerators.source import Holder
from nbgpu_agent.measuring import Measurement, measure
from nbgpu_agent.model import Accelerator, Sample

logger = logging.getLogger(__name__)

KEPT_S = 3600.0
HISTORY_BATCH_SAMPLES = 1000
"""Samples in one batch of history: some 100 KiB, far below gRPC's limit of a message."""


class SampledSession(Protocol):
    """What the sampler asks of a session."""

    def processes(self) -> list[psutil.Process]:
        """Returns the session's processes; called on the sampling thread."""
        ...


@dataclass(frozen=True)
class Held:
    """A session and the accelerators that it holds."""

    session_id: str
    accelerators: tuple[Accelerator, ...]
    session: SampledSession


class SampleRing:
    """The last readings, oldest first, each with a number that only grows."""

    def __init__(self, length: int) -> None:
        self._batches: deque[tuple[Sample, ...]] = deque(maxlen=length)
        self.next_number = 0

    def append(self, batch: Sequence[Sample]) -> None:
        self._batches.append(tuple(batch))
        self.next_number += 1

    def clear(self) -> None:
        """Forgets all readings; numbers go on."""
        self._batches.clear()

    def since(self, number: int) -> list[tuple[Sample, ...]]:
        """Returns the batches from the number on; those that are no longer held are left out."""
        wanted = min(self.next_number - number, len(self._batches))
        return [self._batches[index] for index in range(len(self._batches) - wanted, len(self._batches))]

    def number_at(self, time_unix_s: float) -> int:
        """Returns the number of the first batch that is not older."""
        newer = 0
        for batch in reversed(self._batches):
            if batch and batch[0].time_unix_s < time_unix_s:
                break
            newer += 1
        return self.next_number - newer


class Sampler:
    """Samples until it is closed.

    Args:
        read: Reads all accelerators once; blocks; called in the executor.
        held: Returns who holds what; called on the event loop.
        executor: Of one thread, so that readings never overlap.
        interval_s: Between readings.
        on_reading: Called after every reading.
        now: The time, in seconds since the epoch.
    """

    def __init__(
        self,
        read: Callable[[float, Sequence[Holder]], list[Sample]],
        held: Callable[[], list[Held]],
        executor: Executor,
        *,
        interval_s: float = 1.0,
        on_reading: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._read = read
        self._held = held
        self._executor = executor
        self._interval_s = interval_s
        self._on_reading = on_reading
        self._now = now
        self._ring = SampleRing(max(int(KEPT_S / interval_s), 1))
        self._task: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._sample_for_ever(), name="sampler")

    async def close(self) -> None:
        """Ends sampling; a reading that has begun goes on in the executor, and nobody gets it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def forget(self) -> None:
        """Forgets what was recorded: its times are by another clock."""
        self._ring.clear()

    def latest(self) -> tuple[Sample, ...]:
        """Returns the newest reading; empty before the first."""
        return next(iter(self._ring.since(self._ring.next_number - 1)), ())

    def measure(
        self, accelerator_ids: Collection[str], started_unix_s: float, ended_unix_s: float
    ) -> Measurement | None:
        """Returns what the readings say of an execution, or None if there is none yet from after its end."""
        newest = self.latest()
        if not newest or newest[0].time_unix_s <= ended_unix_s:
            return None
        readings = self._ring.since(max(self._ring.number_at(started_unix_s) - 1, 0))
        return measure(readings, accelerator_ids, started_unix_s, ended_unix_s)

    async def watch(
        self, history_s: float = 0.0, accelerator_ids: Collection[str] = (), *, history_only: bool = False
    ) -> AsyncGenerator[tuple[Sample, ...], None]:
        """Yields what is recorded of the last `history_s` seconds, then every reading as it is made.

        A watcher that falls behind by more than an hour misses the oldest readings.

        Args:
            history_s: 0: only what is new.
            accelerator_ids: Empty: all.
            history_only: End after what is recorded.
        """
        number = self._ring.next_number
        if history_s > 0:
            recorded = self._ring.since(self._ring.number_at(self._now() - history_s))
            samples = [each for batch in recorded for each in _only(batch, accelerator_ids)]
            for start in range(0, len(samples), HISTORY_BATCH_SAMPLES):
                yield tuple(samples[start : start + HISTORY_BATCH_SAMPLES])
        while not history_only:
            arrived = self._arrived
            batches, number = self._ring.since(number), self._ring.next_number
            for batch in batches:
                yield _only(batch, accelerator_ids)
            if number == self._ring.next_number:
                await arrived.wait()

    async def sample_once(self) -> None:
        """Makes one reading and gives it to the watchers."""
        held = self._held()
        reading = asyncio.get_running_loop().run_in_executor(self._executor, self._read_all, self._now(), held)
        batch = await asyncio.shield(reading)
        self._ring.append(batch)
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()
        self._on_reading()

    def _read_all(self, time_unix_s: float, held: Sequence[Held]) -> list[Sample]:
        return self._read(
            time_unix_s,
            [Holder(each.session_id, each.accelerators, _processes_of(each)) for each in held],
        )

    async def _sample_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            try:
                await self.sample_once()
            except Exception:
                logger.exception("a reading of the accelerators failed")
            due_s = max(due_s + self._interval_s, loop.time())  # one that took long is not caught up with
            await asyncio.sleep(due_s - loop.time())


def _processes_of(held: Held) -> tuple[psutil.Process, ...]:
    """Returns the processes of who holds an accelerator; on one that all share nobody is looked for."""
    return tuple(held.session.processes()) if any(not each.shared for each in held.accelerators) else ()


def _only(batch: tuple[Sample, ...], accelerator_ids: Collection[str]) -> tuple[Sample, ...]:
    return tuple(each for each in batch if each.accelerator_id in accelerator_ids) if accelerator_ids else batch
