"""The blob store, by itself and over gRPC."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.errors import DigestMismatchError, InvalidRequestError, NoSuchBlobError
from nbgpu_protocol import ERROR_METADATA_KEY, blobs
from nbgpu_protocol.v1 import pool_pb2, session_pb2, session_pb2_grpc
from session_clients import run_service

pytestmark = pytest.mark.asyncio


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def content_of(store: BlobStore, name: str) -> bytes:
    return b"".join([chunk async for chunk in store.get(name)])


async def test_what_is_put_is_got(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    content = os.urandom(5 << 20)
    assert store.missing([digest(content)]) == [digest(content)]
    await store.put(digest(content), chunks(content[:100], content[100:]))
    await store.put(digest(b""), chunks())
    assert store.missing([digest(content), digest(b"")]) == []
    assert await content_of(store, digest(content)) == content
    assert await content_of(store, digest(b"")) == b""


async def test_a_content_of_another_digest_is_not_stored(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    with pytest.raises(DigestMismatchError):
        await store.put(digest(b"this"), chunks(b"that"))
    assert os.listdir(tmp_path / "blobs") == []
    with pytest.raises(NoSuchBlobError):
        await content_of(store, digest(b"this"))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "sha256:",
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 65,
        "md5:" + "a" * 64,
        "../../etc/passwd",
        "sha256:../" + "a" * 61,
        "sha256:" + "a" * 64 + "\n",
    ],
)
async def test_names_that_are_no_digests(tmp_path: Path, name: str) -> None:
    store = BlobStore(tmp_path / "blobs")
    with pytest.raises(InvalidRequestError):
        await store.put(name, chunks(b""))
    with pytest.raises(InvalidRequestError):
        await content_of(store, name)
    with pytest.raises(InvalidRequestError):
        store.missing([name])


async def test_many_put_the_same_at_once(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    content = os.urandom(1 << 20)
    pieces = [content[i : i + 65536] for i in range(0, len(content), 65536)]
    await asyncio.gather(*(store.put(digest(content), chunks(*pieces)) for _ in range(10)))
    assert os.listdir(tmp_path / "blobs") == [digest(content).replace(":", "-")]
    assert await content_of(store, digest(content)) == content


async def test_the_blob_used_longest_ago_goes_first(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", limit_bytes=250)
    first, second, third = (bytes([i]) * 100 for i in range(3))
    for age, content in ((20, first), (10, second)):
        await store.put(digest(content), chunks(content))
        path = tmp_path / "blobs" / digest(content).replace(":", "-")
        os.utime(path, (path.stat().st_mtime - age, path.stat().st_mtime - age))
    assert store.missing([digest(first)]) == []  # used now
    await store.put(digest(third), chunks(third))
    assert store.missing(map(digest, (first, second, third))) == [digest(second)]
    assert store.size_bytes() == 200


async def test_over_grpc(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    async with run_service(tmp_path) as service, grpc.aio.insecure_channel(service.target) as channel:
        put, get = channel.stream_unary(blobs.PUT), channel.unary_stream(blobs.GET)
        stub = session_pb2_grpc.SessionStub(channel)
        asked = session_pb2.MissingBlobsRequest(digests=[digest(content), digest(b"")])
        assert list((await stub.MissingBlobs(asked)).digests) == [digest(content), digest(b"")]

        async def send(name: str | None) -> bytes:
            metadata = [(blobs.DIGEST_METADATA_KEY, name)] if name is not None else []
            return await put(
                chunks(*(content[i : i + 1000_000] for i in range(0, len(content), 1000_000))), metadata=metadata
            )

        assert await send(digest(content)) == b""
        assert await send(digest(content)) == b""
        assert list((await stub.MissingBlobs(asked)).digests) == [digest(b"")]
        assert b"".join([chunk async for chunk in get(digest(content).encode())]) == content

        async def reason(call: object) -> int:
            async def finish() -> None:
                if hasattr(call, "__aiter__"):
                    [chunk async for chunk in call]
                else:
                    await call  # type: ignore[misc]

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await finish()
            return pool_pb2.Error.FromString(dict(caught.value.trailing_metadata())[ERROR_METADATA_KEY]).reason

        assert await reason(send(digest(b"other"))) == pool_pb2.DIGEST_MISMATCH
        assert await reason(send(None)) == pool_pb2.INVALID_REQUEST
        assert await reason(get(digest(b"other").encode())) == pool_pb2.NO_SUCH_BLOB
        assert await reason(get(b"\xff")) == pool_pb2.INVALID_REQUEST
        assert await reason(get(b"../../../etc/passwd")) == pool_pb2.INVALID_REQUEST
