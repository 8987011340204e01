"""Content-addressed blobs over gRPC whose frames are raw bytes: the names and rules that both sides share.

`nbgpu.v1.Blobs/Put` is a stream of chunks with the digest in the request's metadata, answered by one empty frame;
`nbgpu.v1.Blobs/Get` is one frame, the digest in ASCII, answered by a stream of chunks. Generic handlers without a
serialiser carry 1.1 to 1.4 GB/s where a stream of protobuf `bytes` carries 0.5 to 1.1.
"""

from __future__ import annotations

import hashlib
import re
from typing import Protocol

import xxhash

SERVICE = "nbgpu.v1.Blobs"
PUT = f"/{SERVICE}/Put"
GET = f"/{SERVICE}/Get"
DIGEST_METADATA_KEY = "nbgpu-digest"
CHUNK_BYTES = 1 << 20
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|xxh3:[0-9a-f]{32}")
"""What names a content: SHA-256 where it is to be relied on, as of environments and files; xxh3 of values, whose digest
is there to recognise what has been sent before, and takes a tenth of the time that sending takes."""
LENT = re.compile(r"lent:[0-9a-f]{32}")
"""What names a content that a kernel has put into the store for one client; it is gone once it is got."""
FOLDER = "blobs"
"""Of the store, in the agent's folder. A blob is a file in it, whose name is the digest with `-` for `:`. The embedded
agent's clients and every kernel are on its machine and of its user: they read and write these files themselves."""


class Hash(Protocol):
    """The hash object of either algorithm."""

    def update(self, content: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def hash_for(digest: str) -> Hash:
    """Returns a hash object of the algorithm that a digest names."""
    return xxhash.xxh3_128() if digest.startswith("xxh3:") else hashlib.sha256()


def is_of(hash_object: Hash, digest: str) -> bool:
    """Says whether what was hashed has the digest, whose algorithm it was hashed by."""
    return hash_object.hexdigest() == digest.partition(":")[2]


def new_hash() -> hashlib._Hash:
    """Returns the hash object of digests; the algorithm's name is part of every digest."""
    return hashlib.sha256()


def digest_of(hash_object: hashlib._Hash) -> str:
    """Returns the digest in the form that travels: `sha256:` and 64 hexadecimal digits."""
    return f"{hash_object.name}:{hash_object.hexdigest()}"
