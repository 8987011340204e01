"""The Workspace service: files of sessions' own folders, listed, changed from blobs, and read as raw bytes."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from nbgpu_agent.errors import InvalidRequestError, NotServedError
from nbgpu_agent.ownership import OwnSessions
from nbgpu_agent.service.translated_errors import translated
from nbgpu_agent.workspace.changes import Change, Outcome, Part, Result
from nbgpu_agent.workspace.session_workspace import SessionWorkspace
from nbgpu_protocol.file_versions import packed
from nbgpu_protocol.v1 import workspace_pb2, workspace_pb2_grpc
from nbgpu_protocol.workspace import CONTENTS_SERVICE, MAX_LISTED, Choice

if TYPE_CHECKING:
    from nbgpu_agent.blobs import BlobStore
    from nbgpu_agent.registry import SessionRegistry
    from nbgpu_agent.sessions import Session

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
T = TypeVar("T")

_MAX_SIGNED = (1 << 63) - 1
_RESULTS = {
    Result.DONE: workspace_pb2.Outcome.DONE,
    Result.STAGED: workspace_pb2.Outcome.STAGED,
    Result.CHANGED: workspace_pb2.Outcome.CHANGED,
    Result.REFUSED: workspace_pb2.Outcome.REFUSED,
}


class WorkspaceService(workspace_pb2_grpc.WorkspaceServicer):
    """Serves the folders of a registry's sessions, except of those that work in a folder of their client's."""

    def __init__(self, registry: SessionRegistry, blobs: BlobStore) -> None:
        self._registry = OwnSessions(registry)
        self._blobs = blobs
        self._workspaces: weakref.WeakKeyDictionary[Session, SessionWorkspace] = weakref.WeakKeyDictionary()

    @translated
    async def List(  # noqa: N802
        self, request: workspace_pb2.ListRequest, context: Context
    ) -> AsyncIterator[workspace_pb2.ListResponse]:
        workspace = self._workspace(request.session_id)
        patterns = workspace.patterns(request.workspace_id, request.patterns)
        choice = Choice(patterns)
        files = await workspace.list_files(choice) if patterns else []
        yield workspace_pb2.ListResponse(patterns=patterns)
        for some in _batches(files):
            yield workspace_pb2.ListResponse(
                files=[
                    workspace_pb2.ListedFile(
                        path=each.path, size_bytes=each.size_bytes, version=each.version, special=each.special
                    )
                    for each in some
                ]
            )
        for noted in _batches((await workspace.noted(request.workspace_id, choice)).items()):
            yield workspace_pb2.ListResponse(
                noted=[workspace_pb2.NotedVersion(path=path, version=version) for path, version in noted]
            )

    @translated
    async def Inspect(  # noqa: N802
        self, request: workspace_pb2.InspectRequest, context: Context
    ) -> AsyncIterator[workspace_pb2.InspectResponse]:
        _refuse_too_many(len(request.paths))
        async for path, found in self._workspace(request.session_id).inspect(request.paths):
            if found is None:
                yield workspace_pb2.InspectResponse(path=path)
            else:
                yield workspace_pb2.InspectResponse(
                    path=path,
                    version=found.version,
                    size_bytes=found.size_bytes,
                    modified_unix_ns=found.modified_unix_ns,
                    piece_digests=packed(found.piece_digests),
                )

    @translated
    async def Apply(  # noqa: N802
        self, request: workspace_pb2.ApplyRequest, context: Context
    ) -> workspace_pb2.ApplyResponse:
        _refuse_too_many(len(request.changes))
        changes = [_change(message) for message in request.changes]
        outcomes = await self._workspace(request.session_id).apply(request.workspace_id, changes)
        return workspace_pb2.ApplyResponse(outcomes=[_outcome_message(outcome) for outcome in outcomes])

    @translated
    async def Note(  # noqa: N802
        self, request: workspace_pb2.NoteRequest, context: Context
    ) -> workspace_pb2.NoteResponse:
        _refuse_too_many(len(request.noted))
        versions = {each.path: each.version for each in request.noted}
        workspace = self._workspace(request.session_id)
        workspace.note(request.workspace_id, versions, request.patterns)
        workspace.keep()
        return workspace_pb2.NoteResponse()

    @translated
    async def read(self, request: workspace_pb2.ReadRequest, context: Context) -> AsyncIterator[bytes]:
        if request.offset_bytes > _MAX_SIGNED:
            raise InvalidRequestError(f"there is no offset {request.offset_bytes}")
        async for chunk in self._workspace(request.session_id).read(request.path, request.offset_bytes):
            yield chunk

    def _workspace(self, session_id: str) -> SessionWorkspace:
        session = self._registry.get(session_id)
        workspace = self._workspaces.get(session)
        if workspace is None:
            folder = session.make_working_folder()
            if str(folder) == session.info().request.working_folder:
                raise NotServedError(f"the session works in {folder} itself, so that there is nothing to sync")
            workspace = self._workspaces[session] = SessionWorkspace(
                folder, self._blobs, session.side_file("workspace.json"), session.os_user
            )
        return workspace


def add_workspace_service(server: grpc.aio.Server, registry: SessionRegistry, blobs: BlobStore) -> None:
    """Adds the Workspace service, and that of its contents, to the server."""
    service = WorkspaceService(registry, blobs)
    workspace_pb2_grpc.add_WorkspaceServicer_to_server(service, server)
    read = grpc.unary_stream_rpc_method_handler(service.read, request_deserializer=workspace_pb2.ReadRequest.FromString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(CONTENTS_SERVICE, {"Read": read}),))


def _change(message: workspace_pb2.Change) -> Change:
    kind = message.WhichOneof("kind")
    if kind is None or (kind == "remove" and not message.remove):
        raise InvalidRequestError(f"nothing is said of what is to become of {message.path[:200]!r}")
    part = None
    if kind == "part":
        sizes = (message.part.size_bytes, message.part.offset_bytes, abs(message.part.modified_unix_ns))
        if max(sizes) > _MAX_SIGNED or not message.part.version.startswith("sha256:"):
            raise InvalidRequestError(f"{message.path[:200]!r} has a size, time or version that no file has")
        part = Part(
            version=message.part.version,
            size_bytes=message.part.size_bytes,
            offset_bytes=message.part.offset_bytes,
            piece_digests=tuple(message.part.piece_digests),
            modified_unix_ns=message.part.modified_unix_ns,
        )
    return Change(
        path=message.path,
        expected_version=message.expected_version,
        part=part,
        link_target=message.link_target if kind == "link_target" else None,
        keep_present=message.keep_present,
    )


def _outcome_message(outcome: Outcome) -> workspace_pb2.Outcome:
    return workspace_pb2.Outcome(
        path=outcome.path,
        result=_RESULTS[outcome.result],
        staged_bytes=outcome.staged_bytes,
        kept_path=outcome.kept_path,
        why=outcome.why,
    )


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, MAX_LISTED)):
        yield batch


def _refuse_too_many(count: int) -> None:
    if count > MAX_LISTED:
        raise InvalidRequestError(f"{count} at once, {MAX_LISTED} at most")
