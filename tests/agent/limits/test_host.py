"""What sessions take of the node, measured on real processes and folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from traitlets import TraitError

from nbgpu_agent.limits.host import Verdict, disk_of, gb_in_words, judge, memory_of
from nbgpu_agent.limits.output import OutputAllowance, Passage
from nbgpu_agent.limits.settings import LimitSettings, size_bytes

MB = 10**6
HOLDER = "import sys; held = b'x' * {size}; print('held', flush=True); sys.stdin.read()"


@pytest.mark.parametrize(
    ("used", "verdict"),
    [(90, Verdict.FINE), (91, Verdict.NEAR), (100, Verdict.NEAR), (101, Verdict.OVER), (111, Verdict.FAR_OVER)],
)
def test_what_is_used_is_held_against_the_limit(used: int, verdict: Verdict) -> None:
    assert judge(used, 100) is verdict


def test_memory_is_that_of_all_processes_and_what_they_share_counts_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(size=100 * MB)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        one = [psutil.Process(holder.pid)]
        precise = memory_of(one, limit_bytes=1)
        assert 100 * MB < precise < 200 * MB
        rough = memory_of(one, limit_bytes=10**12)
        assert rough >= precise
        assert holder.stdin is not None
        holder.stdin.close()
    assert memory_of(one, limit_bytes=1) == 0  # it is gone


def test_disk_is_what_folders_take_without_what_they_link_to(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    (own / "deep" / "er").mkdir(parents=True)
    other.mkdir()
    (other / "large").write_bytes(os.urandom(5 * MB))
    (own / "link").symlink_to(other)
    (own / "deep" / "er" / "file").write_bytes(os.urandom(2 * MB))
    with (own / "sparse").open("wb") as file:
        file.truncate(100 * MB)
    assert 2 * MB <= disk_of([own, tmp_path / "nowhere"]) < 3 * MB


@pytest.mark.parametrize(
    ("size", "text"), [(200 * MB, "200 MB"), (1_500 * MB, "1.5 GB"), (64_000 * MB, "64 GB"), (64_300 * MB, "64.3 GB")]
)
def test_sizes_are_said_as_they_are_sold(size: int, text: str) -> None:
    assert gb_in_words(size) == text


@pytest.mark.parametrize(
    ("text", "size"), [("64GB", 64 * 10**9), ("1.5 MiB", 3 << 19), ("2tb", 2 * 10**12), ("", None), ("off", None)]
)
def test_an_owner_writes_sizes_as_they_are_said(text: str, size: int | None) -> None:
    assert size_bytes(LimitSettings(session_memory=text).session_memory) == size


@pytest.mark.parametrize("text", ["64", "much", "-1GB", "GB", True])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(TraitError):
        LimitSettings(session_memory=text)


@pytest.mark.parametrize(
    ("settings", "embedded", "priced", "expected"),
    [
        ({}, False, True, (3600.0, None, 604_800.0)),
        ({}, False, False, (None, None, 604_800.0)),
        ({}, True, True, (None, None, None)),
        ({"idle_close": "2h", "max_session": "never"}, True, False, (7200.0, None, None)),
        ({"idle_close": "never"}, False, True, (None, None, 604_800.0)),
        ({"max_idle_close": "30m"}, False, True, (1800.0, 1800.0, 604_800.0)),
        ({"max_idle_close": "30m"}, False, False, (1800.0, 1800.0, 604_800.0)),
    ],
)
def test_what_bounds_a_session_where_its_owner_says_nothing_more(
    settings: dict[str, str], embedded: bool, priced: bool, expected: tuple[float | None, ...]
) -> None:
    terms = LimitSettings(**settings).terms(embedded=embedded, priced=priced)
    assert (terms.idle_close_s, terms.max_idle_close_s, terms.max_session_s) == expected


@pytest.mark.parametrize("text", ["soon", "-1h", True])
def test_what_is_no_span_is_refused(text: object) -> None:
    with pytest.raises(TraitError, match="idle_close"):
        LimitSettings(idle_close=text)


def test_a_cell_prints_so_much_and_every_cell_anew() -> None:
    allowance = OutputAllowance(100)
    for _ in range(2):
        allowance.begin()
        assert [allowance.take("stream", 40) for _ in range(4)] == [
            (Passage.PASS, 40),
            (Passage.PASS, 40),
            (Passage.FIRST_BEYOND, 20),
            (Passage.BEYOND, 0),
        ]
        assert allowance.take("stream", 1) == (Passage.BEYOND, 0)
        assert allowance.take("execute_result", 1000) == (Passage.PASS, 1000)


def test_without_a_bound_everything_passes() -> None:
    allowance = OutputAllowance(None)
    assert {allowance.take("stream", 10**9) for _ in range(5)} == {(Passage.PASS, 10**9)}
