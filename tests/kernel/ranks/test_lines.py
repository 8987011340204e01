"""What ranks write, as lines: whatever pieces it comes in, and put together."""

from __future__ import annotations

import pytest

from nbgpu_kernel.ranks.lines import MAX_LINES, CommonLines, LineSplitter, ranks_in_words


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_lines_are_the_same_whatever_pieces_they_come_in(size: int) -> None:
    data = "plain\n\x1b[31mred\x1b[0m ✓\n10%\r50%\r100%\nwindows\r\n\nlast".encode()
    splitter = LineSplitter()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    lines = [line for piece in pieces for line in splitter.split(piece)]
    assert lines == ["plain", "red ✓", "100%", "windows", ""]
    assert splitter.split(b"", final=True) == ["last"]
    assert splitter.split(b"", final=True) == []


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert LineSplitter().split(b"a\xffb\n") == ["a�b"]


def test_a_progress_bar_without_an_end_takes_no_room() -> None:
    splitter = LineSplitter()
    for step in range(10_000):
        assert splitter.split(f"\r{step}: {'#' * 100}".encode()) == []
    assert len(splitter._rest) < 300
    assert splitter.split(b"\n") == [f"9999: {'#' * 100}"]


def common(*lines: tuple[int, str]) -> list[tuple[str, list[int]]]:
    found = CommonLines()
    for rank, text in lines:
        found.add(rank, text, 0.0)
    return [(line.text, sorted(line.ranks)) for line in found.lines]


def test_equal_lines_of_several_ranks_are_one() -> None:
    assert common((1, "a"), (1, "b"), (2, "a"), (3, "a"), (2, "b")) == [("a", [1, 2, 3]), ("b", [1, 2])]


def test_a_rank_that_repeats_a_line_has_it_twice() -> None:
    assert common((1, "a"), (1, "a"), (2, "a")) == [("a", [1, 2]), ("a", [1])]


def test_a_line_of_ones_own_does_not_part_what_follows() -> None:
    lines = [(rank, text) for rank in (1, 2, 3) for text in (f"I am {rank}", "ready", f"loss 0.{rank}", "done")]
    assert common(*lines) == [
        ("I am 1", [1]),
        ("I am 2", [2]),
        ("I am 3", [3]),
        ("ready", [1, 2, 3]),
        ("loss 0.1", [1]),
        ("loss 0.2", [2]),
        ("loss 0.3", [3]),
        ("done", [1, 2, 3]),
    ]


def test_steps_of_ranks_that_run_ahead_stay_beside_each_other() -> None:
    lines = [(rank, f"step {step}: {rank}.{step}5") for rank in (1, 2) for step in range(3)]
    assert [text for text, _ in common(*lines)] == [
        f"step {step}: {rank}.{step}5" for step in range(3) for rank in (1, 2)
    ]


def test_each_ranks_lines_keep_their_order() -> None:
    lines = [(1, "a"), (1, "b"), (2, "b"), (2, "a"), (3, "c"), (1, "c"), (3, "a")]
    found = common(*lines)
    for rank in (1, 2, 3):
        assert [text for text, ranks in found if rank in ranks] == [text for own, text in lines if own == rank]


def test_old_lines_are_forgotten() -> None:
    found = CommonLines()
    for number in range(MAX_LINES + 1):
        found.add(1, f"line {number}", 0.0)
    found.add(2, f"line {MAX_LINES}", 0.0)
    assert found.dropped == MAX_LINES // 10
    assert len(found.lines) + found.dropped <= MAX_LINES + 2
    assert found.lines[0].text == f"line {found.dropped}" or found.lines[0].ranks == {2}


@pytest.mark.parametrize(
    ("ranks", "words"), [([3], "rank 3"), ([1, 2, 3], "ranks 1-3"), ([3, 0, 2], "ranks 0, 2-3"), ([0, 1], "ranks 0-1")]
)
def test_ranks_in_words(ranks: list[int], words: str) -> None:
    assert ranks_in_words(ranks) == words
