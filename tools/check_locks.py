"""Fails if a lock file says where to download from: registries differ from machine to machine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ("requirements-dev.txt", "tools/conformance-requirements.txt")
NPM_LOCK = "js/package-lock.json"
HOST = re.compile(r"://|--(?:extra-)?index-url|--find-links")


def hosts_in_requirements(text: str) -> Iterator[str]:
    """Yields the lines that name a place to download from."""
    return (line for line in text.splitlines() if HOST.search(line))


def hosts_in_npm_lock(text: str) -> Iterator[str]:
    """Yields the packages that are locked to a place. Where people can give money to an author is none."""
    for name, package in json.loads(text)["packages"].items():
        if any(HOST.search(str(package.get(key, ""))) for key in ("resolved", "version")):
            yield f"{name}: {package.get('resolved', package.get('version'))}"


def main() -> int:
    found = [f"{name}: {line}" for name in REQUIREMENTS for line in hosts_in_requirements((ROOT / name).read_text())]
    found += [f"{NPM_LOCK}: {line}" for line in hosts_in_npm_lock((ROOT / NPM_LOCK).read_text())]
    if found:
        print("\n".join(found), file=sys.stderr)
        print(f"\n{len(found)} places to download from in lock files\n\nhint: make lock", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
