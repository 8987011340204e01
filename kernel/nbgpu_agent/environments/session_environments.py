"""Which environment and files each session has, from before its first kernel until it is closed."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from nbgpu_agent.environments.materialising import Materialiser
from nbgpu_agent.environments.platforms import python_minor
from nbgpu_agent.environments.progress import OnProgress
from nbgpu_agent.environments.session_files import SessionFiles
from nbgpu_agent.errors import EnvironmentImpossibleError, InvalidRequestError
from nbgpu_agent.journal_store import write_side_file
from nbgpu_protocol.snapshot import LocalFile

if TYPE_CHECKING:
    from nbgpu_agent.blobs import BlobStore
    from nbgpu_agent.sessions import Session

logger = logging.getLogger(__name__)

_SIDE_FILE = "environments.json"


@dataclass
class _Holding:
    files: SessionFiles
    materialiser: Materialiser
    environments: list[str] = field(default_factory=list)
    """All that its kernels have run in: what was imported from one of them may need its files still."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class SessionEnvironments:
    """Prepares sessions for their kernels, and keeps them up to date. For one event loop.

    Args:
        materialiser: Of all environments, or of the owner's where others have their own.
        blobs: With the files of notebooks.
        make_materialiser: Makes that of a user whose sessions run as another user of the operating system; returns
            None where they share the owner's. Asked once for each.
    """

    def __init__(
        self,
        materialiser: Materialiser,
        blobs: BlobStore,
        make_materialiser: Callable[[str], Materialiser | None] = lambda owner: None,
    ) -> None:
        self.materialiser = materialiser
        self._materialisers: dict[str, Materialiser] = {}
        self._make_materialiser = make_materialiser
        self._blobs = blobs
        self._holdings: dict[str, _Holding] = {}

    def materialiser_of(self, owner: str) -> Materialiser:
        """Returns that of an owner of sessions; empty: the agent's."""
        if owner not in self._materialisers:
            self._materialisers[owner] = self._make_materialiser(owner) or self.materialiser
        return self._materialisers[owner]

    async def prepare(self, session: Session, snapshot_digest: str, on_progress: OnProgress) -> str:
        """Gives the session the snapshot's environment and files; returns the environment's id.

        Raises:
            NoSuchBlobError: The snapshot, or something that it names, was not put here.
            EnvironmentImpossibleError, BuildFailedError: As `Materialiser.materialise`; or the session's kernel is of
                another version of Python than the snapshot.
            InvalidRequestError: It is no snapshot.
        """
        materialiser = self.materialiser_of(session.owner)
        snapshot = await materialiser.read_snapshot(snapshot_digest)
        running = session.info().python_version
        if running and python_minor(running) != snapshot.python_minor and not snapshot.any_python:
            raise EnvironmentImpossibleError(
                f"the session's kernel runs Python {running}, the notebook's by now {snapshot.python_version}",
                "`%gpu close` ends the session; the next `%%gpu` cell opens one with the notebook's Python",
            )
        holding = self._holdings.get(session.id)
        if holding is None:
            files = self._files_of(session)
            holding = self._holdings[session.id] = _Holding(files, materialiser)
        async with holding.lock:
            environment = await materialiser.materialise(snapshot, on_progress, running)
            holding.environments.append(environment.id)
            if self._holdings.get(session.id) is not holding:  # closed meanwhile
                self._release(holding)
                raise InvalidRequestError("the session was closed")
            changed = await asyncio.to_thread(holding.files.lay_out, snapshot.files)
            setting = replace(
                session.setting,
                python=str(environment.python),
                environment=str(environment.folder),
                path_entries=holding.files.path_entries(snapshot),
            )
            session.update(setting, changed)
            await asyncio.to_thread(self._keep, session, holding)
        return environment.id

    def adopt(self, session: Session) -> None:
        """Goes on where an earlier agent was, with what it has kept of the session's environments and files."""
        path = session.side_file(_SIDE_FILE)
        try:
            record = json.loads(path.read_bytes()) if path is not None else None
        except (OSError, ValueError):
            record = None
        if record is None:
            return
        files = self._files_of(session)
        materialiser = self.materialiser_of(session.owner)
        files.restore(LocalFile(**each) for each in record["files"])
        self._holdings[session.id] = _Holding(files, materialiser, list(record["environments"]))
        for environment_id in record["environments"]:
            materialiser.store.acquire(environment_id)

    def _files_of(self, session: Session) -> SessionFiles:
        folder = session.make_working_folder()
        return SessionFiles(folder, self._blobs, session.os_user, confined=session.confined)

    @staticmethod
    def _keep(session: Session, holding: _Holding) -> None:
        """Writes down what the next agent is to know. Blocks."""
        path = session.side_file(_SIDE_FILE)
        if path is None:
            return
        record = {"environments": holding.environments, "files": [asdict(each) for each in holding.files.laid_out()]}
        try:
            write_side_file(path, json.dumps(record).encode())
        except OSError as error:  # the next agent lays all files out again
            logger.warning("%s cannot be written: %s", path, error)

    def forget(self, session_id: str) -> None:
        """Releases what a session had. To be called when it is closed."""
        holding = self._holdings.pop(session_id, None)
        if holding is not None:
            self._release(holding)

    def _release(self, holding: _Holding) -> None:
        released, holding.environments = holding.environments, []
        for environment_id in released:
            holding.materialiser.store.release(environment_id)
