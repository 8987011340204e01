"""Packs the exception that ended a cell, so that the notebook can raise it again."""

from __future__ import annotations

import base64
import io
import pickle
from typing import Any

try:
    from cloudpickle import Pickler
except ImportError:  # the user's environment need not have it; classes defined in cells then do not travel
    from pickle import Pickler

MAX_PICKLE_BYTES = 1 << 20


class _TooLargeError(Exception):
    pass


class _BoundedBuffer(io.BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + len(memoryview(data).cast("B")) > MAX_PICKLE_BYTES:
            raise _TooLargeError
        return super().write(data)


class _ExceptionPickler(Pickler):  # type: ignore[misc] # cloudpickle's is untyped
    """Pickles exceptions with their causes and contexts, which `BaseException.__reduce__` leaves out.

    They travel in the state, every item of which `BaseException.__setstate__` sets as an attribute: whoever unpickles
    needs no code of ours.
    """

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, BaseException) or type(obj).__setstate__ is not BaseException.__setstate__:
            parent = getattr(super(), "reducer_override", None)
            return parent(obj) if parent is not None else NotImplemented
        reduced = obj.__reduce_ex__(5)
        if not isinstance(reduced, tuple) or len(reduced) > 3:
            return reduced
        state = reduced[2] if len(reduced) == 3 else None
        if state is not None and not isinstance(state, dict):
            return reduced
        chain = {
            "__cause__": obj.__cause__,
            "__context__": obj.__context__,
            "__suppress_context__": obj.__suppress_context__,  # after the cause, which sets it
            "__notes__": getattr(obj, "__notes__", None),  # in the state already, unless the class has its own
        }
        return (*reduced[:2], {**(state or {}), **{name: value for name, value in chain.items() if value is not None}})


def pack_exception(error: BaseException) -> str | None:
    """Returns the exception as a pickle in base64, or None where it cannot travel.

    It cannot where it is not picklable, does not unpickle here, or is larger than MAX_PICKLE_BYTES; where only what
    it is chained to is at fault, it travels alone. Tracebacks stay: they hold frames, and frames do not travel.
    """
    return _pack(error, _ExceptionPickler) or _pack(error, Pickler)


def _pack(error: BaseException, pickler: Any) -> str | None:
    buffer = _BoundedBuffer()
    try:
        pickler(buffer, protocol=5).dump(error)
        if not isinstance(pickle.loads(buffer.getvalue()), type(error).__mro__[-2]):  # what is below object
            return None
    except Exception:  # noqa: BLE001 - any code may run in a reducer, and any error means that it cannot travel
        return None
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def qualified_name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"
