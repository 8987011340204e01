"""Tells whether an object was changed in place since it was last looked at, for as little as that can be had.

What takes up to a mebibyte is taken apart and compared whole. Of what is larger, the buffers (of arrays, tensors, data
frames) are hashed: whole where the cell's code stores into the object, else samples of them, which show what goes over
a whole array. A larger pickle is compared where the code stores into the object or calls a method of it; otherwise its
length and a sample of its items are looked at. What slips through stays in the session, where later cells see it.
"""

from __future__ import annotations

import hashlib
import weakref
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from nbgpu_kernel.values.definitions import Definitions
from nbgpu_kernel.values.encoding import Encoded, encode
from nbgpu_kernel.values.exchange import ATOMS, content_digest
from nbgpu_kernel.values.tensors import ValueTooLargeError

_quick_hash: Callable[[Any], int]
try:
    import xxhash

    _quick_hash = xxhash.xxh3_64_intdigest  # 16 GB/s
except ImportError:  # the user's environment need not have it
    _quick_hash = zlib.crc32  # 2 GB/s, the quickest of the standard library's

WATCHED_BYTES = 1 << 20
"""Up to this size values are compared whole."""
THOROUGH_BYTES = 16 << 20
"""Pickles up to this size are compared whole where the cell's code is seen to change the object."""
_SAMPLES = 256
_SAMPLE_BYTES = 4096
_SAMPLED_ITEMS = 1000


@dataclass(frozen=True)
class Fingerprint:
    """What an object was like. Only those that were taken alike tell whether it has changed.

    Args:
        thorough: Whether all of it was looked at; what is small always is.
    """

    thorough: bool
    digest: str


class Identity:
    """Remembers which object it was, and tells it from one that is made later at the same place.

    Args:
        keeps: Whether an object that cannot be referred to weakly is kept alive.
    """

    def __init__(self, obj: Any, *, keeps: bool = True) -> None:
        self._id = id(obj)
        self._obj: Callable[[], Any] | None
        try:
            self._obj = weakref.ref(obj)
        except TypeError:
            self._obj = (lambda: obj) if keeps else None

    def forget(self) -> None:
        """Makes it that of no object, and keeps none alive."""
        self._id, self._obj = 0, None

    def is_of(self, obj: Any) -> bool:
        return self._id == id(obj) and (self._obj is None or self._obj() is obj)


def take_fingerprint(value: Any, definitions: Definitions, *, thorough: bool) -> Fingerprint | None:
    """Returns what a value is like, or None for what cannot change, or cannot be looked at.

    Args:
        thorough: Whether the code is seen to change it.
    """
    if isinstance(value, (ModuleType, *ATOMS)):
        return None
    try:
        encoded = encode(value, definitions, limit_bytes=WATCHED_BYTES, fetch_limit_bytes=WATCHED_BYTES)
        if encoded.size_bytes <= WATCHED_BYTES:
            return Fingerprint(True, content_digest(encoded))
        return Fingerprint(thorough, _quick_digest(encoded, whole=thorough))
    except ValueTooLargeError:
        pass
    except Exception:  # noqa: BLE001 - any code may run in a reducer; what cannot be pickled is not watched
        return None
    if thorough:
        try:
            encoded = encode(value, definitions, limit_bytes=THOROUGH_BYTES, fetch_limit_bytes=WATCHED_BYTES)
            return Fingerprint(True, _quick_digest(encoded, whole=True))
        except Exception:  # noqa: BLE001 - as above, or too large
            pass
    return Fingerprint(False, _shape_digest(value))


def _quick_digest(encoded: Encoded, *, whole: bool) -> str:
    found = hashlib.sha256(usedforsecurity=False)
    for segment in encoded.segments:
        found.update(b"%d;" % len(segment))
        found.update(b"%x;" % _quick_hash(segment))
    for buffer in encoded.buffers:
        found.update(b"%d;" % buffer.nbytes)
        if whole or buffer.nbytes <= _SAMPLES * _SAMPLE_BYTES:
            found.update(b"%x;" % _quick_hash(buffer))
        else:
            last = buffer.nbytes - _SAMPLE_BYTES
            for number in range(_SAMPLES):
                start = last * number // (_SAMPLES - 1)
                found.update(buffer[start : start + _SAMPLE_BYTES])
    return found.hexdigest()


def _shape_digest(value: Any) -> str:
    """What of a large object can be had without taking it apart: its length, and which its items are."""
    if type(value) in (list, tuple):
        step = max(1, len(value) // _SAMPLED_ITEMS)
        return f"{len(value)}: {hash(tuple(map(id, value[::step])))}"
    if type(value) in (dict, set, frozenset, bytearray):
        return f"{len(value)}"
    return ""
