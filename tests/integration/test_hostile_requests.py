"""A few hundred of the hostile requests that `python -m fuzz` sends by the ten thousand, the same ones each time."""

from __future__ import annotations

import asyncio

from fuzz.attack import attack, target

COUNT, SEED = 400, 20_260_101


def test_an_agent_stands_and_keeps_its_folders() -> None:
    with target() as on:
        findings = asyncio.run(attack(on, COUNT, SEED))
    assert findings.complaints == [], f"seed {SEED}"
    assert findings.statuses.total() == COUNT
    assert len(findings.statuses) >= 5, findings.statuses  # requests got as far as to be answered in many ways
