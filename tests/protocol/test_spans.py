"""Spans of time as people write and read them."""

from __future__ import annotations

import pytest

from nbgpu_protocol.spans import parse_span, span_in_words


@pytest.mark.parametrize(
    ("text", "span_s"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5m", 90),
        ("10 min", 600),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1h 30min 5s", 5405),
        ("7d", 604_800),
        ("2 Days", 172_800),
    ],
)
def test_a_span_is_read_as_it_is_said(text: str, span_s: float) -> None:
    assert parse_span(text) == span_s


@pytest.mark.parametrize("text", ["", "0", "soon", "-5m", "5 parsecs", "1h30", "30 1h", "h", "1e9", "inf"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no span of time, such as 90s, 30m, 2h or 7d"):
        parse_span(text)


@pytest.mark.parametrize(
    ("span_s", "text"),
    [(0.4, "0.4 s"), (8, "8 s"), (90, "90 s"), (480, "8 min"), (3600, "60 min"), (10_800, "3 h"), (604_800, "7 days")],
)
def test_a_span_is_said_in_the_unit_that_fits(span_s: float, text: str) -> None:
    assert span_in_words(span_s) == text
