"""What either end does with the values of one message: groups them, adds the definitions they need, loads them."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

from nbgpu_kernel.values.adoption import Adoption, adopting
from nbgpu_kernel.values.definitions import Definitions, UnknownReferenceError, load_pending, putting_together
from nbgpu_kernel.values.encoding import Encoded, Reducer, decode, encode
from nbgpu_kernel.values.packing import Packer, Unpacker

ATOMS = (int, float, complex, bool, str, bytes, type(None))
"""Types of what cannot change in place, and shares nothing."""


class UndecodableError(Exception):
    """Raised when something cannot be put together here.

    Args:
        name: Of the value, or of the class.
        ename: Type of the exception that was raised meanwhile.
        evalue: Its message.
    """

    def __init__(self, name: str, ename: str, evalue: str) -> None:
        super().__init__(name, ename, evalue)
        self.name = name
        self.ename = ename
        self.evalue = evalue


def content_digest(encoded: Encoded, new_hash: Callable[[], Any] = hashlib.sha256) -> str:
    """Returns the digest by which a side recognises that an object of its own has changed."""
    content_hash = new_hash()
    for segment in encoded.segments:
        content_hash.update(segment)
    for buffer in encoded.buffers:
        content_hash.update(b"%d;" % buffer.nbytes)
        content_hash.update(buffer)
    return str(content_hash.hexdigest())


def group_by_sharing(encoded: Mapping[str, Encoded]) -> list[list[str]]:
    """Returns the names in groups: values that share something that can change are one group, and travel together.

    An optimiser sent apart from its model would train parameters that nobody else has.

    Args:
        encoded: By name, with their memos.
    """
    groups: list[tuple[list[str], set[int]]] = []
    for name, value in encoded.items():
        names, ids = [name], value.mutable_ids() if len(encoded) > 1 else set()
        for group in [group for group in groups if group[1] & ids]:
            groups.remove(group)
            names, ids = group[0] + names, ids | group[1]
        groups.append((names, ids))
    return [names for names, _ in groups]


@dataclass(frozen=True)
class Definition:
    """A class's definition as it is here now."""

    name: str
    digest: str
    encoded: Encoded


def gather_definitions(
    classes: Mapping[str, type], definitions: Definitions, special: Reducer | None = None
) -> dict[str, Definition]:
    """Returns the definitions of the classes, and of those that these refer to, by key.

    Raises:
        Exception: Whatever pickle raises for what a class holds and cannot be pickled.
    """
    found: dict[str, Definition] = {}
    waiting = dict(classes)
    while waiting:
        key, definition = waiting.popitem()
        encoded = encode(definition, definitions, special=special, defining=definition)
        found[key] = Definition(definition.__qualname__, content_digest(encoded), encoded)
        waiting.update({each: kind for each, kind in encoded.classes.items() if each not in found})
    return found


def codes_of(definitions: Iterable[Definition]) -> list[CodeType]:
    """Returns the code of the functions in definitions."""
    return list(itertools.chain.from_iterable(each.encoded.codes for each in definitions))


def pack_definitions(found: Mapping[str, Definition], known: Mapping[str, str], packer: Packer) -> dict[str, Any]:
    """Returns the message's field for those definitions that the other side does not have as they are.

    Args:
        known: Digests of what it has, by key.
    """
    return {
        key: {"name": each.name, **packer.add(each.encoded)}
        for key, each in found.items()
        if known.get(key) != each.digest
    }


def load(
    message: Mapping[str, Any],
    unpacker: Unpacker,
    definitions: Definitions,
    objects: Mapping[str, Any],
    *,
    failed: dict[str, UndecodableError] | None = None,
    namespace: dict[str, Any] | None = None,
    adoption: Adoption | None = None,
) -> dict[str, Any]:
    """Puts together the values of a message, and the definitions that came with them.

    Args:
        message: With `definitions` and `parcels`, either of which may be missing.
        objects: What handles refer to, by id.
        failed: Takes the names that cannot be put together; None: the first one raises.
        namespace: Takes each value as soon as it is there: what puts the next one together may look at it.
        adoption: The objects here that values may be put together in. What is not put together is undone.

    Returns:
        The values by name.

    Raises:
        UndecodableError: One cannot be put together.
        UnknownReferenceError: One refers to what is not here.
    """

    def put_together(description: dict[str, Any], name: str) -> Any:
        pickled, buffers = unpacker.unpack(description)
        try:
            return decode(pickled, buffers)
        except (UnknownReferenceError, UndecodableError):
            raise
        except Exception as error:  # any code may run in what puts a value together
            raise UndecodableError(name, type(error).__name__, str(error)) from error

    pending: dict[str, Callable[[], Any]] = {
        key: functools.partial(put_together, description, description["name"])
        for key, description in message.get("definitions", {}).items()
    }
    values: dict[str, Any] = {}
    adoption = adoption or Adoption({})
    with putting_together(definitions, objects, pending), adopting(adoption):
        for key in list(pending):
            if failed is None:
                load_pending(key)
        # What a function or a class needs comes after it.
        for parcel in reversed(message.get("parcels", ())):
            taken = adoption.count
            try:
                label = ", ".join(parcel["names"])
                found = put_together(parcel, label)
                if type(found) is not tuple or len(found) != len(parcel["names"]):
                    raise UndecodableError(label, "ValueError", "what came is not one value for each name")
            except UndecodableError as error:
                adoption.undo(taken)
                if failed is None:
                    raise
                failed.update(dict.fromkeys(parcel["names"], error))
            else:
                values.update(zip(parcel["names"], found, strict=True))
                if namespace is not None:
                    namespace.update(zip(parcel["names"], found, strict=True))
    return values


def note_definitions(keys: Iterable[str], definitions: Definitions, special: Reducer | None = None) -> dict[str, str]:
    """Returns the digests of definitions that came, as they are here, by key."""
    classes = {key: found for key in keys if (found := definitions.find(key)) is not None}
    return {key: each.digest for key, each in gather_definitions(classes, definitions, special).items()}


def importable_name(module: ModuleType, modules: Mapping[str, ModuleType]) -> str | None:
    """Returns the name by which a module can be imported, or None for one that was made by hand.

    Args:
        modules: `sys.modules`.
    """
    # Not `module.__name__`: it would load a module that is imported lazily.
    name = ModuleType.__getattribute__(module, "__name__")
    return name if modules.get(name) is module and name != "__main__" else None
