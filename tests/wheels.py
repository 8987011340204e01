"""Wheels for the tests of environments: tiny ones made on the spot, and this environment's own, packed again."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from nbgpu.snapshot.distributions import DistributionScan, Installed
from nbgpu.snapshot.wheels import pack, recorded_paths
from nbgpu_protocol.snapshot import normalised_name


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    requires: Sequence[str] = (),
    code: str = "",
    tag: str = "py3-none-any",
    classifiers: Sequence[str] = (),
    requires_python: str = "",
) -> Path:
    """Writes a wheel with one package, whose `__version__` is the version."""
    package = name.replace("-", "_")
    info = f"{package}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Classifier: {classifier}" for classifier in classifiers]
    metadata += [f"Requires-Python: {requires_python}"] if requires_python else []
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    files = {
        f"{package}/__init__.py": f"__version__ = {version!r}\n{code}",
        f"{info}/METADATA": "\n".join([*metadata, "", "A package of the tests.", ""]),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{package}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD")))
    return path


def make_source_distribution(folder: Path, name: str, version: str, *, setup: str) -> Path:
    """Writes a source distribution that its own `backend.py`, with this content, builds."""
    import io
    import tarfile

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n',
        "backend.py": setup,
    }
    with tarfile.open(path, "w:gz") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{name}-{version}/{file}")
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    return path


def pack_installed(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Packs what is installed here of these names, and all that they need, as wheels; returns names and versions."""
    packed = {}
    folder.mkdir(parents=True, exist_ok=True)
    for each in _installed_with_needs(names):
        packed[each.distribution.name] = each.distribution.version
        file, content = pack(each.distribution, each.folder)
        (folder / file).write_bytes(content)
    return packed


def link_installed(site_packages: Path, names: Iterable[str]) -> None:
    """Installs what is installed here of these names, and all that they need, in another environment by links.

    For what is too large to be packed.
    """
    for each in _installed_with_needs(names):
        own = each.folder.parent
        for top in {path.partition("/")[0] for path in recorded_paths(each.folder)}:
            if (own / top).exists() and not (site_packages / top).exists():
                (site_packages / top).symlink_to(own / top)


def _installed_with_needs(names: Iterable[str]) -> list[Installed]:
    installed = {each.distribution.name: each for each in DistributionScan().scan()}
    wanted, found = [normalised_name(name) for name in names], dict[str, Installed]()
    while wanted:
        name = wanted.pop()
        if name in found or name not in installed:
            continue
        found[name] = installed[name]
        for text in installed[name].distribution.requires:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(normalised_name(requirement.name))
    return list(found.values())
