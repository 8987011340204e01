"""Packs an installed distribution into a wheel again, where no index has it: equal installs give equal bytes."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from pathlib import Path

from nbgpu import errors
from nbgpu_protocol.snapshot import Distribution

_EPOCH = (1980, 1, 1, 0, 0, 0)
_OF_THE_INSTALLER = frozenset({"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json"})
MAX_WHEEL_BYTES = 256 << 20


class LocalDistributionError(errors.UserError):
    """Raised when a distribution that only this machine has cannot be packed for another."""

    hint = "install it again, or publish it where the agent's machine can fetch it from"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def message(self) -> str:
        return f"{self.name} was installed from this machine and cannot be packed for another: {self.why}"


def recorded_paths(dist_info: Path) -> list[str]:
    """Returns the files that were installed, relative to the folder that the `.dist-info` folder is in.

    Raises:
        FileNotFoundError: The installer left no list.
    """
    with open(dist_info / "RECORD", newline="", encoding="utf-8") as record:
        return [row[0] for row in csv.reader(record) if row]


def wheel_name(distribution: Distribution, dist_info: Path) -> str:
    """Returns the file name that the distribution's wheel has."""
    tags = [
        line.partition(": ")[2].split("-")
        for line in (dist_info / "WHEEL").read_text(encoding="utf-8").splitlines()
        if line.startswith("Tag: ")
    ]
    compressed = "-".join(".".join(dict.fromkeys(tag[part] for tag in tags)) for part in range(3))
    return f"{distribution.name.replace('-', '_')}-{distribution.version}-{compressed}.whl"


def pack(distribution: Distribution, dist_info: Path) -> tuple[str, bytes]:
    """Returns the name and the content of a wheel with the distribution's installed files.

    Scripts come back from the entry points; files that were put outside of `site-packages` are left out.

    Raises:
        LocalDistributionError: It is not complete, or too large.
    """
    root = dist_info.parent
    target = f"{distribution.name.replace('-', '_')}-{distribution.version}.dist-info"
    content = io.BytesIO()
    size_bytes = 0
    try:
        name = wheel_name(distribution, dist_info)
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            record = io.StringIO()
            rows = csv.writer(record, lineterminator="\n")
            for path in sorted(recorded_paths(dist_info)):
                parts = path.split("/")
                if os.path.isabs(path) or ".." in parts or "__pycache__" in parts:
                    continue
                if parts[0] == dist_info.name:
                    if parts[1] in _OF_THE_INSTALLER:
                        continue
                    parts[0] = target
                source = root / path
                size_bytes += source.stat().st_size
                if size_bytes > MAX_WHEEL_BYTES:
                    raise LocalDistributionError(distribution.name, f"it has more than {MAX_WHEEL_BYTES >> 20} MiB")
                _add(archive, "/".join(parts), source.read_bytes(), executable=os.access(source, os.X_OK))
                rows.writerow(("/".join(parts), "", ""))
            rows.writerow((f"{target}/RECORD", "", ""))
            _add(archive, f"{target}/RECORD", record.getvalue().encode())
    except (OSError, IndexError, ValueError) as error:
        raise LocalDistributionError(distribution.name, str(error)) from error
    return name, content.getvalue()


def _add(archive: zipfile.ZipFile, path: str, content: bytes, *, executable: bool = False) -> None:
    info = zipfile.ZipInfo(path, _EPOCH)
    info.external_attr = (0o755 if executable else 0o644) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)
