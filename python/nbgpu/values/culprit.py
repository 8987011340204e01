"""Finds what it is in a value that cannot be pickled, and names it by the path that leads to it."""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable, Iterator
from typing import Any

_MAX_ATTEMPTS = 2000
_MAX_CHILDREN = 1000
_MAX_DEPTH = 50

IsPicklable = Callable[[Any], BaseException | None]
"""Returns the error that pickling raises, or None."""


def find_culprit(name: str, value: Any, try_to_pickle: IsPicklable) -> tuple[str, Any]:
    """Returns the path to the innermost part that cannot be pickled, and the part: the value itself if none is found.

    Args:
        name: Of the value.
        value: It cannot be pickled.
        try_to_pickle: Tells what can be; called a bounded number of times.
    """
    path, found = name, value
    seen = {id(value)}
    attempts = 0
    for _ in range(_MAX_DEPTH):
        for child_path, child in _children(path, found):
            if attempts >= _MAX_ATTEMPTS:
                return path, found
            if id(child) in seen or isinstance(child, (str, bytes, int, float, type(None))):
                continue
            seen.add(id(child))
            attempts += 1
            if try_to_pickle(child) is not None:
                path, found = child_path, child
                break
        else:
            return path, found
    return path, found


def _children(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    for number, child in enumerate(_all_children(path, value)):
        if number >= _MAX_CHILDREN:
            return
        yield child


def _all_children(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield f"{path}[{_short(key)}]", item
            yield f"{path}'s key {_short(key)}", key
    elif isinstance(value, (list, tuple)):
        yield from ((f"{path}[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f"{path}'s item {_short(item)}", item) for item in value)
    if isinstance(value, types.FunctionType):
        names = value.__code__.co_freevars
        for cell_name, cell in zip(names, value.__closure__ or (), strict=True):
            try:
                yield f"{path}'s variable {cell_name}", cell.cell_contents
            except ValueError:  # empty yet
                continue
        yield from ((f"{path}'s default {_short(each)}", each) for each in value.__defaults__ or ())
    if isinstance(value, types.MethodType):
        yield f"{path}.__self__", value.__self__
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, (dict, types.MappingProxyType)):
        for key, item in list(attributes.items()):
            if not (isinstance(value, type) and key in ("__dict__", "__weakref__")):
                yield f"{path}.{key}", item
    for slot in _slots(type(value)):
        if (item := getattr(value, slot, None)) is not None:
            yield f"{path}.{slot}", item


def _slots(kind: type) -> Iterator[str]:
    for each in kind.__mro__:
        slots = each.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else tuple(slots)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - anybody's repr
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 40 else f"{text[:37]}..."


def kind_in_words(value: Any) -> str:
    """Returns what it is, for a person: "an open file", "a lock", "a generator"."""
    if isinstance(value, io.IOBase):
        return "a closed file" if value.closed else "an open file"
    if isinstance(value, types.GeneratorType):
        return "a generator"
    if isinstance(value, (types.CoroutineType, types.AsyncGeneratorType)):
        return "a coroutine"
    if isinstance(value, (types.FrameType, types.TracebackType)):
        return "a traceback"
    kind = type(value)
    name = kind.__name__.lower()
    if "lock" in name or "condition" in name or "semaphore" in name:
        return "a lock"
    if kind.__module__ in ("builtins", "_thread"):
        return f"a {kind.__name__}"
    return f"a {kind.__module__}.{kind.__qualname__}"


def reason_in_words(error: BaseException, value: Any) -> str:
    """Returns why pickle refuses a part, where that is more than that it is of its type."""
    text = str(error)
    usual = isinstance(error, (TypeError, pickle.PicklingError)) and "pickle" in text.lower()
    return "" if usual and type(value).__name__ in text else f" ({type(error).__name__}: {text})"
