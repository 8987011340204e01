"""The snapshot: the environment of a notebook as data, which the notebook's side captures and the agent's side builds.

It travels as a blob, in canonical JSON, and is named by that blob's digest: equal environments have equal digests.
"""

from __future__ import annotations

import enum
import json
import re
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from nbgpu_protocol.blobs import digest_of, new_hash

FORMAT = 1
WORKSPACE = "workspace"
"""The folder, in the paths of files, of what lies in the notebook's own folder."""
EDITABLES = "editables"
"""The folder, in the paths of files, of editable projects, each in a folder of its own."""
MAX_FILES = 20_000

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*")
_PYTHON_VERSION = re.compile(r"\d+\.\d+(\.\d+)?[A-Za-z0-9.+]*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_URL = re.compile(r"(git\+|hg\+|svn\+|bzr\+)?(https?|ssh|git|file)://[^\s;'\"#]+(#subdirectory=[^\s;'\"#]+)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SnapshotFormatError(ValueError):
    """Raised when bytes are no snapshot, or one of a version that is not known here."""


class Origin(enum.Enum):
    """Where a distribution was installed from."""

    INDEX = "index"
    URL = "url"
    """`location` is the URL."""
    VCS = "vcs"
    """`location` is `git+https://…@COMMIT`."""
    WHEEL = "wheel"
    """From a wheel file or a folder of the notebook's machine; `location` is the digest of a blob, a wheel."""
    EDITABLE = "editable"
    """Its files are among the snapshot's."""
    CONDA = "conda"


@dataclass(frozen=True)
class Distribution:
    """One installed distribution."""

    name: str
    """Normalised: `scikit-learn`."""
    version: str
    origin: Origin = Origin.INDEX
    location: str = ""
    """As its origin says; else empty."""
    requires: tuple[str, ...] = ()
    """What it requires, as its metadata has it (PEP 508)."""
    operating_systems: tuple[str, ...] = ()
    """Values of `sys.platform` for which it is made, where it names any and not all: `("darwin",)`."""
    pure: bool = True
    """Its wheel runs on every platform."""
    requested: bool = False
    """A person asked for it, rather than another distribution."""
    wheel_name: str = ""
    """File name of the wheel, with WHEEL."""


@dataclass(frozen=True)
class LocalFile:
    """A file of the notebook's folder or of an editable project."""

    path: str
    """Relative, with `/`; its first part is WORKSPACE or EDITABLES."""
    digest: str
    size_bytes: int
    executable: bool = False


@dataclass(frozen=True)
class Snapshot:
    """The environment of a notebook, without any value of a variable."""

    python_version: str
    """Such as `3.11.7`."""
    implementation: str
    """`sys.implementation.name`."""
    platform: str
    """`sys.platform`."""
    machine: str
    """`platform.machine()`."""
    libc: str = ""
    """Such as `glibc 2.36`; empty where there is none to name."""
    distributions: tuple[Distribution, ...] = ()
    """By name."""
    files: tuple[LocalFile, ...] = ()
    """By path."""
    path_entries: tuple[str, ...] = ()
    """Folders among those of the files that are on `sys.path`, besides WORKSPACE, in that order."""
    variables: tuple[str, ...] = ()
    """Names of the environment variables that the session gets."""
    any_python: bool = False
    """Where the node has no Python of this minor version, the nearest that it has will do."""

    @property
    def python_minor(self) -> str:
        return ".".join(self.python_version.split(".")[:2])

    def to_bytes(self) -> bytes:
        """Returns its canonical form."""
        fields = {"format": FORMAT, **asdict(self)}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), default=_plain).encode()

    def digest(self) -> str:
        return digest_of_bytes(self.to_bytes())


def snapshot_from_bytes(content: bytes) -> Snapshot:
    """Returns the snapshot, checked: its names, versions and paths can be handed to tools and joined to folders.

    Raises:
        SnapshotFormatError: It is none.
    """
    try:
        fields = json.loads(content)
        if fields.pop("format") != FORMAT:
            raise SnapshotFormatError("the snapshot is of a version that this nbgpu does not know")
        distributions = tuple(_distribution(each) for each in fields.pop("distributions"))
        files = tuple(LocalFile(**each) for each in fields.pop("files"))
        lists: dict[str, Any] = {name: tuple(fields.pop(name)) for name in ("path_entries", "variables")}
        snapshot = Snapshot(distributions=distributions, files=files, **lists, **fields)
        _check(snapshot)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, SnapshotFormatError):
            raise
        raise SnapshotFormatError(f"this is no snapshot: {type(error).__name__}: {error}") from error
    return snapshot


def digest_of_bytes(content: bytes) -> str:
    """Returns the digest by which a blob with this content is known."""
    content_hash = new_hash()
    content_hash.update(content)
    return digest_of(content_hash)


def normalised_name(name: str) -> str:
    """Returns the name under which a distribution is known, whatever its spelling (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} is not a part of a snapshot")


def _distribution(fields: dict[str, Any]) -> Distribution:
    lists: dict[str, Any] = {name: tuple(fields.pop(name)) for name in ("requires", "operating_systems")}
    return Distribution(origin=Origin(fields.pop("origin")), **lists, **fields)


def _check(snapshot: Snapshot) -> None:
    _expect(_PYTHON_VERSION, "Python version", snapshot.python_version)
    for distribution in snapshot.distributions:
        _expect(_NAME, "distribution", distribution.name)
        _expect(_VERSION, f"version of {distribution.name}", distribution.version)
        if distribution.origin in (Origin.URL, Origin.VCS):
            _expect(_URL, f"URL of {distribution.name}", distribution.location)
        if distribution.origin is Origin.WHEEL:
            _expect(_DIGEST, f"digest of {distribution.name}", distribution.location)
            if PurePosixPath(distribution.wheel_name).name != distribution.wheel_name or not distribution.wheel_name:
                raise SnapshotFormatError(f"{distribution.wheel_name!r} is no file name")
    if len(snapshot.files) > MAX_FILES:
        raise SnapshotFormatError(f"{len(snapshot.files)} files, {MAX_FILES} at most")
    for file in snapshot.files:
        _check_path(file.path)
        _expect(_DIGEST, f"digest of {file.path}", file.digest)
    for entry in snapshot.path_entries:
        _check_path(entry)
    for variable in snapshot.variables:
        _expect(_VARIABLE, "environment variable", variable)


def _expect(pattern: re.Pattern[str], what: str, text: str) -> None:
    if not pattern.fullmatch(text):
        raise SnapshotFormatError(f"{text[:100]!r} is no {what}")


def _check_path(path: str) -> None:
    parts = path.split("/")
    if parts[0] not in (WORKSPACE, EDITABLES) or len(parts) < 2 or {"", ".", ".."} & set(parts) or "\0" in path:
        raise SnapshotFormatError(f"{path[:200]!r} is no path of a snapshot")
