"""What a cell did not find in its session, and the notebook has beside it."""

from __future__ import annotations

import os
from pathlib import Path

from nbgpu.workspace.local_tree import shown
from nbgpu_protocol.workspace import path_problem


def missing_file_hint(error: BaseException, notebook_folder: Path, session_folder: str) -> str | None:
    """Returns a line for the person, if what the error says is missing there is beside the notebook.

    Args:
        error: What a cell raised in its session.
        notebook_folder: Here.
        session_folder: Where the session works; empty if it is not known.
    """
    filename = getattr(error, "filename", None)
    if not isinstance(error, FileNotFoundError) or not isinstance(filename, str) or not filename:
        return None
    relative = _relative(filename, notebook_folder, session_folder)
    if relative is None or path_problem(relative) or not os.path.exists(notebook_folder / relative):
        return None
    if os.path.isabs(filename) and not _is_below(filename, session_folder):
        advice = " sends it; open it there by its path relative to the notebook"
    else:
        advice = ""
    argument = relative if relative.isprintable() and not set(relative) & set(" '\"*?[\\") else repr(relative)
    return f"`{shown(relative)}` is beside this notebook and not in the session: `%gpu sync {argument}`{advice}"


def _relative(filename: str, notebook_folder: Path, session_folder: str) -> str | None:
    if not os.path.isabs(filename):
        relative = os.path.normpath(filename)
    else:
        for folder in (session_folder, str(notebook_folder), os.path.realpath(notebook_folder)):
            if folder and _is_below(filename, folder):
                relative = os.path.relpath(filename, folder)
                break
        else:
            return None
    relative = relative.replace(os.sep, "/")
    return None if relative in (".", "..") or relative.startswith("../") else relative


def _is_below(path: str, folder: str) -> bool:
    return bool(folder) and os.path.normpath(path).startswith(os.path.join(os.path.normpath(folder), ""))
