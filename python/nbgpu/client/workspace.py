"""The Workspace service as coroutines."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from nbgpu.client.pool import Pool
from nbgpu.errors import translated
from nbgpu_protocol.file_versions import Inspected, unpacked
from nbgpu_protocol.v1 import workspace_pb2, workspace_pb2_grpc
from nbgpu_protocol.workspace import MAX_LISTED, READ

T = TypeVar("T")

NOTE_DEADLINE_S = 30.0
APPLY_DEADLINE_S = 600.0
"""For changes of at most a few hundred MB, of which the node may have to read what it has."""


@dataclass
class SessionListing:
    """What a session's folder has of what was asked for."""

    patterns: tuple[str, ...] = ()
    files: dict[str, workspace_pb2.ListedFile] = field(default_factory=dict)
    noted: dict[str, str] = field(default_factory=dict)
    """Versions that both sides had after the last sync."""


class WorkspaceClient:
    """The folder of one session, as one of the folders that sync with it sees it.

    Args:
        pool: Whose agent has the session.
        session_id: The session's.
        workspace_id: Of the folder on this side.
    """

    def __init__(self, pool: Pool, session_id: str, workspace_id: str) -> None:
        self.pool = pool
        self._session_id = session_id
        self._workspace_id = workspace_id

    @property
    def _stub(self) -> workspace_pb2_grpc.WorkspaceStub:
        return workspace_pb2_grpc.WorkspaceStub(self.pool.channel)  # another one after a cut

    async def list_files(self, patterns: Sequence[str]) -> SessionListing:
        """Returns what there is; without patterns, of what was chosen last."""
        request = workspace_pb2.ListRequest(
            session_id=self._session_id, workspace_id=self._workspace_id, patterns=patterns
        )
        listing = SessionListing()
        with translated():
            async for response in self._stub.List(request, metadata=self.pool.metadata):
                listing.patterns = tuple(response.patterns) or listing.patterns
                listing.files.update((file.path, file) for file in response.files)
                listing.noted.update((noted.path, noted.version) for noted in response.noted)
        return listing

    async def inspect(self, paths: Iterable[str]) -> AsyncIterator[tuple[str, Inspected | None]]:
        """Yields what the files are; None for one that cannot be read, or that changes while it is."""
        for some in _batches(paths):
            request = workspace_pb2.InspectRequest(session_id=self._session_id, paths=some)
            with translated():
                async for found in self._stub.Inspect(request, metadata=self.pool.metadata):
                    inspected = Inspected(
                        found.version, found.size_bytes, found.modified_unix_ns, unpacked(found.piece_digests)
                    )
                    yield found.path, inspected if found.version else None

    async def apply(self, changes: Sequence[workspace_pb2.Change]) -> list[workspace_pb2.Outcome]:
        """Makes changes, at most MAX_LISTED; returns what came of each.

        Raises:
            NoSuchBlobError: A piece is not on the node. Nothing was changed.
            DiskFullError: There is no space on the node.
        """
        request = workspace_pb2.ApplyRequest(
            session_id=self._session_id, workspace_id=self._workspace_id, changes=changes
        )
        with translated():
            response = await self._stub.Apply(request, metadata=self.pool.metadata, timeout=APPLY_DEADLINE_S)
        return list(response.outcomes)

    async def note(self, versions: Mapping[str, str], patterns: Sequence[str]) -> None:
        """Notes what both sides have now, and what a sync without patterns is about."""
        for some in [*_batches(versions.items()), []]:
            request = workspace_pb2.NoteRequest(
                session_id=self._session_id,
                workspace_id=self._workspace_id,
                noted=[workspace_pb2.NotedVersion(path=path, version=version) for path, version in some],
                patterns=() if some else patterns,
            )
            with translated():
                await self._stub.Note(request, metadata=self.pool.metadata, timeout=NOTE_DEADLINE_S)

    async def read(self, path: str, offset_bytes: int) -> AsyncGenerator[bytes, None]:
        """Yields a file's bytes from the offset on. Takes as long as it takes."""
        request = workspace_pb2.ReadRequest(session_id=self._session_id, path=path, offset_bytes=offset_bytes)
        read = self.pool.channel.unary_stream(READ, request_serializer=workspace_pb2.ReadRequest.SerializeToString)
        call = read(request, metadata=self.pool.metadata)
        try:
            with translated():
                async for chunk in call:
                    yield chunk
        finally:
            call.cancel()


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, MAX_LISTED)):
        yield batch
