"""Generates the protocol's stubs from the .proto files, into the source tree or into another folder."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "python"


def generate(target: Path) -> None:
    """Writes the stubs of every .proto file below `target`, in the folders that their imports expect.

    Raises:
        RuntimeError: protoc refused a file; it has said why on standard error.
    """
    names = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.glob("nbgpu_protocol/**/*.proto"))
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    well_known = str(resources.files("grpc_tools") / "_proto")
    if protoc.main(["protoc", f"-I{SOURCES}", f"-I{well_known}", *outputs, *names]) != 0:
        raise RuntimeError("protoc failed")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCES)
