"""Builds the labextension into `python/nbgpu/labextension`, from where pyproject.toml takes it into the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LabextensionHook(BuildHookInterface[Any]):
    """Builds with npm from a checkout; a source distribution brings the built bundle along and needs no Node.

    Always builds anew from a checkout: a bundle that lies there may be stale, or a development one.
    `NBGPU_SKIP_JS=1` leaves the bundle out of an editable install, for those who only work on the Python side.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before the files are collected. `version` is "editable" for `pip install -e`, else "standard"."""
        root = Path(self.root)
        built = root / "python/nbgpu/labextension"
        editable = version == "editable"
        if (root / "PKG-INFO").exists():
            _require_bundle(built)
        elif os.environ.get("NBGPU_SKIP_JS") == "1":
            if not editable:
                raise RuntimeError("NBGPU_SKIP_JS is for editable installs; a wheel without its labextension is broken")
            # what pyproject.toml lists as shared data must be there
            built.mkdir(parents=True, exist_ok=True)
        else:
            _build(root / "js", "build" if editable else "build:prod")
            _require_bundle(built)


def _require_bundle(built: Path) -> None:
    if not (built / "package.json").is_file() or not list((built / "static").glob("remoteEntry.*.js")):
        raise RuntimeError(f"{built} holds no built labextension")


def _build(js: Path, script: str) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm (Node 20 or newer) builds the labextension from a checkout, and is not on the PATH")
    # `jupyter-builder` is a command of the build's own environment
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for arguments in (_install_arguments(js), ["run", "clean"], ["run", script]):
        if arguments:
            # stdout belongs to the build front end
            subprocess.run([npm, *arguments], cwd=js, env={**os.environ, "PATH": path}, stdout=sys.stderr, check=True)


def _install_arguments(js: Path) -> list[str]:
    """Returns what npm is to be told first: nothing where what is installed is what is locked."""
    installed = js / "node_modules/.package-lock.json"
    locked = js / "package-lock.json"
    fresh = installed.exists() and installed.stat().st_mtime >= locked.stat().st_mtime
    return [] if fresh else ["ci"]
