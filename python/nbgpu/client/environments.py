"""The Environment service as coroutines, and the way of contents to a node that does not have them yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from pathlib import Path

from nbgpu import errors
from nbgpu.client.pool import DEADLINE_S, Pool
from nbgpu_protocol import blobs
from nbgpu_protocol.v1 import environment_pb2, session_pb2

PLAN_DEADLINE_S = 300.0
"""For a plan, which may ask an index for hundreds of packages."""
_PUT_DEADLINE_S = 600.0
_ASKED_AT_ONCE = 10_000

Content = bytes | Path


class ChangedFileError(errors.InfrastructureError):
    """Raised when a file changed while it was being sent."""

    hint = "run the cell again"

    def message(self) -> str:
        return f"{self.args[0]} changed while it was being sent"


async def send_missing(pool: Pool, contents: Mapping[str, Content]) -> int:
    """Sends those contents that the node does not have; returns how many.

    Raises:
        ChangedFileError: A file has another content than its digest says.
    """
    count = 0
    for digest in await missing(pool, contents):
        await put(pool, digest, contents[digest])
        count += 1
    return count


async def missing(pool: Pool, digests: Iterable[str]) -> list[str]:
    """Returns the digests that the node does not have. Those that it has count as used."""
    wanted, found = list(dict.fromkeys(digests)), []
    for start in range(0, len(wanted), _ASKED_AT_ONCE):
        request = session_pb2.MissingBlobsRequest(digests=wanted[start : start + _ASKED_AT_ONCE])
        with errors.translated():
            response = await pool.session.MissingBlobs(request, metadata=pool.metadata, timeout=DEADLINE_S)
        found += response.digests
    return found


async def put(pool: Pool, digest: str, content: Content) -> None:
    """Sends one content.

    Raises:
        ChangedFileError: It is a file with another content by now.
    """
    metadata = (*pool.metadata, (blobs.DIGEST_METADATA_KEY, digest))
    try:
        with errors.translated():
            await pool.stream_unary(blobs.PUT)(_chunks(content), metadata=metadata, timeout=_PUT_DEADLINE_S)
    except errors.DigestMismatchError as error:
        raise ChangedFileError(str(content) if isinstance(content, Path) else digest) from error


async def plan(pool: Pool, snapshot_digest: str) -> environment_pb2.PlanResponse:
    """Returns what the node would do with a snapshot that it has."""
    request = environment_pb2.PlanRequest(snapshot_digest=snapshot_digest)
    with errors.translated():
        response: environment_pb2.PlanResponse = await pool.environment.Plan(
            request, metadata=pool.metadata, timeout=PLAN_DEADLINE_S
        )
    return response


async def update_session(
    pool: Pool, session_id: str, snapshot_digest: str, variables: Mapping[str, str]
) -> AsyncGenerator[environment_pb2.MaterialiseUpdate, None]:
    """Yields what is happening until the session has the snapshot and the variables; leaving early withdraws it."""
    request = environment_pb2.UpdateSessionRequest(
        session_id=session_id, snapshot_digest=snapshot_digest, variables=variables
    )
    call = pool.environment.UpdateSession(request, metadata=pool.metadata)
    try:
        with errors.translated():
            async for update in call:
                yield update
    finally:
        call.cancel()


async def _chunks(content: Content) -> AsyncIterator[bytes]:
    if isinstance(content, Path):
        file = await asyncio.to_thread(open, content, "rb")
        with file:
            while chunk := await asyncio.to_thread(file.read, blobs.CHUNK_BYTES):
                yield chunk
        return
    view = memoryview(content)
    for start in range(0, len(view), blobs.CHUNK_BYTES):
        yield bytes(view[start : start + blobs.CHUNK_BYTES])
