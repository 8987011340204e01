"""The objects that stayed in a session's kernel: what handles refer to, and how they are described."""

from __future__ import annotations

import inspect
import secrets
import sys
from collections.abc import Iterable
from typing import Any

_MAX_ATTRIBUTES = 5000
_MAX_DOC_LENGTH = 20_000


class Objects:
    """Objects by the ids under which notebooks have handles of them, each kept for as long as one of them has one."""

    def __init__(self) -> None:
        self.by_id: dict[str, Any] = {}
        self._ids: dict[int, str] = {}
        self._holders: dict[str, set[str]] = {}

    def keep(self, obj: Any, client: str) -> str:
        """Returns the object's id; it is kept until the client, and every other that has it, releases it."""
        object_id = self._ids.get(id(obj))
        if object_id is None:
            object_id = self._ids[id(obj)] = secrets.token_hex(8)
            self.by_id[object_id] = obj
        self._holders.setdefault(object_id, set()).add(client)
        return object_id

    def release(self, object_ids: Iterable[str], client: str) -> None:
        """Takes note that a client's handles are gone. Ids that are not known are passed over."""
        for object_id in object_ids:
            holders = self._holders.get(object_id, set())
            holders.discard(client)
            if not holders and object_id in self.by_id:
                del self._holders[object_id]
                del self._ids[id(self.by_id.pop(object_id))]

    def forget(self, client: str) -> None:
        """Releases all that a client has: it is gone."""
        self.release([each for each, holders in self._holders.items() if client in holders], client)


def describe(obj: Any) -> dict[str, Any]:
    """Returns what a handle tells of its object; what is not known is left out."""
    kind = type(obj)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    described: dict[str, Any] = {"type": f"{module}{kind.__qualname__}"}
    for name, read in (("shape", _shape), ("dtype", _dtype), ("device", _device), ("size_bytes", _size_bytes)):
        try:
            found = read(obj)
        except Exception:  # noqa: BLE001 - attributes of anybody's objects, which may do and raise anything
            continue
        if found is not None:
            described[name] = found
    return described


def explain(obj: Any) -> dict[str, Any]:
    """Returns the names of an object's attributes, and its docstring."""
    try:
        attributes = [name for name in dir(obj) if isinstance(name, str)][:_MAX_ATTRIBUTES]
    except Exception:  # noqa: BLE001 - anybody's `__dir__`
        attributes = dir(type(obj))
    try:
        text = inspect.getdoc(obj)
    except Exception:  # noqa: BLE001 - anybody's `__doc__`
        text = None
    return {"attributes": attributes, "doc": text[:_MAX_DOC_LENGTH] if isinstance(text, str) else ""}


def _is_module(obj: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(obj, torch.nn.Module)


def _shape(obj: Any) -> list[int] | None:
    shape = getattr(obj, "shape", None)
    if isinstance(shape, tuple) and all(isinstance(each, int) for each in shape):
        return [int(each) for each in shape]
    return None


def _dtype(obj: Any) -> str | None:
    dtype = next(obj.parameters()).dtype if _is_module(obj) else getattr(obj, "dtype", None)
    return None if dtype is None else str(dtype)


def _device(obj: Any) -> str | None:
    device = next(obj.parameters()).device if _is_module(obj) else getattr(obj, "device", None)
    return None if device is None else str(device)


def _size_bytes(obj: Any) -> int | None:
    if _is_module(obj):
        tensors = [*obj.parameters(), *obj.buffers()]
        return int(sum(each.numel() * each.element_size() for each in tensors))
    nbytes = getattr(obj, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    usage = getattr(obj, "memory_usage", None)
    if callable(usage):
        used = usage()
        return int(used.sum() if hasattr(used, "sum") else used)
    if isinstance(obj, (bytes, bytearray, str)):
        return sys.getsizeof(obj)
    return None
