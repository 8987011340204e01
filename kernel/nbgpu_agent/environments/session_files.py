"""The local files of a notebook in its session's folder: laid out from blobs, and changed as the notebook's change."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.isolation.confined import folder_beneath
from nbgpu_agent.isolation.os_user import OsUser, acting
from nbgpu_protocol.snapshot import EDITABLES, WORKSPACE, LocalFile, Snapshot

_OWN_FOLDER = ".nbgpu"
_COPIED_BYTES = 1 << 20


class SessionFiles:
    """The files of one session. What its cells write into the folder is left alone, unless the notebook has it too.

    Args:
        folder: The session's working folder, the session's alone.
        os_user: Whose the files are, with whose rights all is done in the folder; None: the agent's.
        confined: Whether links of the session's that lead out of the folder are not followed, as the agent's own rights
            would let it.
    """

    def __init__(
        self, folder: Path, blobs: BlobStore, os_user: OsUser | None = None, *, confined: bool = False
    ) -> None:
        self._os_user = os_user
        self._confined = confined
        self._folder = folder
        self._blobs = blobs
        self._laid_out: dict[str, LocalFile] = {}

    def laid_out(self) -> list[LocalFile]:
        """Returns the files of the notebook that are in the folder now."""
        return list(self._laid_out.values())

    def restore(self, files: Iterable[LocalFile]) -> None:
        """Goes on where an earlier agent was: these are in the folder."""
        self._laid_out = {file.path: file for file in files}

    def path_entries(self, snapshot: Snapshot) -> tuple[str, ...]:
        """Returns where the snapshot's entries of `sys.path` lie."""
        return tuple(str(self._place(entry)) for entry in snapshot.path_entries)

    def lay_out(self, files: Iterable[LocalFile]) -> list[str]:
        """Makes the folder have these files, and not those that it had of the notebook before. Blocks.

        Returns:
            The paths of what changed or went: nothing the first time, when no module can have been imported.

        Raises:
            NoSuchBlobError: The content of a file was not put here.
        """
        with acting(self._os_user):
            return self._lay_out(files)

    def _lay_out(self, files: Iterable[LocalFile]) -> list[str]:
        wanted = {file.path: file for file in files}
        first = not self._laid_out
        changed = []
        for path in self._laid_out.keys() - wanted.keys():
            changed.append(str(self._place(path)))
            with contextlib.suppress(OSError), self._parent(path) as parent:
                (parent / self._place(path).name).unlink()
            del self._laid_out[path]
        for path, file in wanted.items():
            before = self._laid_out.get(path)
            if before == file:
                continue
            self._write(file)
            self._laid_out[path] = file
            if before is not None:
                changed.append(str(self._place(path)))
        return [] if first else changed

    def _write(self, file: LocalFile) -> None:
        with self._parent(file.path, make=True) as parent:
            # A copy: the session may write into its file, and the blob is everybody's.
            partial = parent / f".{secrets.token_hex(8)}.partial"
            try:
                with self._blobs.open(file.digest) as source, open(partial, "xb") as copy:
                    shutil.copyfileobj(source, copy, _COPIED_BYTES)
                    os.fchmod(copy.fileno(), 0o755 if file.executable else 0o644)
                os.replace(partial, parent / self._place(file.path).name)
            finally:
                partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[Path]:
        """Yields by what path the folder of a file is reached."""
        folder = self._place(path).parent
        if self._confined:
            with folder_beneath(self._folder, str(folder.relative_to(self._folder)), make=make) as beneath:
                yield beneath
            return
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        yield folder

    def _place(self, path: str) -> Path:
        top, _, rest = path.partition("/")
        if top == WORKSPACE:
            return self._folder / rest
        assert top == EDITABLES, path
        return self._folder / _OWN_FOLDER / EDITABLES / rest
