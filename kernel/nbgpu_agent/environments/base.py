"""Reads the environment that the node's owner provides, and links distributions of it into environments that are built.

They are linked file by file, as their records list them, rather than put on `sys.path` as a whole: a `.pth` file would
show everything that the base has, in its own versions, to `import`, to `importlib.metadata` and to uv.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import errno
import importlib.metadata
import os
from collections.abc import Iterable
from pathlib import Path

from nbgpu_agent.environments.plan import BaseEnvironment, Python
from nbgpu_agent.errors import InvalidRequestError
from nbgpu_protocol.snapshot import Distribution, normalised_name

_DESCRIBE = (
    "import platform, sys, sysconfig;"
    "print(platform.python_version(), sys.implementation.name, sysconfig.get_path('purelib'), sep='\\n')"
)
_TIMEOUT_S = 30.0
_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP})
# As uv writes them into relocatable environments: the interpreter beside the script, wherever both are.
_SCRIPT = """#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"
' '''
import sys
from {module} import {top}
sys.exit({call}())
"""


class BaseReader:
    """Reads one base environment; it is read again when something was installed in it.

    Args:
        folder: Of a virtual environment.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamp: int | None = None
        self._read: BaseEnvironment | None = None

    async def read(self) -> BaseEnvironment:
        """Returns it as it is now. 2 ms a distribution the first time.

        Raises:
            InvalidRequestError: It is no virtual environment whose Python runs.
        """
        stamp = None if self._read is None else _stamp(self._read.site_packages)
        if self._read is None or stamp != self._stamp:
            python, site_packages = await self._describe()
            self._stamp = _stamp(site_packages)
            distributions = await asyncio.to_thread(read_distributions, site_packages)
            self._read = BaseEnvironment(python, site_packages, distributions)
        return self._read

    async def _describe(self) -> tuple[Python, Path]:
        path = self._folder / "bin" / "python"
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        output = b""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            process = await asyncio.create_subprocess_exec(
                path,
                "-I",
                "-c",
                _DESCRIBE,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=variables,
            )
            try:
                output, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        words = output.decode(errors="replace").splitlines()
        if len(words) != 3:
            raise InvalidRequestError(
                f"the base environment {self._folder} has no Python that runs at {path}",
                "--base-environment takes the folder of a virtual environment",
            )
        return Python(words[0], path, words[1]), Path(words[2])


def read_distributions(site_packages: Path) -> tuple[Distribution, ...]:
    """Returns what is installed there by a record that lists its files: not what is editable."""
    found = {}
    for each in importlib.metadata.distributions(path=[str(site_packages)]):
        name = each.metadata["Name"]
        if (
            not name
            or each.read_text("RECORD") is None
            or '"editable": true' in (each.read_text("direct_url.json") or "")
        ):
            continue
        found[normalised_name(name)] = Distribution(
            normalised_name(name), each.version, requires=tuple(each.requires or ())
        )
    return tuple(found[name] for name in sorted(found))


def link_distributions(base: BaseEnvironment, names: Iterable[str], environment: Path) -> None:
    """Links the files of these distributions into the environment: hard where that can be, else by symbolic links.

    Blocks. 25 µs a file, so that a CUDA torch of 20,000 files takes half a second, and no space. Scripts are made
    anew, for the environment's interpreter.

    Raises:
        OSError: A file cannot be linked, or the environment has it already.
    """
    target = next((environment / "lib").glob("python*/site-packages"))
    wanted, made = set(names), {target}
    for each in importlib.metadata.distributions(path=[str(base.site_packages)]):
        if normalised_name(each.metadata["Name"] or "") not in wanted:
            continue
        for row in csv.reader((each.read_text("RECORD") or "").splitlines()):
            if not row or os.path.isabs(row[0]) or ".." in Path(row[0]).parts or row[0].endswith(".pyc"):
                continue  # a script, or of another place
            source, place = base.site_packages / row[0], target / row[0]
            if place.parent not in made:
                place.parent.mkdir(parents=True, exist_ok=True)
                made.add(place.parent)
            _link(source, place)
        for entry in each.entry_points.select(group="console_scripts"):
            script = environment / "bin" / entry.name
            if "/" not in entry.name and not script.exists():
                top = entry.attr.partition(".")[0]
                script.write_text(_SCRIPT.format(module=entry.module, top=top, call=entry.attr))
                os.chmod(script, 0o755)


def _link(source: Path, place: Path) -> None:
    with contextlib.suppress(FileExistsError, FileNotFoundError):  # two own the file; somebody removed it
        try:
            os.link(source, place)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.symlink(source, place)


def _stamp(folder: Path) -> int | None:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None
