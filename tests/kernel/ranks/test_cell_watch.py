"""What is done while a cell runs on several ranks and one has failed: decided without processes or a real clock."""

from __future__ import annotations

from typing import Any

from nbgpu_kernel.ranks.cell_watch import GRACE_S, CellWatch, Measure, Step

RETURNED = {"kind": "returned", "time_s": 0.0}


def raised(time_s: float, *, is_interrupt: bool = False) -> dict[str, Any]:
    return {"kind": "raised", "time_s": time_s, "is_interrupt": is_interrupt}


def vanished(time_s: float) -> dict[str, Any]:
    return {"kind": "vanished", "time_s": time_s, "exit_code": None, "signal": 9}


def where(line: int) -> dict[str, Any]:
    frame = {"file": "cell", "line": line, "function": "<module>"}
    return {"returned": False, "collective": "all_reduce", "frame": frame, "stack": [frame]}


def test_all_return() -> None:
    watch = CellWatch([0, 1])
    for rank in (0, 1):
        assert watch.report(rank, RETURNED, 1.0) == []
    assert not watch.needs_ticks
    assert watch.tick(99.0) == []
    assert watch.outcome() == {"kind": "returned"}


def test_those_that_fail_alike_keep_their_groups() -> None:
    watch = CellWatch(range(3))
    for rank in range(3):
        watch.report(rank, raised(rank / 10), rank / 10)
        assert watch.tick(rank / 10) == []
    assert not watch.is_breaking_up
    outcome = watch.outcome()
    assert outcome["kind"] == "failed"
    assert [failure["rank"] for failure in outcome["failures"]] == [0, 1, 2]
    assert outcome["others"] == []


def test_one_fails_and_the_others_wait() -> None:
    watch = CellWatch(range(3))
    watch.report(1, raised(10.0), 10.0)
    assert watch.needs_ticks
    assert watch.tick(10.0 + GRACE_S - 0.01) == []
    assert watch.tick(10.0 + GRACE_S) == [Step(Measure.ASK, 0), Step(Measure.ASK, 2)]
    watch.where = {0: where(3), 2: where(4)}
    assert watch.tick(11.1) == [Step(Measure.LEAVE, 1)]
    assert watch.tick(11.2) == []
    # Freed by it, the next one frees the last.
    watch.report(2, raised(11.3), 11.3)
    assert watch.tick(11.3) == [Step(Measure.LEAVE, 2)]
    watch.report(0, raised(11.4), 11.4)
    outcome = watch.outcome()
    assert [failure["rank"] for failure in outcome["failures"]] == [1]
    assert [(other["rank"], other["frame"]["line"]) for other in outcome["others"]] == [(0, 3), (2, 4)]


def test_who_computes_on_is_interrupted_and_killed_at_last_but_not_the_kernel() -> None:
    watch = CellWatch(range(3))
    for rank in range(3):
        assert watch.began(rank) == []
    watch.report(1, raised(0.0), 0.0)
    steps: list[Step] = []
    for tenth in range(200):
        steps += watch.tick(tenth / 10)
    assert [step for step in steps if step.measure is Measure.INTERRUPT] == [
        Step(Measure.INTERRUPT, 0),
        Step(Measure.INTERRUPT, 2),
    ]
    assert [step for step in steps if step.measure is Measure.KILL] == [Step(Measure.KILL, 2)]
    # Whether it waits, or will, is not known: from then on nothing is to be waited for.
    assert [step for step in steps if step.measure is Measure.LEAVE] == [
        Step(Measure.LEAVE, 1),
        Step(Measure.LEAVE, 0),
        Step(Measure.LEAVE, 2),
    ]
    watch.report(2, vanished(20.0), 20.0)
    watch.report(0, raised(20.0, is_interrupt=True), 20.0)
    outcome = watch.outcome()
    assert outcome["kind"] == "failed"
    assert [failure["rank"] for failure in outcome["failures"]] == [1]
    assert [other["rank"] for other in outcome["others"]] == [0, 2]


def test_a_rank_that_is_gone_needs_no_grace() -> None:
    watch = CellWatch(range(3))
    watch.report(0, raised(5.0), 5.0)
    watch.report(1, vanished(5.1), 5.1)
    assert watch.tick(5.1) == [Step(Measure.ASK, 2)]
    watch.where = {2: where(1)}
    assert watch.tick(5.2) == [Step(Measure.LEAVE, 0)], "who is gone is told nothing"


def test_an_interrupt_reaches_those_that_began_and_later_those_that_begin() -> None:
    watch = CellWatch(range(3))
    watch.began(0)
    watch.began(1)
    assert watch.interrupt(1.0) == [Step(Measure.INTERRUPT, 1)], "rank 0 has got the signal itself"
    assert watch.interrupt(1.1) == []
    assert watch.began(2) == [Step(Measure.INTERRUPT, 2)]
    for rank in range(3):
        watch.report(rank, raised(1.2, is_interrupt=True), 1.2)
    assert watch.outcome()["kind"] == "interrupted"
    assert not watch.is_breaking_up


def test_an_interrupt_that_rank_0_alone_got_reaches_the_others() -> None:
    watch = CellWatch(range(2))
    watch.began(1)
    assert watch.report(0, raised(1.0, is_interrupt=True), 1.0) == [Step(Measure.INTERRUPT, 1)]
    watch.report(1, RETURNED, 1.1)
    assert watch.outcome()["kind"] == "interrupted"


def test_whoever_catches_an_interrupt_has_returned() -> None:
    watch = CellWatch(range(2))
    watch.interrupt(1.0)
    for rank in range(2):
        watch.report(rank, RETURNED, 1.1)
    assert watch.outcome() == {"kind": "returned"}
