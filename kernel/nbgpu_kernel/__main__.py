"""Starts the kernel: `python …/nbgpu_kernel -f connection.json`, by an interpreter that need not have nbgpu.

With `--ranks FOLDER` it starts the launcher of a call instead, with `--resident-ranks START` that of ranks that stay.

The package is loaded by its location: what else is installed beside it, the agent's own packages, stays off
`sys.path`, on which the user's environment alone belongs.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def _load_package(folder: str) -> None:
    specification = importlib.util.spec_from_file_location(
        "nbgpu_kernel", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert specification is not None
    assert specification.loader is not None
    package = importlib.util.module_from_spec(specification)
    sys.modules["nbgpu_kernel"] = package
    specification.loader.exec_module(package)


def main() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.getcwd()) != folder]
    _load_package(folder)
    if sys.argv[1:2] == ["--ranks"]:
        from nbgpu_kernel.ranks.launcher import launch

        sys.exit(launch(sys.argv[2]))
    if sys.argv[1:2] == ["--resident-ranks"]:
        from nbgpu_kernel.ranks import resident_launcher

        sys.exit(resident_launcher.launch(sys.argv[2]))
    from nbgpu_kernel.process import prepare_process

    prepare_process()
    from nbgpu_kernel.app import SessionKernelApp

    SessionKernelApp.launch_instance()


if __name__ == "__main__":
    main()
