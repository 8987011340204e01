"""`python -m recorded_plan`: what a Linux node with CUDA does with a snapshot that was taken on a Mac.

Both the snapshot and what the index had that day are recordings, so that nothing is asked of any network.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.markers import Marker

from nbgpu.plan_table import plan_table
from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.environments.materialising import Materialiser
from nbgpu_agent.environments.plan import Plan
from nbgpu_agent.environments.store import EnvironmentStore
from nbgpu_agent.environments.uv import Uv
from nbgpu_agent.service.environment import plan_message
from nbgpu_protocol.snapshot import Distribution, Snapshot, snapshot_from_bytes
from package_index import PackageIndex

DRIVER_VERSION = "580.65.06"
_RECORDINGS = Path(__file__).parent / "recordings"


def recorded_snapshot() -> Snapshot:
    """Returns the snapshot, as of a notebook with the Python of this machine, which the node then has."""
    snapshot = snapshot_from_bytes((_RECORDINGS / "macos_snapshot.json").read_bytes())
    of_older_pythons = [
        Distribution(each["name"], each["version"], requires=tuple(each["requires"]))
        for each in _recorded_packages()
        if "only" in each and Marker(each["only"]).evaluate()
    ]
    distributions = sorted((*snapshot.distributions, *of_older_pythons), key=lambda each: each.name)
    return replace(snapshot, python_version=platform.python_version(), distributions=tuple(distributions))


def recorded_index() -> PackageIndex:
    """Returns the index as it was, with what is made for x86_64 made for this machine."""
    index = PackageIndex()
    for each in _recorded_packages():
        tag = "py3-none-any" if each["pure"] else f"py3-none-manylinux_2_17_{platform.machine()}"
        index.add_recorded(each["name"], each["version"], tag=tag, requires=each["requires"], size_bytes=each["size"])
    return index


def _recorded_packages() -> list[dict[str, Any]]:
    packages: list[dict[str, Any]] = json.loads((_RECORDINGS / "linux_index.json").read_text())["packages"]
    return packages


def plan_recorded(root: Path) -> Plan:
    """Plans the snapshot for this node, as if it had an NVIDIA driver, with uv and the index as recorded.

    Args:
        root: For what the agent and uv write.
    """
    links = root / "links"  # empty: being there, it has uv take torch from the index, and not from pytorch.org
    links.mkdir(parents=True)
    with recorded_index().served() as address:
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "UV_CACHE_DIR": str(root / "cache"),
            "UV_DEFAULT_INDEX": address,
            "UV_FIND_LINKS": str(links),
            "NO_PROXY": "127.0.0.1",
        }
        store = EnvironmentStore(root / "environments")
        materialiser = Materialiser(store, BlobStore(root / "blobs"), Uv(variables), DRIVER_VERSION)
        return asyncio.run(materialiser.plan(recorded_snapshot()))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_recorded(Path(folder))
    print(plan_table(plan_message(plan, built=False), everything="--all" in sys.argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
