"""Takes files to the session: piece by piece, and only the pieces that the node does not have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nbgpu import errors
from nbgpu.client.workspace import WorkspaceClient
from nbgpu.workspace.local_tree import LocalEntry
from nbgpu_protocol.file_versions import PIECE_BYTES
from nbgpu_protocol.v1 import workspace_pb2
from nbgpu_protocol.workspace import CHUNK_BYTES

_BATCH_BYTES = 64 << 20
_BATCH_CHANGES = 500
_AT_ONCE = 4
_ATTEMPTS = 5


@dataclass(frozen=True)
class _Piece:
    """Where on this machine a piece is."""

    place: Path
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class Shipment:
    """One path's change in the session: a file or a link to be there, or nothing."""

    path: str
    entry: LocalEntry | None
    expected_version: str
    keep_present: bool = False


Outcomes = AsyncIterator[tuple[Shipment, workspace_pb2.Outcome | None]]


class Sending:
    """Sends to one session.

    Args:
        client: Of the session's folder.
        on_progress: Told how many more bytes are there, by having been sent or being there already.
    """

    def __init__(self, client: WorkspaceClient, on_progress: Callable[[int], None]) -> None:
        self._client = client
        self._on_progress = on_progress

    async def send(self, shipments: Iterable[Shipment]) -> Outcomes:
        """Yields what came of each; None for a file that has changed since it was looked at.

        Raises:
            DiskFullError: There is no space on the node.
        """
        batch: list[tuple[Shipment, workspace_pb2.Change]] = []
        size_bytes = 0
        for shipment in shipments:
            count = shipment.entry.inspected.size_bytes if shipment.entry is not None else 0
            if count > _BATCH_BYTES:
                yield shipment, await self._send_large(shipment)
                continue
            if batch and (size_bytes + count > _BATCH_BYTES or len(batch) >= _BATCH_CHANGES):
                async for outcome in self._send_batch(batch):
                    yield outcome
                batch, size_bytes = [], 0
            batch.append((shipment, _change(shipment)))
            size_bytes += count
        async for outcome in self._send_batch(batch):
            yield outcome

    async def _send_batch(self, batch: list[tuple[Shipment, workspace_pb2.Change]]) -> Outcomes:
        changed = await self._put({k: v for shipment, _ in batch for k, v in _pieces(shipment.entry).items()})
        whole = [(shipment, change) for shipment, change in batch if not changed & {*change.part.piece_digests}]
        if whole:
            outcomes: list[workspace_pb2.Outcome | None]
            try:
                outcomes = [*await self._client.apply([change for _, change in whole])]
            except errors.NoSuchBlobError:  # the node keeps fewer bytes than these are
                outcomes = [await self._send_large(shipment) for shipment, _ in whole]
            for (shipment, _), outcome in zip(whole, outcomes, strict=True):
                self._on_progress(shipment.entry.inspected.size_bytes if shipment.entry is not None else 0)
                yield shipment, outcome
        for shipment, change in batch:
            if changed & {*change.part.piece_digests}:
                yield shipment, None

    async def _send_large(self, shipment: Shipment) -> workspace_pb2.Outcome | None:
        """Sends a file part by part, from where the session has it on."""
        change = _change(shipment)
        if shipment.entry is None or not change.part.piece_digests:
            return (await self._client.apply([change]))[0]
        pieces = _pieces(shipment.entry)
        digests = shipment.entry.inspected.piece_digests
        probe = _change(shipment, range(0))
        outcome = (await self._client.apply([probe]))[0]
        told = 0
        step = _BATCH_BYTES // PIECE_BYTES
        misses = 0
        while outcome.result == workspace_pb2.Outcome.STAGED:
            self._on_progress(outcome.staged_bytes - told)
            told = outcome.staged_bytes
            first = outcome.staged_bytes // PIECE_BYTES
            part = range(first, min(first + step, len(digests)))
            if await self._put({digests[index]: pieces[digests[index]] for index in part}):
                return None
            try:
                outcome = (await self._client.apply([_change(shipment, part)]))[0]
            except errors.NoSuchBlobError:
                misses += 1
                if step == 1 and misses > _ATTEMPTS:
                    raise
                step = 1
        return outcome

    async def _put(self, pieces: Mapping[str, _Piece]) -> set[str]:
        """Sends those pieces that the node lacks; returns those that are not what they were."""
        changed: set[str] = set()
        if not pieces:
            return changed
        missing = await self._client.pool.missing_blobs(list(pieces))
        slots = asyncio.Semaphore(_AT_ONCE)

        async def put(digest: str) -> None:
            async with slots:
                try:
                    await self._client.pool.put_blob(digest, _chunks(pieces[digest]))
                except (errors.DigestMismatchError, _GoneError):
                    changed.add(digest)

        tasks = [asyncio.ensure_future(put(digest)) for digest in missing]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return changed


class _GoneError(Exception):
    pass


async def _chunks(piece: _Piece) -> AsyncIterator[bytes]:
    position, end = piece.offset_bytes, piece.offset_bytes + piece.size_bytes
    while position < end:
        chunk = await asyncio.to_thread(_read, piece.place, position, min(CHUNK_BYTES, end - position))
        if not chunk:
            return  # shorter by now, which the digest shows
        yield chunk
        position += len(chunk)


def _read(place: Path, position: int, count: int) -> bytes:
    try:
        with open(place, "rb") as file:
            file.seek(position)
            return file.read(count)
    except OSError:  # gone by now, which the digest shows
        return b""


def _pieces(entry: LocalEntry | None) -> dict[str, _Piece]:
    if entry is None:
        return {}
    size_bytes = entry.inspected.size_bytes
    starts: Iterator[int] = iter(range(0, size_bytes, PIECE_BYTES))
    return {
        digest: _Piece(entry.place, start, min(PIECE_BYTES, size_bytes - start))
        for digest, start in zip(entry.inspected.piece_digests, starts, strict=True)
    }


def _change(shipment: Shipment, pieces: range | None = None) -> workspace_pb2.Change:
    """Returns the change, with all pieces of the file, or with those."""
    change = workspace_pb2.Change(
        path=shipment.path, expected_version=shipment.expected_version, keep_present=shipment.keep_present
    )
    if shipment.entry is None:
        change.remove = True
    elif shipment.entry.link_target is not None:
        change.link_target = shipment.entry.link_target
    else:
        inspected = shipment.entry.inspected
        chosen = range(len(inspected.piece_digests)) if pieces is None else pieces
        change.part.CopyFrom(
            workspace_pb2.FilePart(
                version=inspected.version,
                size_bytes=inspected.size_bytes,
                offset_bytes=chosen.start * PIECE_BYTES,
                piece_digests=[inspected.piece_digests[index] for index in chosen],
                modified_unix_ns=inspected.modified_unix_ns,
            )
        )
    return change
