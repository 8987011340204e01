"""A Python that every user of this machine can run: the tests' own, or a copy of it where that lies in root's home."""

from __future__ import annotations

import shutil
import stat
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from nbgpu_agent.isolation.choosing import closed_folder

_LEFT_OUT = ("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "site-packages", "config-*")


@dataclass(frozen=True)
class ReachablePython:
    path: str
    variables: dict[str, str]
    """That it needs."""


def reachable_python(folder: Path) -> ReachablePython:
    """Returns one, copied into the folder if it must be; skips the test where the packages cannot be reached."""
    packages = Path(sysconfig.get_path("purelib"))
    for path in (packages / "ipykernel", Path(__file__)):
        if (closed := closed_folder(path)) is not None or not path.parent.stat().st_mode & stat.S_IXOTH:
            pytest.skip(f"other users of this machine cannot read {path}: {closed or path.parent} is closed to them")
    if closed_folder(Path(sys.executable)) is None:
        return ReachablePython(sys.executable, {})
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    (folder / "bin").mkdir(parents=True)
    shutil.copy(base / "bin" / name, folder / "bin" / name)
    library = folder / "lib" / name
    shutil.copytree(base / "lib" / name, library, ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=True)
    for shared in (base / "lib").glob("libpython*.so*"):
        shutil.copy(shared, folder / "lib")
    (library / "site-packages").mkdir()
    (library / "site-packages" / "packages.pth").write_text(f"import site; site.addsitedir({str(packages)!r})\n")
    return ReachablePython(str(folder / "bin" / name), {"LD_LIBRARY_PATH": str(folder / "lib")})
