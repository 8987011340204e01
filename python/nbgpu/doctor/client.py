"""Looks at the notebook's side: Python, Jupyter's packages, and whether its extensions are enabled."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_config_path, jupyter_path
from packaging.version import Version

import nbgpu
from nbgpu.doctor.findings import Finding, fail, ok, warn

LABEXTENSION = "@nbgpu/labextension"
SERVER_EXTENSION = "nbgpu.server"
OLDEST_PYTHON = (3, 10)
OLDEST = {"ipykernel": "6.29", "jupyterlab": "4.4", "jupyter_server": "2.14"}
"""`nbgpu` itself needs them, or newer ones; JupyterLab may be in another environment."""


def look_at_client() -> Iterator[Finding]:
    """Yields what is found in this environment."""
    yield judge_python(sys.version_info[:3])
    for name, oldest in OLDEST.items():
        yield judge_package(name, _version_of(name), oldest)
    if _version_of("jupyterlab") is not None or _version_of("notebook") is not None:
        yield judge_labextension(_labextension_version(), _is_disabled(LABEXTENSION))
        yield judge_server_extension(_server_extension_setting())
    yield look_at_uv()


def judge_python(version: tuple[int, int, int]) -> Finding:
    text = f"Python {'.'.join(map(str, version))}, nbgpu {nbgpu.__version__}"
    if version[:2] < OLDEST_PYTHON:
        return fail("python", f"{text}, which needs Python 3.10", "`uv venv --python 3.12`, and install nbgpu there")
    return ok("python", text)


def judge_package(name: str, version: str | None, oldest: str) -> Finding:
    if version is None and name == "jupyterlab":
        hint = "`pip install jupyterlab`, unless it runs from another environment, which then needs nbgpu too"
        return warn(name, "JupyterLab is not in this environment, so the GPU panel cannot be checked", hint)
    if version is None:
        return fail(name, f"{name} is not installed", f"`pip install '{name}>={oldest}'`")
    if Version(version) < Version(oldest):
        hint = f"`pip install --upgrade '{name}>={oldest}'`"
        return fail(name, f"{name} {version} is older than {oldest}, which nbgpu needs", hint)
    return ok(name, f"{name} {version}")


def judge_labextension(version: str | None, disabled_by: Path | None) -> Finding:
    """Says whether JupyterLab finds the panel.

    Args:
        version: Of what it finds; None: nothing.
        disabled_by: The file that disables it.
    """
    if version is None:
        return fail("panel", "JupyterLab does not find the GPU panel", "`pip install --force-reinstall nbgpu`")
    if disabled_by is not None:
        return fail(
            "panel", f"the GPU panel is disabled by {disabled_by}", f"`jupyter labextension enable {LABEXTENSION}`"
        )
    return ok("panel", f"the GPU panel for JupyterLab {version}")


def judge_server_extension(setting: tuple[bool, Path] | None) -> Finding:
    """Says whether the Jupyter server loads its part.

    Args:
        setting: Whether it is enabled, and the file that says so; None: no file does.
    """
    hint = f"`jupyter server extension enable {SERVER_EXTENSION}`, then start JupyterLab again"
    if setting is None:
        return fail("server", "the Jupyter server is not told to load nbgpu's part", hint)
    enabled, path = setting
    if not enabled:
        return fail("server", f"the Jupyter server's part is disabled by {path}", hint)
    return ok("server", f"the Jupyter server's part, enabled by {path}")


def look_at_uv() -> Finding:
    """Says whether uv is there, which builds environments."""
    try:
        from uv import find_uv_bin

        path = find_uv_bin()
    except (ImportError, FileNotFoundError):
        hint = "`pip install uv`; without it no environment is built for sessions"
        return fail("uv", "uv is not in this environment", hint)
    return ok("uv", f"uv {_version_of('uv')} at {path}")


def _version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _labextension_version() -> str | None:
    for folder in jupyter_path("labextensions"):
        try:
            return str(json.loads((Path(folder) / LABEXTENSION / "package.json").read_bytes())["version"])
        except (OSError, ValueError, KeyError):
            continue
    return None


def _is_disabled(extension: str) -> Path | None:
    for folder in jupyter_config_path():
        path = Path(folder) / "labconfig" / "page_config.json"
        disabled = _read(path).get("disabledExtensions", {})
        names = disabled if isinstance(disabled, list) else [name for name, yes in disabled.items() if yes]
        if any(name == extension or name.startswith(f"{extension}:") for name in names):
            return path
    return None


def _server_extension_setting() -> tuple[bool, Path] | None:
    """Returns what the file says that Jupyter lets win: of the first folder, the person's own before the packages'."""
    for folder in jupyter_config_path():
        parts = sorted((Path(folder) / "jupyter_server_config.d").glob("*.json"), reverse=True)
        for path in (Path(folder) / "jupyter_server_config.json", *parts):
            extensions = _read(path).get("ServerApp", {}).get("jpserver_extensions", {})
            if SERVER_EXTENSION in extensions:
                return bool(extensions[SERVER_EXTENSION]), path
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
