"""What the doctor finds: a line each, with what a person can do."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass


class Level(enum.Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    about: str
    """What was looked at, in a word or two: stable, for programs too."""
    level: Level
    text: str
    """One sentence with the values, without a full stop."""
    hint: str = ""
    """What a person can do; commands are in backticks. Empty where all is well."""


def ok(about: str, text: str) -> Finding:
    return Finding(about, Level.OK, text)


def warn(about: str, text: str, hint: str) -> Finding:
    return Finding(about, Level.WARN, text, hint)


def fail(about: str, text: str, hint: str) -> Finding:
    return Finding(about, Level.FAIL, text, hint)


def has_failed(findings: Sequence[Finding]) -> bool:
    return any(each.level is Level.FAIL for each in findings)


def as_text(findings: Sequence[Finding]) -> str:
    """Returns a line each, and below those that are not well what to do; at the end a summary."""
    width = max(len(each.about) for each in findings)
    lines = []
    for each in findings:
        lines.append(f"{each.level.value:<4}  {each.about:<{width}}  {each.text}")
        if each.hint:
            lines.append(f"{'':<4}  {'':<{width}}  hint: {each.hint}")
    failed = sum(each.level is Level.FAIL for each in findings)
    warned = sum(each.level is Level.WARN for each in findings)
    summary = "all is well" if not failed + warned else f"{failed} to mend, {warned} to look at"
    return "\n".join([*lines, "", f"{len(findings)} looked at: {summary}"])


def as_json(findings: Sequence[Finding]) -> str:
    """Returns a list of objects with about, level, text and hint."""
    rows = [{"about": each.about, "level": each.level.value, "text": each.text, "hint": each.hint} for each in findings]
    return json.dumps(rows, indent=1, ensure_ascii=False)
