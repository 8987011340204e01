"""What the Jupyter server knows of a notebook by its kernel's id: interpreter and folder. Asks no kernel."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from jupyter_server.utils import ensure_async


async def interpreter_of(settings: dict[str, Any], kernel_id: str) -> str:
    """Returns the path of the Python that the notebook's kernel runs; empty where that cannot be told."""
    manager = settings.get("kernel_manager")
    if manager is None or kernel_id not in manager:
        return ""
    specification = getattr(manager.get_kernel(kernel_id), "kernel_spec", None)  # a gateway's kernel has none
    if specification is None or specification.language.lower() != "python" or not specification.argv:
        return ""
    program = specification.argv[0]
    if program in ("python", f"python{sys.version_info.major}", "python{}.{}".format(*sys.version_info[:2])):
        return sys.executable  # as jupyter_client has it
    return program if os.path.isabs(program) and os.access(program, os.X_OK) else ""


async def folder_of(settings: dict[str, Any], kernel_id: str) -> str:
    """Returns the folder that the notebook lies in; empty where that cannot be told."""
    path = await file_of(settings, kernel_id)
    return await asyncio.to_thread(_existing_folder, path) if path is not None else ""


async def file_of(settings: dict[str, Any], kernel_id: str) -> Path | None:
    """Returns where the notebook's file is, or is to be; None where that cannot be told."""
    root = settings.get("server_root_dir")
    try:
        jupyter_sessions = await ensure_async(settings["session_manager"].list_sessions())
    except KeyError:
        return None
    for each in jupyter_sessions:
        if root and each["kernel"] and each["kernel"]["id"] == kernel_id:
            return Path(os.path.expanduser(root), each["path"])  # noqa: ASYNC240 - reads no file
    return None


def has_kernel(settings: dict[str, Any], kernel_id: str) -> bool:
    """Returns whether the server runs this kernel."""
    manager = settings.get("kernel_manager")
    return manager is not None and kernel_id in manager


def _existing_folder(notebook: Path) -> str:
    return str(notebook.parent) if notebook.parent.is_dir() else ""
