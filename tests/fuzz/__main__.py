"""Sends hostile requests to an agent of its own, and says what came of them."""

from __future__ import annotations

import asyncio
import secrets
import sys

from fuzz.attack import attack, target


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbits(32)
    print(f"{count} requests, seed {seed}", flush=True)
    with target() as on:
        findings = asyncio.run(attack(on, count, seed))
    for status, number in findings.statuses.most_common():
        print(f"{number:7} {status}")
    print(f"the agent's memory grew by {findings.growth_bytes >> 20} MiB")
    for complaint, number in sorted({each: findings.complaints.count(each) for each in findings.complaints}.items()):
        print(f"{number} times: {complaint}", file=sys.stderr)
    return bool(findings.complaints)


if __name__ == "__main__":
    sys.exit(main())
