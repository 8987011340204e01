"""Whether ranks hang, of made-up looks and a made-up clock; and the watch that takes the looks, of made-up ranks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import pytest

from nbgpu_kernel.ranks.doctor import Hang, Look, Progress, RankLook, diagnose, observe
from nbgpu_kernel.ranks.stacks import Frame
from nbgpu_kernel.ranks.watch import HangWatch

TORCH = "/env/lib/python3.11/site-packages/torch"
TRAIN = Frame("/n/1.py", 5, "train")
ALL_REDUCE = (Frame(f"{TORCH}/distributed/distributed_c10d.py", 2806, "all_reduce"), TRAIN)
BARRIER = (Frame(f"{TORCH}/distributed/distributed_c10d.py", 4000, "barrier"), TRAIN)
BACKWARD = (Frame(f"{TORCH}/autograd/graph.py", 800, "_engine_run_backward"), TRAIN)
LOADS = (Frame("/n/1.py", 9, "load"), TRAIN)
COUNTS = (("0", 7),)


def waits(rank: int, stack: tuple[Frame, ...] = ALL_REDUCE, count: int = 7, **facts: object) -> RankLook:
    return replace(RankLook(rank, stack, counts=(("0", count),), processor_s=1.0), **facts)  # type: ignore[arg-type]


def loads(rank: int, line: int = 9, count: int = 6) -> RankLook:
    return RankLook(rank, (Frame("/n/1.py", line, "load"), TRAIN), counts=(("0", count),), processor_s=1.0)


def after(*looks: Look | list[RankLook]) -> Progress:
    """Returns what is remembered of looks at 0 s, 30 s and so on, in silence."""
    progress = None
    for at, look in enumerate(looks):
        seen = look if isinstance(look, Look) else Look(30.0 * at, tuple(look), written_bytes=0)
        progress = observe(progress, seen)
    assert progress is not None
    return progress


def hang_after(*looks: Look | list[RankLook]) -> Hang | None:
    return diagnose(after(*looks), 60.0)


def test_one_rank_that_does_not_come() -> None:
    seen = [waits(0), waits(1), loads(2)]
    assert hang_after(seen, seen) is None  # 30 s
    hang = hang_after(seen, seen, seen)
    assert hang is not None
    assert hang.since_s == 0.0
    assert [(each.look.rank, each.waits_in, each.since_s) for each in hang.waiting] == [
        (0, "all_reduce", 0.0),
        (1, "all_reduce", 0.0),
    ]
    assert [each.look.rank for each in hang.missing] == [2]
    assert (hang.returned, hang.is_mismatch, hang.behind) == ((), False, {2: 1})


def test_it_may_move_while_the_others_wait() -> None:
    hang = hang_after(*([waits(0), loads(1, line)] for line in (9, 10, 11)))
    assert hang is not None
    (missing,) = hang.missing
    assert (missing.look.stack[0].line, missing.since_s) == (11, 60.0)


@pytest.mark.parametrize(
    "last",
    [
        [waits(0, count=8), loads(1)],  # another collective, at the same line
        [waits(0, BARRIER), loads(1)],
        [loads(0), loads(1)],  # it went on
        [waits(0, ()), loads(1)],  # it did not say where it is
    ],
)
def test_what_gets_further_does_not_hang(last: list[RankLook]) -> None:
    seen = [waits(0), loads(1)]
    assert hang_after(seen, seen, seen) is not None
    assert hang_after(seen, seen, last) is None


def test_who_came_last_counts() -> None:
    late = [waits(0), waits(1)]
    early = [waits(0), loads(1)]
    assert hang_after(early, late, late) is None
    hang = hang_after(early, late, late, late)
    assert hang is not None
    assert (hang.since_s, hang.missing) == (30.0, ())


def test_output_is_progress() -> None:
    seen = (waits(0), loads(1))
    looks = [Look(30.0 * at, seen, written_bytes=100 * (at >= 2)) for at in range(5)]
    assert hang_after(*looks[:4]) is None
    assert hang_after(*looks) is not None


def test_without_counters_only_a_rank_that_uses_no_processor_waits() -> None:
    def looks(used_s: float) -> list[list[RankLook]]:
        return [[waits(0, counts=None, processor_s=1.0 + used_s * at), loads(1)] for at in range(3)]

    assert hang_after(*looks(0.1)) is not None
    assert hang_after(*looks(30.0)) is None
    assert hang_after(*([waits(0, counts=None, processor_s=None), loads(1)] for _ in range(3))) is None


def test_a_backward_pass_may_compute_as_long_as_it_likes() -> None:
    def looks(used_s: float) -> list[list[RankLook]]:
        return [[waits(0, BACKWARD, processor_s=used_s * at), loads(1)] for at in range(4)]

    assert hang_after(*looks(29.0)) is None
    hang = hang_after(*looks(0.0))
    assert hang is not None
    assert hang.waiting[0].waits_in == "backward"


def test_a_collective_that_is_pending_while_the_rank_waits_for_its_gpu() -> None:
    synchronises = (Frame("/n/1.py", 6, "train"),)
    seen = [waits(0, synchronises, pending="all_gather", processor_s=None), loads(1)]
    hang = hang_after(seen, seen, seen)
    assert hang is not None
    assert hang.waiting[0].waits_in == "all_gather"
    assert hang_after(*([waits(0, synchronises), loads(1)] for _ in range(4))) is None


def test_ranks_that_have_returned_and_ranks_that_disagree() -> None:
    seen = [waits(0), waits(1, BARRIER), RankLook(2, has_returned=True)]
    hang = hang_after(seen, seen, seen)
    assert hang is not None
    assert (hang.returned, hang.is_mismatch) == ((2,), True)
    assert hang_after(*([RankLook(0, has_returned=True)] for _ in range(4))) is None


@dataclass
class FakeRank:
    """A rank whose stack a test sets."""

    rank: int
    stack: tuple[Frame, ...]
    is_slow: bool = False
    asked: int = 0

    def ask(self) -> None:
        self.asked += 1

    def answer(self, *, final: bool) -> RankLook | None:
        if self.is_slow:
            return RankLook(self.rank) if final else None
        return RankLook(self.rank, self.stack, counts=COUNTS)


@dataclass
class Ranks:
    """Two ranks, a clock, and what was told."""

    waiting: FakeRank = field(default_factory=lambda: FakeRank(0, ALL_REDUCE))
    other: FakeRank = field(default_factory=lambda: FakeRank(1, LOADS))
    now_s: float = 0.0
    written_bytes: int = 0
    told: list[tuple[float, bool]] = field(default_factory=list)

    def watch(self) -> HangWatch:
        def tell(hang: Hang | None, now_s: float) -> None:
            self.told.append((now_s, hang is not None))

        sources = [self.waiting, self.other]
        return HangWatch(sources, 60.0, lambda: self.written_bytes, tell, lambda: self.now_s)

    def pass_time(self, watch: HangWatch, until_s: float) -> None:
        while self.now_s < until_s:
            self.now_s += 0.5
            watch.step()


def test_the_watch_tells_once_they_hang_and_again_when_they_go_on() -> None:
    ranks = Ranks()
    watch = ranks.watch()
    ranks.pass_time(watch, 100.0)
    assert ranks.told == []
    ranks.pass_time(watch, 130.0)
    assert ranks.told
    assert all(is_hanging for _, is_hanging in ranks.told)
    times = [time_s for time_s, _ in ranks.told]
    assert all(later - earlier < 10 for earlier, later in itertools.pairwise(times))  # brought up to date
    ranks.waiting.stack = LOADS
    ranks.pass_time(watch, 140.0)
    assert ranks.told[-1][1] is False
    count = len(ranks.told)
    ranks.pass_time(watch, 190.0)
    assert len(ranks.told) == count


def test_ranks_that_write_are_not_looked_at() -> None:
    ranks = Ranks()
    watch = ranks.watch()
    for step in range(1, 20):
        ranks.written_bytes += 10
        ranks.pass_time(watch, 25.0 * step)
    assert (ranks.waiting.asked, ranks.told) == (0, [])
    ranks.pass_time(watch, ranks.now_s + 200.0)
    assert ranks.told


def test_a_rank_that_does_not_answer_is_not_waited_for() -> None:
    ranks = Ranks(other=FakeRank(1, LOADS, is_slow=True))
    ranks.pass_time(ranks.watch(), 200.0)
    assert ranks.told
    assert ranks.told[-1][1] is True
