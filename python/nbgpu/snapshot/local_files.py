"""Finds the files that no index has: modules of the notebook's own folder, and editable projects."""

from __future__ import annotations

import ast
import functools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from nbgpu import errors
from nbgpu.snapshot.distributions import Installed
from nbgpu.snapshot.ignored import IgnoreRules
from nbgpu.snapshot.wheels import recorded_paths
from nbgpu_protocol.snapshot import EDITABLES, MAX_FILES, WORKSPACE, LocalFile, digest_of_bytes

LIMIT_BYTES = 64 << 20
_NAMED_OFFENDERS = 5
_MIB = 1 << 20
_IMPORT = re.compile(r"^[ \t]*(?:import|from)[ \t]+([^\n#]+)", re.MULTILINE)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


class LocalFilesTooLargeError(errors.UserError):
    """Raised when the local files of a notebook are more than anybody wants to send before a cell.

    Args:
        size_bytes: Of all.
        limit_bytes: What is allowed.
        largest: The largest files and their sizes.
    """

    hint = "list what the cell does not need in a .nbgpuignore file, in the form of a .gitignore"

    def __init__(self, size_bytes: int, limit_bytes: int, largest: list[tuple[str, int]]) -> None:
        super().__init__(size_bytes, limit_bytes, largest)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        self.largest = largest

    def message(self) -> str:
        names = "\n".join(f"    {size / _MIB:8.1f} MiB  {path}" for path, size in self.largest)
        return (
            f"the local modules are {self.size_bytes / _MIB:.1f} MiB, {self.limit_bytes / _MIB:.0f} MiB are allowed;"
            f" the largest:\n{names}"
        )


class TooManyLocalFilesError(errors.UserError):
    """Raised when a folder of local modules has more files than a snapshot holds."""

    hint = LocalFilesTooLargeError.hint

    def __init__(self, limit: int, folder: str) -> None:
        super().__init__(limit, folder)
        self.limit = limit
        self.folder = folder

    def message(self) -> str:
        return f"there are more than {self.limit} files among the local modules, at {self.folder}"


@dataclass
class LocalFileScan:
    """The local files, hashed. Scanned again, it hashes only what has changed.

    Args:
        limit_bytes: Of all files.
    """

    limit_bytes: int = LIMIT_BYTES
    _hashed: dict[str, tuple[tuple[int, int, int], LocalFile]] = field(default_factory=dict)

    def scan(self, roots: Mapping[str, Path]) -> dict[str, tuple[LocalFile, Path]]:
        """Returns every file below the roots, or the root itself where it is a file, by its path in the snapshot.

        Args:
            roots: Where each path in the snapshot is found.

        Raises:
            LocalFilesTooLargeError: They are more than allowed.
            TooManyLocalFilesError: They are too many.
        """
        found: dict[str, tuple[LocalFile, Path]] = {}
        sizes: dict[str, int] = {}
        walked: list[tuple[str, Path, os.stat_result]] = []
        for target, root in sorted(roots.items()):
            for relative, path, status in _walk(root):
                name = f"{target}/{relative}" if relative else target
                if name in sizes:
                    continue
                sizes[name] = status.st_size
                walked.append((name, path, status))
                if len(sizes) > MAX_FILES:
                    raise TooManyLocalFilesError(MAX_FILES, str(path.parent))
        if sum(sizes.values()) > self.limit_bytes:
            largest = sorted(sizes.items(), key=lambda item: -item[1])[:_NAMED_OFFENDERS]
            raise LocalFilesTooLargeError(sum(sizes.values()), self.limit_bytes, largest)
        hashed = {}
        for name, path, status in walked:
            stamp = (status.st_mtime_ns, status.st_size, status.st_mode)
            cached = self._hashed.get(name)
            if cached is None or cached[0] != stamp:
                try:
                    content = path.read_bytes()
                except OSError:  # removed this moment, or not for us
                    continue
                cached = (stamp, LocalFile(name, digest_of_bytes(content), len(content), bool(status.st_mode & 0o111)))
            hashed[name] = cached
            found[name] = (cached[1], path)
        self._hashed = hashed
        return found


def workspace_roots(
    folder: Path, modules: Mapping[str, ModuleType], imported: Iterable[str], elsewhere: Iterable[Path]
) -> dict[str, Path]:
    """Returns the modules of a folder that a notebook uses, by their paths in the snapshot.

    These are the ones that it has imported, those that a cell is about to import, and what these import in turn.

    Args:
        folder: The notebook's.
        modules: `sys.modules`.
        imported: Names of modules that a cell imports.
        elsewhere: Folders below it whose modules are not the notebook's own: environments, editable projects.
    """
    excluded = {os.path.realpath(str(path)) for path in (*elsewhere, sys.prefix)}
    prefix = f"{folder}{os.sep}"
    names = {name for name in imported if "." not in name}
    for name, module in list(modules.items()):
        if "." not in name and _is_below(module, prefix, excluded):
            names.add(name)
    roots: dict[str, Path] = {}
    while names:
        name = names.pop()
        root = _module_root(folder, name)
        if root is None or f"{WORKSPACE}/{root.name}" in roots or _is_excluded(root, excluded):
            continue
        roots[f"{WORKSPACE}/{root.name}"] = root
        for source in [root] if root.is_file() else root.rglob("*.py"):
            try:
                status = source.stat()
                names |= _imports_of(source, status.st_mtime_ns, status.st_size)
            except OSError:
                continue
    return roots


@functools.lru_cache(maxsize=MAX_FILES)
def _imports_of(source: Path, changed_ns: int, size_bytes: int) -> frozenset[str]:
    return frozenset(imported_names(source.read_text(encoding="utf-8", errors="replace")))


def imported_names(source: str) -> set[str]:
    """Returns the top-level modules that a source imports; of one that is not Python, those that its lines name."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return {
            match.group().partition(".")[0]
            for line in _IMPORT.findall(source)
            for part in line.split(" import ")[0].split(",")
            if (match := _IDENTIFIER.match(part.strip()))
        }
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def editable_roots(installed: Iterable[Installed]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Returns the folders of editable installs by their paths in the snapshot, and which of those are on `sys.path`."""
    roots: dict[str, Path] = {}
    entries = []
    for each in installed:
        distribution = each.distribution
        if distribution.origin.value != "editable":
            continue
        base = f"{EDITABLES}/{distribution.name}"
        found = dict(_importable(each))
        if not found:
            continue
        entries.append(base)
        for name, path in found.items():
            if name:
                roots[f"{base}/{path.name if path.is_file() else name}"] = path
            else:
                roots.update(_top_level(base, path))
        info = each.folder
        for name in ("METADATA", "entry_points.txt"):
            if (info / name).is_file():
                roots[f"{base}/{info.name}/{name}"] = info / name
    return roots, tuple(entries)


def _top_level(base: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields what can be imported from a folder that is on `sys.path`: not its documents, tests' data and builds."""
    rules = IgnoreRules().within(folder, "")
    for entry in os.scandir(folder):
        is_folder = entry.is_dir()
        if rules.ignores(entry.name, is_folder=is_folder) or not entry.name.partition(".")[0].isidentifier():
            continue
        path = Path(entry.path)
        importable = any(path.glob("*.py")) or any(path.glob("*/__init__.py")) if is_folder else path.suffix == ".py"
        if importable:
            yield f"{base}/{entry.name}", path


def _importable(installed: Installed) -> Iterator[tuple[str, Path]]:
    """Yields what an editable install makes importable: a package's name and place, or "" and a folder."""
    site_packages = installed.folder.parent
    try:
        recorded = recorded_paths(installed.folder)
    except OSError:
        recorded = []
    for path in recorded:
        file = site_packages / path
        if "/" in path or not file.is_file():
            continue
        if path.endswith(".pth"):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.strip() and not line.startswith(("import ", "import\t", "#")) and os.path.isdir(line.strip()):
                    yield "", Path(line.strip())
        elif path.startswith("__editable__") and path.endswith(".py"):
            yield from _finder_mapping(file)


def _finder_mapping(file: Path) -> Iterator[tuple[str, Path]]:
    """Yields what setuptools' import hook maps."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id == "MAPPING" and isinstance(value, ast.Dict):
            for name, path in ast.literal_eval(value).items():
                place = Path(path) if os.path.exists(path) else Path(f"{path}.py")
                if place.exists():
                    yield str(name).replace(".", "/"), place


def _walk(root: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    if root.is_file():
        yield "", root, root.stat()
        return
    stack = [(root, "", IgnoreRules().within(root, ""))]
    while stack:
        folder, relative, rules = stack.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            path = f"{relative}/{entry.name}" if relative else entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if rules.ignores(path, is_folder=is_folder):
                continue
            if is_folder:
                stack.append((Path(entry.path), path, rules.within(Path(entry.path), path)))
            elif entry.is_file():
                yield path, Path(entry.path), entry.stat()


def _is_below(module: object, prefix: str, excluded: set[str]) -> bool:
    # Some packages put objects of their own there, whose attributes are anything.
    file = getattr(module, "__file__", None)
    places = [file] if isinstance(file, str) else []
    if not places and isinstance(module, ModuleType):
        places = [str(place) for place in getattr(module, "__path__", ())]
    return any(
        os.path.isabs(place) and place.startswith(prefix) and not _is_excluded(Path(place), excluded)
        for place in places
    )


def _is_excluded(path: Path, excluded: set[str]) -> bool:
    real = os.path.realpath(path)
    return any(real == each or real.startswith(f"{each}{os.sep}") for each in excluded)


def _module_root(folder: Path, name: str) -> Path | None:
    package, module = folder / name, folder / f"{name}.py"
    if (package / "__init__.py").is_file():
        return package
    if module.is_file():
        return module
    return package if package.is_dir() and any(package.glob("*.py")) else None
