"""Ends and removes what a killed agent left, once nobody is to take it over: `python -m nbgpu_agent.reaping FOLDER`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from nbgpu_agent.errors import AgentError
from nbgpu_agent.folders import locked_folder
from nbgpu_agent.guardian import TOKEN_FILE
from nbgpu_agent.kernel_records import reap_leftovers


def reap(root: Path, token: str) -> None:
    """Ends all kernels in the folder, if no agent has come there after the one that the token names."""
    asked_to_end = threading.Event()
    asked_to_end.set()
    try:
        with locked_folder(root, asked_to_end) as folders:
            if (root / TOKEN_FILE).read_text() != token:
                return
            folders.remove_record()
            reap_leftovers(folders.kernels)
            folders.clean()
    except (AgentError, OSError):  # an agent is there
        return


if __name__ == "__main__":
    reap(Path(sys.argv[1]), sys.argv[2])
