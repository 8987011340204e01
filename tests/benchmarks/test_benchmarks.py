"""Every benchmark runs, at a size at which it measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest

from benchmarks import (
    __main__,
    attach,
    cell_latency,
    environments,
    first_cell,
    idle_sessions,
    live_view,
    output_flood,
    ranks,
    reconnection,
    spmd,
    values,
)
from benchmarks.front_end import Cell
from benchmarks.measurement import Row, Timing, format_table, measure

pytestmark = pytest.mark.timeout(240)

SMALL: dict[str, Callable[[], Sequence[Row]]] = {
    "cell_latency": partial(cell_latency.run, rounds=1, repeats=1),
    "output_flood": partial(output_flood.run, rounds=1, lines=50, count=2, size_bytes=1600),
    "first_cell": partial(first_cell.run, rounds=1),
    "values": partial(values.run, rounds=1, size_bytes=1 << 20),
    "environments": partial(environments.run, rounds=1, installed=5, built=3),
    "live_view": partial(live_view.run, rounds=1, pages=2, window_s=2.0),
    "attach": partial(attach.run, rounds=1),
    "ranks": partial(ranks.run, rounds=1, ranks=2),
    "idle_sessions": partial(idle_sessions.run, rounds=1, sessions=2, window_s=0.1),
    "spmd": partial(spmd.run, rounds=1, repeats=1, ranks=2, size_bytes=4 << 20),
    "reconnection": partial(reconnection.run, rounds=1, delay_s=0.01, down_s=0.1),
}


def test_none_is_forgotten() -> None:
    assert list(SMALL) == list(__main__.BENCHMARKS)


@pytest.mark.parametrize("name", SMALL)
def test_runs(name: str) -> None:
    rows = SMALL[name]()
    assert rows
    assert all(row.timing.best_s > 0 and row.reference.best_s > 0 for row in rows)
    assert format_table(rows).count("\n") == len(rows) + 1


def test_takes_turns() -> None:
    done: list[str] = []

    def way(name: str, took_s: float) -> float:
        done.append(name)
        return took_s

    timings = measure({"a": partial(way, "a", 1.0), "b": partial(way, "b", 3.0)}, rounds=2, repeats=2)
    assert "".join(done) == "aabbaabb"
    assert timings == {"a": Timing((1.0, 1.0)), "b": Timing((3.0, 3.0))}


def test_table() -> None:
    row = Row("this", Timing((0.004, 0.002, 0.009)), "that", Timing((1.5, 1.0, 2.0)), 1.2)
    header, rule, line = format_table([row]).splitlines()
    assert len(header) == len(rule) == len(line)
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "this", "2.0 ms", "4.0 ms", "that", "1.00 s", "1.50 s", "0.0020", "≤ 1.2",
    ]  # fmt: skip


def test_lost_output_is_noticed() -> None:
    with pytest.raises(output_flood.LostOutputError, match="14 characters were printed, 7 other ones came"):
        output_flood.check_lines(Cell(stdout=["line 1\n"]), 2)
    swapped = Cell(displays=[{"text/plain": "0000001 "}, {"text/plain": "0000000 "}])
    with pytest.raises(output_flood.LostOutputError, match="display 0"):
        output_flood.check_displays(swapped, 2, 8)
    with pytest.raises(output_flood.LostOutputError, match="2 displays were sent, 1 came"):
        output_flood.check_displays(Cell(displays=[{"text/plain": "0000000 "}]), 2, 8)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["speed"]) == 2
    assert "cell_latency" in capsys.readouterr().err
