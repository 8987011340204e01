"""How output of ranks is shown: rank 0 in full, the others folded, with a prefix, or all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nbgpu_kernel.ranks.call_folder import CallFolder, feed_line
from nbgpu_kernel.ranks.output import FoldedView, Follower, FullView, PrefixedView, View


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Front:
    """A front end that keeps what it is to display."""

    def __init__(self) -> None:
        self.published: list[tuple[dict[str, str], bool]] = []

    def publish(self, data: dict[str, str], *, transient: dict[str, str], update: bool) -> None:
        assert set(transient) == {"display_id"}
        self.published.append((data, update))


def test_rank_0_is_written_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    for view in (FoldedView(Front().publish), PrefixedView()):
        view.add(0, False, "10%\r✓".encode()[:-1])
        assert capsys.readouterr() == ("10%\r", "")
        view.add(0, False, "✓".encode()[-1:])
        view.add(0, True, b"no line yet")
        assert capsys.readouterr() == ("✓", "no line yet")


def test_the_others_are_one_display_that_is_updated_at_most_ten_times_a_second() -> None:
    front, clock = Front(), Clock()
    view = FoldedView(front.publish, clock)
    view.refresh()
    assert front.published == []
    for step in range(100):
        view.add(1, False, f"step {step}\n".encode())
        view.add(2, step % 2 == 0, f"step {step}\n".encode())
        view.refresh()
        clock.now_s += 0.01
    assert 8 <= len(front.published) <= 11
    assert [update for _, update in front.published] == [False] + [True] * (len(front.published) - 1)
    view.refresh(final=True)
    data, _ = front.published[-1]
    assert data["text/plain"].splitlines() == [f"[ranks 1-2] step {step}" for step in range(100)]
    assert "<summary>ranks 1-2: 100 lines</summary>" in data["text/html"]


def test_a_large_display_is_updated_less_often_and_bounded() -> None:
    front, clock = Front(), Clock()
    view = FoldedView(front.publish, clock)
    for step in range(2000):
        view.add(1, False, f"{step} {'x' * 300}\n".encode())
        view.refresh()
        clock.now_s += 0.01
    assert max(len(data["text/plain"]) + len(data["text/html"]) for data, _ in front.published) < 300_000
    assert sum(len(data["text/html"]) + len(data["text/plain"]) for data, _ in front.published) < 20 * 250_000
    view.refresh(final=True)
    assert "… 1700 earlier lines" in front.published[-1][0]["text/plain"]


def test_html_is_escaped() -> None:
    front = Front()
    view = FoldedView(front.publish, Clock())
    view.add(1, False, b"<script>\n")
    view.refresh(final=True)
    assert "&lt;script&gt;" in front.published[-1][0]["text/html"]


def test_where_nothing_can_be_updated_lines_have_a_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    view = PrefixedView(clock)
    view.add(1, False, b"same\nown 1\n")
    view.refresh()
    assert capsys.readouterr().out == ""  # others may write the same
    view.add(2, False, b"same\nown 2\nunfin")
    clock.now_s += 1
    view.refresh()
    assert capsys.readouterr().out == "[ranks 1-2] same\n[rank 1] own 1\n[rank 2] own 2\n"
    view.add(3, False, b"same\n")
    view.add(2, False, b"ished")
    view.refresh(final=True)
    assert sorted(capsys.readouterr().out.splitlines()) == ["[rank 2] unfinished", "[rank 3] same"]


def test_everything_is_shown_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    view = FullView()
    view.add(0, False, b"a\n")
    view.add(1, False, b"a\nend")
    view.add(1, True, b"e\n")
    view.refresh(final=True)
    assert capsys.readouterr() == ("[rank 0] a\n[rank 1] a\n[rank 1] end\n", "[rank 1] e\n")


def test_a_follower_reads_what_grows_and_no_half_lines_of_the_feed(tmp_path: Path) -> None:
    folder = CallFolder(tmp_path)
    seen: list[tuple[int, bool, bytes]] = []

    class Kept:
        def add(self, rank: int, is_stderr: bool, data: bytes) -> None:
            seen.append((rank, is_stderr, data))

        def refresh(self, *, final: bool = False) -> None:
            pass

    view: View = Kept()
    with Follower(folder, view) as follower:
        follower.look()
        folder.log(0).write_bytes(b"abcdef")
        folder.log(1).write_bytes(b"xy")
        feed: Any = feed_line(0, False, 3) + feed_line(1, True, 2) + feed_line(0, True, 3)
        folder.feed.write_bytes(feed[:-2])
        follower.look()
        assert seen == [(0, False, b"abc"), (1, True, b"xy")]
        folder.feed.write_bytes(feed)
        follower.look(final=True)
        assert seen[2:] == [(0, True, b"def")]
