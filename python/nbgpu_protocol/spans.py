"""Spans of time as people write and read them: "90s", "1h30m", "7d"; and back: "60 min"."""

from __future__ import annotations

import re

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(seconds?|sec|s|minutes?|min|m|hours?|h|days?|d)?", re.IGNORECASE)


def parse_span(text: str) -> float:
    """Returns the seconds of "90", "90s", "10m", "2h", "1h30m" or "7d".

    Raises:
        ValueError: It is no such span, or of no length; the message is a sentence.
    """
    wanted = f"{text!r} is no span of time, such as 90s, 30m, 2h or 7d"
    rest, total_s, parts = text.strip(), 0.0, 0
    while rest:
        found = _PART.match(rest)
        if found is None or (not found[2] and (parts or found.end() != len(rest))):
            raise ValueError(wanted)
        total_s += float(found[1]) * _UNITS_S[(found[2] or "s")[0].lower()]
        rest = rest[found.end() :].strip()
        parts += 1
    if not total_s > 0:
        raise ValueError(wanted)
    return total_s


def span_in_words(span_s: float) -> str:
    """Returns "90 s", "60 min", "3 h" or "7 days"; as long as it is not longer than that, the smaller unit."""
    if span_s < 120:
        return f"{span_s:.3g} s" if span_s < 10 else f"{span_s:.0f} s"
    if span_s <= 7200:
        return f"{span_s / 60:.0f} min"
    if span_s < 2 * 86_400:
        return f"{round(span_s / 3600, 1):g} h"
    return f"{round(span_s / 86_400, 1):g} days"
