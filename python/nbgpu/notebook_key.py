"""By what a notebook is known again when it has another kernel: a digest of where its file is.

A kernel's id ends with the Jupyter server. The digest is taken with a number of the person's own, so that nobody who
sees it can tell or guess the path, and so that equal paths of other people and machines are other notebooks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from jupyter_core.paths import jupyter_config_dir

_FILE = "place"
_BYTES = 16


def notebook_key(path: str | Path) -> str:
    """Returns the key of the notebook in that file; empty where no number can be kept, or there is no path."""
    if not str(path):
        return ""
    number = _own_number(Path(jupyter_config_dir()) / "nbgpu" / _FILE)
    return (
        hashlib.sha256(f"{number}\0{os.path.realpath(path)}".encode(errors="surrogateescape")).hexdigest()
        if number
        else ""
    )


def own_notebook_key() -> str:
    """Returns the key of the notebook whose kernel this process is; empty if that is not known."""
    return notebook_key(os.environ.get("JPY_SESSION_NAME", ""))


def _own_number(path: Path) -> str:
    with contextlib.suppress(OSError):
        if number := _read(path):
            return number
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f"{_FILE}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(_BYTES))
        try:
            os.link(new, path)  # fails where another process was sooner, whose number holds
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return _read(path)


def _read(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        text = path.read_text(encoding="ascii").strip()
        return text if len(text) == 2 * _BYTES else ""
    return ""
