"""How much there is to download: what indexes say of their wheels, and where they do not, the servers of the files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from nbgpu_agent.environments.plan import Python
from nbgpu_agent.environments.uv import Uv
from nbgpu_agent.errors import BuildFailedError
from nbgpu_protocol.snapshot import normalised_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

_WITHIN_S = 20.0
"""A plan is shown without sizes rather than later."""
_HEAD_TIMEOUT_S = 5.0
_HEADS_AT_ONCE = 16


async def find_sizes(uv: Uv, python: Python, requirements: Iterable[str], folder: Path) -> dict[str, int]:
    """Returns the bytes that each requirement takes to download, by name; what cannot be found out is not in it.

    Args:
        requirements: Exact: `name==version`.
        folder: For files that uv reads.
    """
    lines = [line for line in requirements if "==" in line]
    if not lines:
        return {}
    try:
        return await asyncio.wait_for(_find(uv, python, lines, folder), _WITHIN_S)
    except (asyncio.TimeoutError, BuildFailedError):
        return {}


async def _find(uv: Uv, python: Python, lines: list[str], folder: Path) -> dict[str, int]:
    file = folder / "sizes.txt"
    uv.write(file, "".join(f"{line}\n" for line in lines))
    arguments = ["pip", "compile", str(file), "--no-deps", "--no-build", "--format", "pylock.toml", "--no-header"]
    arguments += ["--python", str(python.path), "--prerelease", "allow"]
    if uv.torch_backend is not None and any(line.startswith("torch") for line in lines):
        arguments += ["--torch-backend", uv.torch_backend]
    result = await uv.run(arguments, folder=folder)
    if result.exit_code:
        return {}
    found = dict[str, int | None]()
    elsewhere = dict[str, str]()
    for name, wheel in chosen_wheels(result.output, python).items():
        url, size_bytes = str(wheel.get("url") or ""), wheel.get("size")
        if isinstance(size_bytes, int):
            found[name] = size_bytes
        elif url.startswith("file:"):
            found[name] = _size_of_file(url)
        elif url.startswith(("http://", "https://")) and "UV_OFFLINE" not in uv.variables:
            elsewhere[name] = url
    limit = asyncio.Semaphore(_HEADS_AT_ONCE)

    async def ask(url: str) -> int | None:
        async with limit:
            return await asyncio.to_thread(_ask_server, url)

    found |= dict(zip(elsewhere, await asyncio.gather(*map(ask, elsewhere.values())), strict=True))
    return {name: size_bytes for name, size_bytes in found.items() if size_bytes is not None}


def chosen_wheels(lock: str, python: Python) -> dict[str, Mapping[str, Any]]:
    """Returns, of each package of a `pylock.toml` (PEP 751), the wheel that is installed for the interpreter."""
    try:
        packages = tomllib.loads(lock).get("packages", [])
    except tomllib.TOMLDecodeError:
        return {}
    version = tuple(int(part) for part in python.minor.split("."))
    tags = [*cpython_tags(version), *compatible_tags(version, f"cp{version[0]}{version[1]}")]
    ranks = {tag: rank for rank, tag in enumerate(tags)}
    chosen: dict[str, Mapping[str, Any]] = {}
    for package in packages:
        wheels = package.get("wheels") or []
        if wheels:
            chosen[normalised_name(package["name"])] = min(wheels, key=lambda wheel: _rank(wheel, ranks))
    return chosen


def _rank(wheel: Mapping[str, Any], ranks: Mapping[Tag, int]) -> int:
    file = wheel.get("name") or urllib.parse.unquote(str(wheel.get("url", "")).rpartition("/")[2])
    try:
        return min(ranks.get(tag, len(ranks)) for tag in parse_wheel_filename(file)[3])
    except InvalidWheelFilename:
        return len(ranks)


def _size_of_file(url: str) -> int | None:
    try:
        return os.stat(urllib.request.url2pathname(urllib.parse.urlsplit(url).path)).st_size
    except OSError:
        return None


def _ask_server(url: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=_HEAD_TIMEOUT_S) as response:
            return int(response.headers["Content-Length"])
    return None
