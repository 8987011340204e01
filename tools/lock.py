"""Writes requirements-dev.txt: the exact versions of everything that development needs, for all platforms."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK_FILE = ROOT / "requirements-dev.txt"
HEADER = """\
# Written by `make lock` from pyproject.toml. Names and versions only: where they come from is the machine's affair.
"""

# What torch needs differs between its CPU and CUDA wheels, and which wheel a machine has is not for a lock file to say.
# `uv pip install` resolves what is missing, so these are left to the wheel that it finds.
OF_THE_TORCH_WHEEL = re.compile(r"^(nvidia-(?!ml-py\b)|triton\b|cuda-)")


def compile_pins() -> str:
    """Returns the resolved pins, one a line, with environment markers."""
    environment = {name: value for name, value in os.environ.items() if name != "UV_FIND_LINKS"}
    command = [
        str(Path(sys.executable).with_name("uv")), "pip", "compile", "pyproject.toml", "--group", "dev",
        "--universal", "--python-version", "3.10", "--upgrade", "--quiet",
        "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links",
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    lines = [line for line in compile_pins().splitlines(keepends=True) if not OF_THE_TORCH_WHEEL.match(line)]
    LOCK_FILE.write_text(HEADER + "".join(lines))


if __name__ == "__main__":
    main()
