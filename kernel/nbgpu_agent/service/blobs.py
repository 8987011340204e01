"""The Blobs service: contents in and out as raw bytes, see nbgpu_protocol.blobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
import grpc.aio

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.service.translated_errors import translated
from nbgpu_protocol import blobs as protocol

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class BlobService:
    """Puts into and gets from a store."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    @translated
    async def put(self, request_iterator: AsyncIterator[bytes], context: Context) -> bytes:
        metadata = dict(context.invocation_metadata() or ())
        digest = metadata.get(protocol.DIGEST_METADATA_KEY)
        if not isinstance(digest, str):
            raise InvalidRequestError(f"the metadata {protocol.DIGEST_METADATA_KEY!r} is missing")
        await self._store.put(digest, request_iterator)
        return b""

    @translated
    async def get(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            digest = request.decode("ascii")
        except UnicodeDecodeError:
            raise InvalidRequestError("the digest is not ASCII") from None
        async for chunk in self._store.get(digest):
            yield chunk


def add_blob_handlers(server: grpc.aio.Server, store: BlobStore) -> None:
    service = BlobService(store)
    handlers = {
        "Put": grpc.stream_unary_rpc_method_handler(service.put),
        "Get": grpc.unary_stream_rpc_method_handler(service.get),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(protocol.SERVICE, handlers),))
