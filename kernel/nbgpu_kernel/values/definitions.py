"""Functions and classes that people define in cells: how they are taken apart, and put together on the other side.

A function is put together against the namespace of the side that it comes to, so that it sees the globals there. A
class keeps its identity: it has a key, by which values refer to it, and its definition travels once.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from types import CellType, CodeType, FunctionType
from typing import Any


class Definitions:
    """The classes of one process that were defined in its cells, or came from the other side's.

    Args:
        namespace: Globals of the cells, and of every function that comes from the other side.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self._keys: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
        self._received: dict[str, type] = {}
        """Kept alive: the other side counts on them."""
        self._own: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()

    def key_of(self, definition: type) -> str:
        """Returns the class's key, given to it at the first call."""
        key = self._keys.get(definition)
        if key is None:
            key = self._keys[definition] = uuid.uuid4().hex
            self._own[key] = definition
        return key

    def find(self, key: str) -> type | None:
        """Returns the class of a key, or None if it is not known here."""
        return self._received.get(key) or self._own.get(key)

    def receive(self, key: str, definition: type) -> None:
        """Takes note of a class that came from the other side."""
        self._keys[definition] = key
        self._received[key] = definition


def is_defined_in_cells(definition: type) -> bool:
    """Says whether a class cannot be imported, so that it has to travel by its definition."""
    module_name = definition.__module__
    if module_name == "__main__":
        return True
    found: Any = sys.modules.get(module_name)
    if found is None:
        return False
    for name in definition.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is not definition and "<locals>" in definition.__qualname__


# -- What is active while something is put together ----------------------------------------------------------------


class _Active(threading.local):
    definitions: Definitions | None = None
    objects: Mapping[str, Any] = {}
    pending: MutableMapping[str, Callable[[], Any]] = {}  # noqa: RUF012 - replaced as well


_active = _Active()


@contextlib.contextmanager
def putting_together(
    definitions: Definitions,
    objects: Mapping[str, Any] | None = None,
    pending: MutableMapping[str, Callable[[], Any]] | None = None,
) -> Iterator[None]:
    """While values are unpickled on this thread.

    Args:
        objects: What handles refer to, by id.
        pending: By key, what puts a class together whose definition came with the values. Each is called once, in the
            order in which they need each other.
    """
    before = _active.definitions, _active.objects, _active.pending
    _active.definitions, _active.objects = definitions, objects or {}
    _active.pending = pending if pending is not None else {}
    try:
        yield
    finally:
        _active.definitions, _active.objects, _active.pending = before


def load_pending(key: str) -> None:
    """Puts a class together whose definition came with the values, unless that is done."""
    load = _active.pending.pop(key, None)
    if load is not None:
        load()


def _definitions() -> Definitions:
    assert _active.definitions is not None, "unpickled outside of putting_together"
    return _active.definitions


class UnknownReferenceError(LookupError):
    """Raised when a value refers to a class or to an object that is not here."""


def resolve_class(key: str) -> type:
    """Called by the unpickler, for a class whose definition came before."""
    load_pending(key)
    found = _definitions().find(key)
    if found is None:
        raise UnknownReferenceError(key)
    return found


def resolve_object(object_id: str) -> Any:
    """Called by the unpickler, for the object that a handle stands for."""
    try:
        return _active.objects[object_id]
    except KeyError:
        raise UnknownReferenceError(object_id) from None


# -- Classes -------------------------------------------------------------------------------------------------------


def reduce_definition(key: str, definition: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Has cloudpickle's reduction of a class give the class of that key, where there is one.

    What cloudpickle makes of a class has the attribute `__slots__` and no slots (3.1): instances get a `__dict__`, and
    cannot be put together where the class is the original one.
    """
    constructor, arguments, *rest = reduced
    if "__slots__" in vars(definition) and len(arguments) > 3 and isinstance(arguments[3], dict):
        with_slots = {**arguments[3], "__slots__": vars(definition)["__slots__"]}
        arguments = (*arguments[:3], with_slots, *arguments[4:])
    return (make_class, (key, constructor, arguments), *rest)


def make_class(key: str, constructor: Callable[..., type], arguments: tuple[Any, ...]) -> type:
    """Called by the unpickler; cloudpickle's setter of the state follows, on a class that was here before as well."""
    definitions = _definitions()
    found = definitions.find(key)
    if found is None:
        found = constructor(*arguments)
        definitions.receive(key, found)
    return found


# -- Functions -----------------------------------------------------------------------------------------------------


class CellTokens:
    """Gives every cell of a closure one object to be pickled for it, so that functions go on sharing cells."""

    def __init__(self) -> None:
        self._tokens: dict[int, CellToken] = {}

    def token(self, cell: CellType) -> CellToken:
        return self._tokens.setdefault(id(cell), CellToken(cell))


class CellToken:
    """Pickled as an empty cell. The functions fill it: filled at once it could not hold the function itself."""

    def __init__(self, cell: CellType) -> None:
        self._cell = cell  # kept alive, so that its id stays its own

    @property
    def shared_id(self) -> int:
        return id(self._cell)

    def __reduce__(self) -> tuple[Any, ...]:
        return CellType, ()


def reduce_function(function: FunctionType, cells: CellTokens) -> tuple[Any, ...]:
    """Takes apart a function whose globals are the namespace of the cells."""
    closure = function.__closure__ or ()
    state = {
        "name": function.__name__,
        "qualname": function.__qualname__,
        "module": function.__module__,
        "doc": function.__doc__,
        "defaults": function.__defaults__,
        "kwdefaults": function.__kwdefaults__,
        "annotations": _annotations(function),
        "dict": function.__dict__,
        "contents": [_contents(cell) for cell in closure],
        "source": _source(function.__code__),
    }
    tokens = tuple(cells.token(cell) for cell in closure)
    return make_function, (function.__code__, tokens), state, None, None, set_function_state


def make_function(code: CodeType, closure: tuple[CellType, ...]) -> FunctionType:
    """Called by the unpickler."""
    return FunctionType(code, _definitions().namespace, code.co_name, None, closure)


def set_function_state(function: FunctionType, state: dict[str, Any]) -> None:
    """Called by the unpickler."""
    function.__name__ = state["name"]
    function.__qualname__ = state["qualname"]
    function.__module__ = state["module"]
    function.__doc__ = state["doc"]
    function.__defaults__ = state["defaults"]
    function.__kwdefaults__ = state["kwdefaults"]
    if state["annotations"]:
        function.__annotations__ = state["annotations"]
    function.__dict__.update(state["dict"])
    for cell, contents in zip(function.__closure__ or (), state["contents"], strict=True):
        if len(contents) == 2:  # not compared: what the cell holds may have a comparison of its own
            cell.cell_contents = contents[0]
    if state["source"] is not None:
        # What `inspect.getsource`, tracebacks, and compilers of functions (torch.compile, triton.jit) look at.
        name, text, cell = state["source"]
        linecache.cache.setdefault(name, (len(text), None, text.splitlines(keepends=True), name))
        if cell is not None and (cells := _cell_numbers()) is not None:
            cells.setdefault(name, cell)


def _contents(cell: CellType) -> tuple[Any, ...]:
    try:
        return cell.cell_contents, True
    except ValueError:  # nothing was assigned to it yet
        return ()


def _annotations(function: FunctionType) -> dict[str, Any]:
    try:
        return function.__annotations__
    except Exception:  # noqa: BLE001 - from Python 3.14 on they are evaluated here, and may be anything
        return {}


def _source(code: CodeType) -> tuple[str, str, int | None] | None:
    """Returns file name, text and number of the cell that the code is of: a source that is in no file."""
    entry: Any = linecache.cache.get(code.co_filename)
    if entry is None or len(entry) != 4 or entry[1] is not None:
        return None
    return code.co_filename, "".join(entry[2]), (_cell_numbers() or {}).get(code.co_filename)


def _cell_numbers() -> dict[str, int] | None:
    """Returns by which tracebacks tell the number of a cell from its file's name: IPython's own, on either side."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(getattr(shell, "compile", None), "_filename_map", None)


def make_cached(function: Any, parameters: dict[str, Any]) -> Any:
    """Called by the unpickler, for what `functools.lru_cache` made; the cache is empty."""
    import functools

    return functools.lru_cache(**parameters)(function)
