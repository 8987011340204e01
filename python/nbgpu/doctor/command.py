"""`nbgpu doctor`: everything looked at, one after another."""

from __future__ import annotations

from nbgpu.doctor.client import look_at_client
from nbgpu.doctor.findings import Finding, as_json, as_text, has_failed
from nbgpu.doctor.node import look_at_node
from nbgpu.doctor.pools import look_at_pools


async def examine() -> list[Finding]:
    """Returns everything that is found: this environment, this machine, the pools."""
    return [*look_at_client(), *look_at_node(), *[finding async for finding in look_at_pools()]]


async def doctor(*, json: bool) -> int:
    """Prints what is found; returns 1 if something has failed."""
    findings = await examine()
    print(as_json(findings) if json else as_text(findings))
    return int(has_failed(findings))
