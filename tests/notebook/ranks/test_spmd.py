"""What `%%gpu` says of ranks, and how a cell that failed on some of them is told of."""

from __future__ import annotations

import pytest

from nbgpu.errors import CommandError
from nbgpu.ranks.errors import LaunchError
from nbgpu.ranks.spmd import SpmdOptions, parse_ranks, take_spmd
from nbgpu.ranks.spmd_failure import spmd_failure
from nbgpu.values.errors import NotPicklableError


@pytest.mark.parametrize(
    ("line", "rest", "options"),
    [
        ("H100x8", "H100x8", None),
        ("H100x8 --spmd", "H100x8", SpmdOptions(None, False)),
        ("--spmd --all-ranks -i x", "-i x", SpmdOptions(None, True)),
        ("H100x8 --ranks 0,2-3 --no-wait", "H100x8 --no-wait", SpmdOptions((0, 2, 3), False)),
        ("--ranks=5 --spmd", "", SpmdOptions((5,), False)),
    ],
)
def test_options_are_taken(line: str, rest: str, options: SpmdOptions | None) -> None:
    assert take_spmd(line) == (rest, options)


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,", "-1", "0-99999999999"])
def test_what_are_no_ranks_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="--ranks needs"):
        parse_ranks(text)


def test_a_cell_that_reads_what_cannot_be_sent() -> None:
    found = spmd_failure({"kind": "unsendable", "text": "`x`, which the cell reads, cannot be sent to the ranks: why"})
    assert isinstance(found, NotPicklableError)
    assert "hint: make it in a `--spmd` cell" in str(found)


def test_a_launcher_that_ended() -> None:
    found = spmd_failure(
        {"kind": "not_launched", "ename": "", "evalue": "", "lines": ["why"], "exit_code": 1, "signal": None}
    )
    assert isinstance(found, LaunchError)
    assert "why" in str(found)


def test_an_interrupt_names_its_ranks_and_that_groups_are_gone() -> None:
    failures = [{"rank": rank, "kind": "raised", "time_s": 1.0, "chain": []} for rank in (0, 1)]
    found = spmd_failure(
        {
            "kind": "interrupted", "failures": failures, "others": [], "lost_groups": True, "world_size": 2,
            "hostname": "node", "places": {},
        }
    )  # fmt: skip
    assert isinstance(found, KeyboardInterrupt)
    assert str(found) == "the cell was interrupted on ranks 0-1 of 2"
    assert "`init_process_group` makes a new one" in "".join(found._render_traceback_())  # type: ignore[attr-defined]
