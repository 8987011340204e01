"""Where certificates and users are kept: in Jupyter's data folder, since they outlive every run of the agent."""

from __future__ import annotations

import os
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

FOLDER_VARIABLE = "NBGPU_IDENTITY_FOLDER"


def identity_folder(configured: str = "") -> Path:
    """Returns the folder: what is configured, else what the environment names, else `nbgpu/agent` in Jupyter's."""
    named = configured or os.environ.get(FOLDER_VARIABLE, "")
    return Path(named).expanduser().absolute() if named else Path(jupyter_data_dir()).absolute() / "nbgpu" / "agent"
