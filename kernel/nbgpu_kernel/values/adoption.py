"""Has an object that was changed in place on one side take over, on the other, what it has become: it stays itself.

Its attributes are put together anew, but whatever refers to it, there or in what comes with it, refers to it still. The
parameters of a model stay themselves as well: an optimiser that has them need not come along to go on with them.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nbgpu_kernel.values.tensors import loaded_module


class Adoption:
    """The objects of this side that what comes may be put together in.

    Args:
        objects: By the names under which the other side has them.
    """

    def __init__(self, objects: Mapping[str, Any]) -> None:
        self._objects = {key: each for name, obj in objects.items() for key, each in named_parts(name, obj).items()}
        self._undo: list[Callable[[], None]] = []

    @property
    def count(self) -> int:
        """How many objects were taken."""
        return len(self._undo)

    def take(self, name: str, kind: type) -> Any | None:
        """Returns the object, without attributes, or None where there is none of that type."""
        found = self._objects.get(name)
        if type(found) is not kind:
            return None
        attributes = vars(found)
        if type(attributes) is not dict or vars(found) is not attributes:  # a property, which makes one up
            return None
        self._undo.append(functools.partial(_put_back, attributes, dict(attributes)))
        attributes.clear()
        return found

    def take_parameter(self, name: str, data: Any) -> Any | None:
        """Returns the parameter, with this data and no gradient, or None where there is none of that shape."""
        found: Any = self._objects.get(name)
        if type(found) is not _parameter_type() or (found.shape, found.dtype) != (data.shape, data.dtype):
            return None
        self._undo.append(functools.partial(_put_parameter_back, found, found.data, found.grad, found.requires_grad))
        found.grad = None
        found.data = data
        return found

    def keep(self) -> None:
        """Has the objects be what they have become: names are bound to them, and there is no way back."""
        self._undo.clear()

    def undo(self, count: int = 0) -> None:
        """Gives the objects back what they had, but for so many of the first that were taken. Idempotent."""
        while len(self._undo) > count:
            self._undo[-1]()  # taken off when it is done: an interrupt in between has it done again
            self._undo.pop()


def _put_back(attributes: dict[str, Any], before: dict[str, Any]) -> None:
    attributes.clear()
    attributes.update(before)


def _put_parameter_back(parameter: Any, data: Any, grad: Any, requires_grad: bool) -> None:
    parameter.grad = None
    parameter.data = data
    parameter.grad = grad
    parameter.requires_grad_(requires_grad)


def named_parts(name: str, obj: Any) -> dict[str, Any]:
    """Returns what can be adopted of an object that has a name on both sides, by names that both sides know.

    It is the object itself and the parameters of a model or an optimiser: `model`, `model.weight`, `optimiser.0.0`.
    """
    torch = loaded_module("torch")
    module: Any = getattr(getattr(torch, "nn", None), "Module", ())
    optimiser: Any = getattr(getattr(torch, "optim", None), "Optimizer", ())
    parts = {name: obj}
    with contextlib.suppress(Exception):  # any code may run in them; they need not be whole
        if module and isinstance(obj, module):
            parts.update({f"{name}.{path}": each for path, each in obj.named_parameters()})
        elif optimiser and isinstance(obj, optimiser):
            for group, settings in enumerate(obj.param_groups):
                parts.update({f"{name}.{group}.{index}": each for index, each in enumerate(settings["params"])})
    return parts


def _parameter_type() -> Any:
    return getattr(getattr(loaded_module("torch"), "nn", None), "Parameter", None)


class _Active(threading.local):
    adoption: Adoption | None = None


_active = _Active()


@contextlib.contextmanager
def adopting(adoption: Adoption | None) -> Iterator[None]:
    """While values are unpickled on this thread."""
    before, _active.adoption = _active.adoption, adoption
    try:
        yield
    finally:
        _active.adoption = before


def reduce_adopted(obj: Any, name: str) -> Any:
    """Takes an object apart so that the other side's of that name takes its attributes over.

    Returns:
        What a pickler's `reducer_override` does: NotImplemented for objects that are more than their attributes.
    """
    kind = type(obj)
    if kind is _parameter_type():
        return _reduce_parameter(obj, name)
    of_object: Any = object
    if (
        kind.__reduce_ex__ is not of_object.__reduce_ex__
        or kind.__reduce__ is not of_object.__reduce__
        or kind in copyreg.dispatch_table
        or issubclass(kind, (list, dict, set, tuple, type))
        or not hasattr(obj, "__dict__")
        or any(vars(each).get("__slots__") for each in kind.__mro__)
    ):
        return NotImplemented
    constructor, arguments, *rest = obj.__reduce_ex__(5)
    # An object with arguments is more than its attributes: an `int` of some class, for one.
    if constructor is not copyreg.__newobj__ or len(arguments) != 1:  # type: ignore[attr-defined] # of copyreg, and in every pickle
        return NotImplemented
    return (adopt_object, (name, *arguments), *rest)


def adopt_object(name: str, kind: type, *arguments: Any) -> Any:
    """Called by the unpickler; the attributes follow."""
    found = _active.adoption.take(name, kind) if _active.adoption is not None else None
    return kind.__new__(kind, *arguments) if found is None else found


def _reduce_parameter(parameter: Any, name: str) -> Any:
    _, arguments, *rest = parameter.__reduce_ex__(5)
    if rest or parameter.device.type == "meta" or any(arguments[2:3]):  # attributes or hooks of its own
        return NotImplemented
    return adopt_parameter, (name, parameter.data, parameter.requires_grad)


def adopt_parameter(name: str, data: Any, requires_grad: bool) -> Any:
    """Called by the unpickler."""
    found = _active.adoption.take_parameter(name, data) if _active.adoption is not None else None
    if found is None:
        found = _parameter_type()(data, requires_grad)
    return found.requires_grad_(requires_grad)
