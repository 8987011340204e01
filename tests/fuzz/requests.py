"""Makes hostile requests: random bytes, hostile values in every field, damaged messages, and what is too large."""

from __future__ import annotations

import gzip
import hashlib
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from nbgpu_protocol import blobs
from nbgpu_protocol.v1 import environment_pb2, identity_pb2, pool_pb2, session_pb2, workspace_pb2
from nbgpu_protocol.workspace import CONTENTS_SERVICE

METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in (pool_pb2, session_pb2, environment_pb2, workspace_pb2, identity_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
READ = f"/{CONTENTS_SERVICE}/Read"
PATHS = (
    *METHODS,
    blobs.PUT,
    blobs.GET,
    READ,
    "/nbgpu.v1.Pool/NoSuch",
    "/../../etc/passwd",
    "/grpc.health.v1.Health/Check",
)
SPARED = ("CloseSession", "Restart", "DetachSession")
"""Of which one's own session is spared, or there would be none to go on with."""
TEXTS = (
    "", "../" * 9 + "etc/passwd", "/etc/passwd", "..", "a/../../b", "a\0b", "\\..\\x", "x" * 5000, "é" * 600, "~root/x",
    "./x", "a//b", "CON", "-rf", "$(touch hacked)", "`touch hacked`", "'; DROP TABLE users; --", "\n\r\t", "%s%n",
    "{0}", "hacked", ".nbgpu/x", "sha256:" + "0" * 64, "sha256:../../x", "xxh3:" + "0" * 32, "lent:" + "0" * 32, "*",
    "**/**", "[" * 200, "\u202e", "../hacked", "sub/../../hacked", "/tmp/nbgpu-hacked",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e308, 5e-324, 3600.0)
SNAPSHOTS = (
    b"",
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xff" * 100,
    b"null",
    b'"x"',
    b"1" * 10_000,
    b"NaN",
    b"\0" * 1000,
)
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_MAX_DEPTH = 4


@dataclass(frozen=True)
class Hostile:
    """One request, as it goes over the wire."""

    path: str
    frames: Sequence[bytes] = field(repr=False)
    metadata: tuple[tuple[str, str | bytes], ...] = field(default=(), repr=False)
    compressed: bool = False
    authorised: bool = True


class Requests:
    """Makes requests, the same ones for the same seed.

    Args:
        seed: Any number.
        own_session: Of the user who sends them.
        other_sessions: That are not that user's, or not there.
    """

    def __init__(self, seed: int, own_session: str, other_sessions: Sequence[str]) -> None:
        self._random = random.Random(seed)
        self._own_session = own_session
        self._other_sessions = (*other_sessions, "", "0" * 16, "../" + own_session)
        self._digests: list[str] = []

    def next(self) -> Hostile:
        choice = self._random.random()
        if choice < 0.08:
            return self._snapshot()
        path = self._random.choice(PATHS)
        if choice < 0.18:
            return Hostile(path, [self._random.randbytes(self._random.choice((0, 1, 5, 100, 3000)))])
        if choice < 0.20:
            return Hostile(path, [b"\0" * (5 << 20)])  # above the limit of a message
        if choice < 0.22:
            return Hostile(path, [b"\0" * (64 << 20)], compressed=True)  # small until it is unpacked
        if choice < 0.26:
            return Hostile(path, [self._message(path)], self._metadata(), authorised=self._random.random() < 0.5)
        frames = [self._message(path) for _ in range(self._random.choice((1, 1, 1, 2, 5)))]
        if choice < 0.5:
            frames = [self._damaged(frame) for frame in frames]
        metadata = ((blobs.DIGEST_METADATA_KEY, self._digest()),) if path == blobs.PUT else ()
        return Hostile(path, frames, metadata)

    def _snapshot(self) -> Hostile:
        """Puts what a later request names as a snapshot, or as a piece of a file."""
        content = self._random.choice(SNAPSHOTS)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._digests.append(digest)
        return Hostile(blobs.PUT, [content], ((blobs.DIGEST_METADATA_KEY, digest),))

    def _metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._random.choice(
            (
                (("x-large", "x" * 40_000),),
                (("x-bin", self._random.randbytes(6000)),),
                tuple((f"x-{number}", "y" * 100) for number in range(60)),
                (("authorization", "Bearer " + "x" * 3000),),
                (("authorization", "Basic eDp4"),),
                (("authorization", "Bearer"), ("authorization", "Bearer x")),
                ((blobs.DIGEST_METADATA_KEY, "sha256:../../../hacked"),),
            )
        )

    def _message(self, path: str) -> bytes:
        if path == blobs.GET:
            return self._digest().encode(errors="replace")
        if path == READ:
            return self._filled(workspace_pb2.ReadRequest(), path).SerializeToString()
        if path not in METHODS:
            return self._random.randbytes(50)
        message = self._filled(message_factory.GetMessageClass(METHODS[path].input_type)(), path)
        if isinstance(message, pool_pb2.OpenSessionRequest):
            message.existing_only = True  # a session is a process, and there may be as many of the CPU as one asks for
        return message.SerializeToString()

    def _filled(self, message: Any, path: str, depth: int = 0) -> Message:
        for each in message.DESCRIPTOR.fields:
            if self._random.random() < 0.15 and each.name != "session_id":
                continue
            if each.containing_oneof is not None and self._random.random() < 0.4:
                continue
            count = self._random.choice((0, 1, 2, 40)) if each.is_repeated else 1
            if each.message_type is not None and each.message_type.GetOptions().map_entry:
                for _ in range(count):
                    getattr(message, each.name)[self._text()] = self._text()
            elif each.message_type is not None:
                for _ in range(count if depth < _MAX_DEPTH else 0):
                    target = getattr(message, each.name)
                    self._filled(target.add() if each.is_repeated else target, path, depth + 1)
            elif each.is_repeated:
                getattr(message, each.name).extend(self._value(each, path) for _ in range(count))
            else:
                setattr(message, each.name, self._value(each, path))
        return message

    def _value(self, of: FieldDescriptor, path: str) -> Any:
        if of.name == "session_id":
            spared = path.endswith(SPARED)
            own = not spared and self._random.random() < 0.6
            return self._own_session if own else self._random.choice(self._other_sessions)
        if of.cpp_type == FieldDescriptor.CPPTYPE_STRING and of.type == FieldDescriptor.TYPE_STRING:
            return self._digest() if "digest" in of.name else self._text()
        if of.type == FieldDescriptor.TYPE_BYTES:
            return self._random.randbytes(self._random.choice((0, 1, 100)))
        if of.cpp_type in _RANGES:
            low, high = _RANGES[of.cpp_type]
            return self._random.choice([number for number in NUMBERS if low <= number <= high])
        if of.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return self._random.choice(FLOATS)
        if of.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self._random.random() < 0.5
        return self._random.choice((0, 1, 2, 99))  # of an enum

    def _text(self) -> str:
        return self._random.choice(TEXTS)

    def _digest(self) -> str:
        return self._random.choice([*self._digests, *(text for text in TEXTS if ":" in text)])

    def _damaged(self, frame: bytes) -> bytes:
        damaged = bytearray(frame)
        for _ in range(self._random.choice((1, 1, 3, 10))):
            if damaged:
                damaged[self._random.randrange(len(damaged))] = self._random.randrange(256)
        return bytes(damaged[: self._random.randint(0, len(damaged))] if self._random.random() < 0.3 else damaged)


def raw_bytes(seed: int) -> list[bytes]:
    """Returns what is written to the port without any protocol."""
    source = random.Random(seed)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    return [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        preface,
        preface + struct.pack(">I", 0xFFFFFF)[1:] + b"\x01\x04" + struct.pack(">I", 1) + source.randbytes(2000),
        b"\x16\x03\x01\xff\xff" + source.randbytes(3000),
        gzip.compress(b"\0" * 100_000),
        source.randbytes(5000),
    ]
