"""Traits of the agent's configuration that people write as they say them: spans of time."""

from __future__ import annotations

from typing import Any

from traitlets import TraitError, Unicode

from nbgpu_protocol.spans import parse_span

NEVER = "never"
_NEVER = frozenset({NEVER, "off", "0"})


class Span(Unicode[str, Any]):
    """A span such as "90s", "2h" or "7d", "never", or empty for a default that depends on other settings."""

    def validate(self, obj: Any, value: Any) -> str:
        text = str(value).strip().lower() if not isinstance(value, bool) else ""
        if not text and isinstance(value, str):
            return text
        if text in _NEVER:
            return NEVER
        try:
            parse_span(text)
        except ValueError as error:
            raise TraitError(f"{self.name}: {error}, nor `{NEVER}`") from error
        return text


def span_s(text: str, default_s: float | None = None) -> float | None:
    """Returns the seconds of a `Span`; None for never, and the default where it is empty."""
    if not text:
        return default_s
    return None if text == NEVER else parse_span(text)
