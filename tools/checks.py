"""Runs the project's checks one after another, and says at the end which of them failed.

A check that fails does not keep the others from running. pytest comes last, so that its closing line ends the output.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Check:
    name: str
    command: tuple[str, ...]
    folder: Path = ROOT
    variables: tuple[tuple[str, str], ...] = ()
    """Environment variables, besides those that are set."""


def tool(name: str, *arguments: str) -> tuple[str, ...]:
    """Returns the command line of a tool of this environment."""
    return (str(BIN / name), *arguments)


GROUPS: dict[str, tuple[Check, ...]] = {
    "lint": (
        Check("ruff check", tool("ruff", "check", "--quiet")),
        Check("ruff format", tool("ruff", "format", "--check", "--quiet")),
        Check("mypy", tool("mypy")),
        Check("mypy, tools", tool("mypy", "tools", "tests/benchmarks"), variables=(("MYPYPATH", "tests"),)),
        Check("import directions", tool("lint-imports", "--no-cache")),
        Check("lock files", tool("python", "tools/check_locks.py")),
        Check("eslint, prettier, stylelint", ("npm", "run", "--silent", "lint"), ROOT / "js"),
    ),
    "unit-js": (Check("vitest", ("npm", "run", "--silent", "test"), ROOT / "js"),),
    "pytest": (
        # A file stays on one worker, since files share servers and kernels among their tests.
        Check("pytest", tool("python", "-m", "pytest", "-m", "not gpu and not slow", "-n", "2", "--dist", "loadfile")),
    ),
}


def run(check: Check) -> float | None:
    """Runs a check; returns the seconds that it took, or None if it failed."""
    print(f"\n── {check.name}: {shlex.join(check.command)}".replace(f"{BIN}{os.sep}", ""), flush=True)
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}", **dict(check.variables)}
    start = time.monotonic()
    done = subprocess.run(check.command, cwd=check.folder, env=environment, stdin=subprocess.DEVNULL, check=False)
    return time.monotonic() - start if done.returncode == 0 else None


def summarise(results: Sequence[tuple[Check, float | None]]) -> str:
    width = max(len(check.name) for check, _ in results)
    return "\n".join(
        f"  {check.name:<{width}}  {'FAILED' if took_s is None else f'passed in {took_s:.1f} s'}"
        for check, took_s in results
    )


def main(names: Sequence[str]) -> int:
    checks = [check for name in names for check in GROUPS[name]]
    results: list[tuple[Check, float | None]] = []
    for check in checks:
        if check.name == "pytest" and results:
            print(f"\n{summarise(results)}", flush=True)
        results.append((check, run(check)))
    failed = [check.name for check, took_s in results if took_s is None]
    if checks[-1].name != "pytest":
        print(f"\n{summarise(results)}", flush=True)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
