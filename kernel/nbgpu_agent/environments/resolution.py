"""Has uv resolve pins for this node, and finds out all that cannot be had rather than the first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from nbgpu_agent.environments.plan import Pins, Resolution
from nbgpu_agent.environments.uv import Uv
from nbgpu_agent.errors import BuildFailedError, UnreachableIndexError
from nbgpu_protocol.snapshot import normalised_name

_MAX_CULPRITS = 200
_UNREACHABLE = (
    "client error (Connect)",
    "dns error",
    "Could not connect",
    "error sending request",
    "Connection refused",
    "operation timed out",
)
_NO_WHEEL = "there is no wheel of it for this platform and Python"
_OTHER_PYTHON = "it is not made for this version of Python"
_REASONS = (
    ("does not satisfy Python", _OTHER_PYTHON),
    (" requires Python ", _OTHER_PYTHON),
    ("yanked", "that version was withdrawn (yanked) by its authors"),
    ("no wheels with a matching", _NO_WHEEL),
    ("has no wheels", _NO_WHEEL),
    ("no usable wheels", _NO_WHEEL),
    ("not found in the cache", "it is not in uv's cache, and the agent is offline"),
    ("needs to be downloaded", "it is not in uv's cache, and the agent is offline"),
    ("was not found", "no index that the agent knows has it"),
    ("there is no version of", "no index that the agent knows has that version"),
    ("there are no versions of", "no index that the agent knows has it"),
    ("Failed to build", "it cannot be built here"),
    ("Failed to fetch", "it cannot be fetched"),
)
_YANKED = re.compile(
    r"^warning: `(?P<name>[A-Za-z0-9._-]+)==[^`]+` is yanked(?: \(reason: \"(?P<reason>.*)\"\))?", re.MULTILINE
)
_PINNED = re.compile(r"^\s*([A-Za-z0-9._-]+?)\s*(?:==|@|>=|$)")


async def resolve(uv: Uv, pins: Pins, folder: Path, *, complete: bool = False) -> Resolution:
    """Returns the exact list for the pins.

    First without building anything, so that what has no wheel is known; then, for those alone, from source. Pins are
    overrides too: environments whose metadata contradict each other work for their owners, and are built as they are.

    Args:
        folder: For files that uv reads.
        complete: What the pins need is there: it is asked of them alone whether they can be had.

    Raises:
        UnreachableIndexError: An index does not answer.
        BuildFailedError: uv fails for a reason that names no distribution.
    """
    requirements = dict(pins.requirements)
    sources = {name: line for name, line in requirements.items() if " @ " in line and not line.endswith(".whl")}
    wheels = {name: line for name, line in requirements.items() if name not in sources}
    without_wheel: dict[str, str] = {}
    remarks: dict[str, str] = {}
    relaxed: dict[str, str] = {}
    options = ["--no-deps"] if complete else []
    resolved = await _resolve_all(uv, pins, wheels, without_wheel, remarks, relaxed, folder, [*options, "--no-build"])
    impossible: dict[str, str] = {}
    if sources or without_wheel:
        everything = {**requirements, **{name: name for name in relaxed}}
        resolved = await _resolve_all(uv, pins, everything, impossible, remarks, relaxed, folder, options)
        for name, why in without_wheel.items():
            if name in impossible:
                impossible[name] = why if "wheel" not in why else impossible[name]
    return Resolution(resolved, impossible, frozenset({*sources, *without_wheel} - impossible.keys()), remarks, relaxed)


async def _resolve_all(
    uv: Uv,
    pins: Pins,
    requirements: dict[str, str],
    culprits: dict[str, str],
    remarks: dict[str, str],
    relaxed: dict[str, str],
    folder: Path,
    options: list[str],
) -> Mapping[str, str]:
    """Resolves what can be; what cannot is moved from the requirements to the culprits."""
    file, overrides = folder / "pins.txt", folder / "overrides.txt"
    while True:
        lines = [*requirements.values()]
        uv.write(file, "".join(f"{line}\n" for line in lines))
        # What others need of these, they need nowhere.
        lines += [
            f'{name} ; python_version < "3"' for name in sorted({*pins.excluded, *culprits} - requirements.keys())
        ]
        uv.write(overrides, "".join(f"{line}\n" for line in lines))
        arguments = [
            "pip", "compile", str(file), "--override", str(overrides), "--python", str(pins.python.path),
            "--no-header", "--no-annotate", "--prerelease", "allow",
            *options,
        ]  # fmt: skip
        if pins.torch and uv.torch_backend is not None:
            arguments += ["--torch-backend", uv.torch_backend]
        result = await uv.run(arguments, folder=folder)
        if result.exit_code == 0:
            remarks.update(find_remarks(result.log))
            return _lines(result.output)
        found = find_culprits(result.log, requirements)
        if not found:
            refuse_unreachable(result.log)
            raise BuildFailedError(f"uv cannot resolve the environment:\n{result.log}")
        for name, why in found.items():
            line = requirements.pop(name)
            if pins.other_python and why in (_OTHER_PYTHON, _NO_WHEEL) and "==" in line:
                requirements[name] = name
                relaxed[name] = f"{line.partition('==')[2]} is not made for Python {pins.python.minor}"
            else:
                culprits[name] = why
        if len(culprits) > _MAX_CULPRITS:
            raise BuildFailedError(f"uv cannot have {len(culprits)} distributions or more:\n{result.log}")


def find_remarks(log: str) -> dict[str, str]:
    """Returns, by name, what uv warns of: versions that are pinned, and were withdrawn since."""
    return {
        normalised_name(match["name"]): "withdrawn by its authors" + (f": {match['reason']}" if match["reason"] else "")
        for match in _YANKED.finditer(log)
    }


def find_culprits(log: str, requirements: Mapping[str, str]) -> dict[str, str]:
    """Returns the requirements that a failure of uv is about, with the reason; those that it names before others do."""
    text = " ".join(log.split())
    reason = next((words for mark, words in _REASONS if mark.lower() in text.lower()), None)
    if reason is None or (reason == "it cannot be fetched" and is_unreachable(log)):
        return {}
    positions = {}
    for name in requirements:
        spelled = re.sub("-", "[-_.]+", re.escape(name).replace("\\-", "-"))
        # The name with what follows where uv speaks of it, not as a part of another name or of a path.
        match = re.search(rf"(?<![\w./-])`?{spelled}(?![\w./-]|-\w)", text, re.IGNORECASE)
        if match is not None:
            positions[name] = match.start()
    if not positions:
        return {}
    first = min(positions, key=lambda name: positions[name])
    return {first: reason}


def is_unreachable(log: str) -> bool:
    return any(mark.lower() in log.lower() for mark in _UNREACHABLE)


def refuse_unreachable(log: str) -> None:
    """Says in words that an index does not answer, if that is what the log says.

    Raises:
        UnreachableIndexError: It is.
    """
    if not is_unreachable(log):
        return
    url = re.search(r"https?://[^\s`'\"<>)]+", log)
    # A URL may hold a password.
    where = re.sub(r"//[^/@]*@", "//", url.group()) if url else "the package index"
    raise UnreachableIndexError(
        f"{where} does not answer the agent", "look at the node's network, or set UV_INDEX_URL where the agent starts"
    )


def _lines(output: str) -> dict[str, str]:
    found = {}
    for line in output.splitlines():
        text = line.partition("#")[0].strip() if " @ " not in line else line.strip()
        match = _PINNED.match(text)
        if text and not text.startswith("-") and match is not None:
            found[normalised_name(match.group(1))] = text.partition(" ;")[0]
    return found
