"""Values to bytes and back: a pickle of protocol 5, with what is large beside it rather than in it."""

from __future__ import annotations

import contextlib
import enum
import functools
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, TypeAlias

try:
    from cloudpickle import Pickler
except ImportError:  # the user's environment need not have it; what is defined in cells then does not travel
    from pickle import Pickler

from nbgpu_kernel.values.adoption import reduce_adopted
from nbgpu_kernel.values.definitions import (
    CellToken,
    CellTokens,
    Definitions,
    is_defined_in_cells,
    make_cached,
    reduce_definition,
    reduce_function,
    resolve_class,
)
from nbgpu_kernel.values.tensors import SharedMemory, TensorReducer, ValueTooLargeError

Buffer: TypeAlias = bytes | bytearray | memoryview
Reducer: TypeAlias = Callable[[Any], Any]
"""As a pickler's `reducer_override`."""

_SCANNED_BYTES = 16 << 20
OUT_OF_BAND_BYTES = 4096
"""Buffers from this size on are not copied into the pickle."""
_IMMUTABLE = (
    str, bytes, int, float, complex, tuple, frozenset, type(None), type, FunctionType, BuiltinFunctionType, CodeType,
    ModuleType, enum.Enum, range, type(Ellipsis),
)  # fmt: skip
_VALUE_MODULES = frozenset({"datetime", "zoneinfo", "decimal", "fractions", "uuid", "pathlib", "numpy.dtypes"})
"""All types of these are of values that cannot change."""
_VALUE_TYPES = frozenset(
    {
        ("torch", "dtype"), ("torch", "device"), ("torch", "layout"), ("torch", "memory_format"), ("torch", "Size"),
        ("numpy", "ufunc"), ("builtins", "method_descriptor"),
    }
)  # fmt: skip
_CACHED = type(functools.lru_cache(lambda: None))


class NoCloudpickleError(ImportError):
    """Raised when something that was defined in a cell is to be pickled where cloudpickle is not installed."""

    def __init__(self) -> None:
        super().__init__("what is defined in cells travels by cloudpickle, which is not installed here")


@dataclass
class Encoded:
    """A value, or several that belong together, as bytes. Holds on to the value's own buffers: use it, drop it."""

    segments: list[Buffer]
    """The pickle, which is their concatenation. Large bytes objects and texts are segments of their own, uncopied."""
    buffers: list[memoryview]
    classes: dict[str, type]
    """Classes that are referred to, by key; their definitions are to be sent before."""
    codes: list[CodeType]
    """Of the functions in it whose globals are the cells'."""
    pickler: Any = field(repr=False, default=None)
    """What made it, and knows the objects in it, where that was asked for."""
    _mutable_ids: set[int] | None = field(repr=False, default=None)

    @property
    def size_bytes(self) -> int:
        return sum(len(segment) for segment in self.segments) + sum(buffer.nbytes for buffer in self.buffers)

    def carries_code(self) -> bool:
        """Says whether compiled code or a definition is in it, which another minor version of Python cannot read."""
        objects = self.pickler.memo.copy().values() if self.pickler is not None else ()
        return bool(self.codes or self.classes) or any(type(obj) is CodeType for _, obj in objects)

    def mutable_ids(self) -> set[int]:
        """Returns the ids of the objects in it by which a change of one value shows in another.

        They are those of other objects once this is gone, which keeps temporary ones alive. Not those that a class has:
        they are the definition's, as is the list of names that all data frames refer to.
        """
        if self._mutable_ids is None:
            self._mutable_ids = self._find_mutable_ids() if self.pickler is not None else set()
        return self._mutable_ids

    def _find_mutable_ids(self) -> set[int]:
        memo: dict[int, tuple[int, Any]] = self.pickler.memo.copy()
        immutable = {kind: _is_immutable(kind) for kind in {type(obj) for _, obj in memo.values()}}
        found = {
            obj.shared_id if isinstance(obj, (CellToken, SharedMemory)) else key
            for key, (_, obj) in memo.items()
            if not immutable[type(obj)] and key not in self.pickler.references
        }
        classes = {each for kind in immutable for each in kind.__mro__}
        return found - {id(each) for kind in classes for each in vars(kind).values()}


def _is_immutable(kind: type) -> bool:
    # A tuple's items are in the memo themselves; so are an object's attributes, not least those of a temporary state.
    return (
        issubclass(kind, _IMMUTABLE)
        or kind.__module__ in _VALUE_MODULES
        or (kind.__module__, kind.__qualname__) in _VALUE_TYPES
        or kind.__name__ == "cython_function_or_method"
    )


class _Segments:
    """The file that is pickled to: small writes are joined, large ones are kept as they are."""

    def __init__(self, limit_bytes: int | None) -> None:
        self.segments: list[Buffer] = []
        self._limit_bytes = limit_bytes
        self._size_bytes = 0

    def write(self, data: Any) -> int:
        segment = data if isinstance(data, bytes) else memoryview(data).cast("B")
        self._size_bytes += len(segment)
        if self._limit_bytes is not None and self._size_bytes > self._limit_bytes:
            raise ValueTooLargeError(self._limit_bytes)
        self.segments.append(segment)
        return len(segment)


class ValuePickler(Pickler):  # type: ignore[misc] # cloudpickle's is untyped
    """cloudpickle's pickler, for what is put together against the other side's globals, and refers to its classes.

    Args:
        file: Where it goes.
        on_buffer: As of pickle's `buffer_callback`.
        special: Asked first, how to reduce an object; NotImplemented leaves it to the others.
        defining: The class whose definition this is; others are referred to.
        tensors: Reduces arrays and tensors.
        adopted: Names of objects by id, which those of the same names on the other side take over.
    """

    def __init__(
        self,
        file: Any,
        definitions: Definitions,
        on_buffer: Callable[[pickle.PickleBuffer], bool],
        tensors: TensorReducer,
        special: Reducer | None = None,
        defining: type | None = None,
        adopted: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=on_buffer)
        self.classes: dict[str, type] = {}
        self.codes: list[CodeType] = []
        self.references: set[int] = set()
        """Ids of what was reduced specially, and stands for something of the other side's."""
        self._definitions = definitions
        self._special = special
        self._defining = defining
        self._cells = CellTokens()
        self._reduce_tensor = tensors.reduce
        self._adopted = adopted or {}

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is FunctionType:
            if obj.__globals__ is self._definitions.namespace:
                _require_cloudpickle()
                self.codes.append(obj.__code__)
                return reduce_function(obj, self._cells)
        elif issubclass(kind, type):
            if is_defined_in_cells(obj):
                return self._reduce_class(obj)
        elif kind is _CACHED:
            if getattr(obj, "__module__", None) == "__main__":
                return make_cached, (obj.__wrapped__, obj.cache_parameters())
        else:
            if self._special is not None and (reduced := self._special(obj)) is not NotImplemented:
                self.references.add(id(obj))
                return reduced
            if (reduced := self._reduce_tensor(obj)) is not NotImplemented:
                return reduced
            name = self._adopted.get(id(obj))
            if name is not None and (reduced := reduce_adopted(obj, name)) is not NotImplemented:
                return reduced
        return self._reduce_otherwise(obj)

    def _reduce_otherwise(self, obj: Any) -> Any:
        parent = getattr(super(), "reducer_override", None)
        return parent(obj) if parent is not None else NotImplemented

    def _reduce_class(self, definition: type) -> Any:
        _require_cloudpickle()
        key = self._definitions.key_of(definition)
        if definition is not self._defining:
            self.classes[key] = definition
            return resolve_class, (key,)
        return reduce_definition(key, definition, self._reduce_otherwise(definition))


def _require_cloudpickle() -> None:
    if Pickler is pickle.Pickler:
        raise NoCloudpickleError


def encode(
    value: Any,
    definitions: Definitions,
    *,
    limit_bytes: int | None = None,
    total_limit_bytes: int | None = None,
    fetch_limit_bytes: int | None = None,
    special: Reducer | None = None,
    defining: type | None = None,
    with_memo: bool = False,
    keeps_views: bool = False,
    adopted: Mapping[int, str] | None = None,
) -> Encoded:
    """Takes a value apart.

    Args:
        limit_bytes: Of the pickle, without what is beside it.
        total_limit_bytes: Of both.
        fetch_limit_bytes: Of the tensors that are elsewhere; by default the limit of both.
        with_memo: Have it know the objects in it.
        keeps_views: Have a tensor that is a small part of its storage travel with all of it, as others share it.
        adopted: See `ValuePickler`.

    Raises:
        ValueTooLargeError: The pickle is beyond the limit.
        Exception: Whatever a value's own methods raise, or pickle for what cannot be pickled.
    """
    file = _Segments(limit_bytes)
    buffers: list[memoryview] = []
    kept_bytes = 0

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND_BYTES:
            return True
        nonlocal kept_bytes
        kept_bytes += view.nbytes
        buffers.append(view)
        if total_limit_bytes is not None and kept_bytes > total_limit_bytes:
            raise ValueTooLargeError(total_limit_bytes)
        return False

    if total_limit_bytes is not None:
        limit_bytes = total_limit_bytes if limit_bytes is None else min(limit_bytes, total_limit_bytes)
    if fetch_limit_bytes is None:
        fetch_limit_bytes = total_limit_bytes
    tensors = TensorReducer(fetch_limit_bytes, keeps_views=keeps_views)
    pickler = ValuePickler(file, definitions, keep, tensors, special, defining, adopted)
    pickler.dump(value)
    encoded = Encoded(file.segments, buffers, pickler.classes, pickler.codes, pickler if with_memo else None)
    if total_limit_bytes is not None and encoded.size_bytes > total_limit_bytes:
        raise ValueTooLargeError(total_limit_bytes)
    return encoded


def scan(value: Any, definitions: Definitions, special: Reducer | None = None) -> Encoded:
    """Takes a value apart for its `mutable_ids` alone; not those of all of it, where it cannot be pickled."""
    tensors = TensorReducer(only_shared_ids=True)
    pickler = ValuePickler(_Segments(_SCANNED_BYTES), definitions, lambda _: False, tensors, special)
    with contextlib.suppress(Exception):  # any code may run in a reducer
        pickler.dump(value)
    return Encoded([], [], {}, [], pickler)


def decode(pickled: Buffer, buffers: Sequence[Buffer]) -> Any:
    """Puts a value together; to be called within `putting_together`."""
    return pickle.Unpickler(_Reader(pickled), buffers=buffers).load()


class _Reader(io.RawIOBase):
    """A file over a buffer that copies nothing but what is read of it."""

    def __init__(self, content: Buffer) -> None:
        self._view = memoryview(content)
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        end = len(self._view) if size < 0 else self._position + size
        data = bytes(self._view[self._position : end])
        self._position += len(data)
        return data

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        piece = self._view[self._position : self._position + len(view)]
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def readline(self, size: int | None = -1) -> bytes:
        rest = bytes(self._view[self._position : self._position + 4096])
        line, newline, _ = rest.partition(b"\n")
        if not newline and len(rest) == 4096:
            raise pickle.UnpicklingError("a line of the pickle is longer than any that pickle writes")
        self._position += len(line) + len(newline)
        return line + newline
