"""The committed stubs are those that the .proto files give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUBS = ROOT / "python" / "nbgpu_protocol" / "v1"


def test_stubs_are_fresh(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "protocol.py"), str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    generated = {path.name: path.read_text() for path in (tmp_path / "nbgpu_protocol" / "v1").iterdir()}
    committed = {path.name: path.read_text() for path in STUBS.glob("*_pb2*.py*")}

    assert len(generated) == 3 * len(list(STUBS.glob("*.proto")))
    assert sorted(committed) == sorted(generated), "run `make protocol`"
    stale = [name for name in generated if generated[name] != committed[name]]
    assert not stale, f"run `make protocol`: {', '.join(stale)}"


def test_every_enum_begins_with_unspecified() -> None:
    from nbgpu_protocol.v1 import environment_pb2, pool_pb2, session_pb2

    for file in (environment_pb2, pool_pb2, session_pb2):
        enums = list(file.DESCRIPTOR.enum_types_by_name.values())
        for message in file.DESCRIPTOR.message_types_by_name.values():
            enums += message.enum_types
        for enum in enums:
            assert enum.values_by_number[0].name.endswith("_UNSPECIFIED"), enum.full_name
