"""Answers `%pip install` in a session: its environment is shared and follows the notebook's, where to install."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_MESSAGE = (
    "nbgpu: this environment is a copy of the notebook's, and does not change by itself",
    "",
    "hint: install in a plain cell, without %%gpu: `%pip install NAME`; the next %%gpu cell has it",
)
_SOURCE = f'''"""Stands in for pip, see its message."""
import sys

sys.exit({chr(10).join(_MESSAGE)!r})
'''
_SCRIPT = """#!/bin/sh
exec "$(dirname -- "$0")/python" -m pip "$@"
"""


def refuse_pip(environment: Path) -> None:
    """Puts a `pip` into a new environment that says where to install instead."""
    site_packages = next((environment / "lib").glob("python*/site-packages"))
    package = site_packages / "pip"
    # What is there may be links, to files that are not this environment's: removed, never written to.
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir()
    (package / "__init__.py").write_text('"""Stands in for pip."""\n')
    (package / "__main__.py").write_text(_SOURCE)
    for name in ("pip", "pip3"):
        script = environment / "bin" / name
        script.unlink(missing_ok=True)
        script.write_text(_SCRIPT)
        os.chmod(script, 0o755)
