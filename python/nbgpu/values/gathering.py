"""Gathers what a cell reads: the values, what their functions read in turn, and the definitions of their classes."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

from nbgpu import errors
from nbgpu.values.closure import NotebookNames
from nbgpu.values.culprit import find_culprit, kind_in_words, reason_in_words
from nbgpu.values.errors import NotDefinedError, NotPicklableError, TooLargeError, size_in_words
from nbgpu.values.reach import levels_below
from nbgpu_kernel.values.code_names import global_names, modules_to_import
from nbgpu_kernel.values.definitions import Definitions
from nbgpu_kernel.values.encoding import Encoded, Reducer, encode, scan
from nbgpu_kernel.values.exchange import ATOMS, Definition, codes_of, gather_definitions
from nbgpu_kernel.values.tensors import ValueTooLargeError, loaded_module, storage_id

NOTICE_BYTES = 64 << 20
"""A cell that sends more says so."""
REFUSE_BYTES = 1 << 30
"""A cell sends more only of what is named with -i."""
_UNCHANGING = (ModuleType, *ATOMS, FunctionType, type)
"""Modules first: to be compared with another type loads one that is not loaded yet."""


@dataclass
class Gathered:
    """What a cell reads, encoded. Nothing is hashed or sent yet."""

    values: dict[str, Any] = field(default_factory=dict)
    encoded: dict[str, Encoded] = field(default_factory=dict)
    modules: dict[str, list[str]] = field(default_factory=dict)
    definitions: dict[str, Definition] = field(default_factory=dict)
    via: dict[str, str] = field(default_factory=dict)
    """For what the cell does not read itself: whose function reads it."""
    binds: list[str] = field(default_factory=list)
    """Globals that the functions bind when they are called."""
    aliases: set[str] = field(default_factory=set)
    """Names that the cell does not read, of objects in what it reads: they take no room of their own."""


class Gatherer:
    """Gathers for the cells of one notebook.

    Args:
        names: What the notebook defines.
        definitions: Its classes.
        special: How its handles are reduced.
    """

    def __init__(self, names: NotebookNames, definitions: Definitions, special: Reducer) -> None:
        self._names = names
        self._definitions = definitions
        self._special = special

    def mutable_ids(self, value: Any) -> set[int]:
        """Returns the ids of the mutable objects that are in a value."""
        return set(scan(value, self._definitions, self._special).mutable_ids())

    def gather(
        self,
        reads: Iterable[str],
        mentioned: Collection[str],
        given: Mapping[str, Any],
        named: Collection[str],
        *,
        with_aliases: bool = False,
    ) -> Gathered:
        """Encodes what is read and defined here.

        Args:
            reads: Names that the cell reads; those that are not defined here are left out.
            mentioned: Attributes and names that the cell mentions, by which submodules are chosen.
            given: Values to be sent under names of their own, whatever is defined here.
            named: Names that the person named: they may be large, and must be defined.
            with_aliases: Whether other names of objects in what is read come along. What the cell changes in place may
                come back as another object, and a name that had stayed here would be left with the one before.

        Raises:
            NotPicklableError: A value cannot leave this process.
            TooLargeError: A pickle alone is beyond REFUSE_BYTES, and was not named.
            NotDefinedError: A name that was named is not defined.
        """
        for name in named:
            if name not in given and name not in self._names.namespace:
                raise NotDefinedError(f"there is no variable {name} here")
        gathered = Gathered()
        all_mentioned = set(mentioned)
        modules: dict[str, ModuleType] = {}
        seen: set[str] = set()

        def take(names: Iterable[str]) -> None:
            waiting = collections.deque((name, "") for name in names)
            while waiting:
                name, via = waiting.popleft()
                if name in seen or not (name in given or name in named or self._names.defines(name)):
                    continue
                seen.add(name)
                if via:
                    gathered.via[name] = via
                value = given[name] if name in given else self._names.namespace[name]
                if isinstance(value, ModuleType):
                    modules[name] = value
                    continue
                gathered.values[name] = value
                encoded = self._encode(name, value, via, limited=name not in named and name not in gathered.aliases)
                gathered.encoded[name] = encoded
                more = {key: kind for key, kind in encoded.classes.items() if key not in gathered.definitions}
                definitions = self._gather_definitions(more)
                gathered.definitions.update(definitions)
                for code in (*encoded.codes, *codes_of(definitions.values())):
                    code_reads, code_binds, code_mentions = global_names(code)
                    waiting.extend((each, name) for each in sorted(code_reads))
                    gathered.binds.extend(sorted(code_binds))
                    all_mentioned.update(code_mentions)

        take(dict.fromkeys([*given, *sorted(named), *sorted(reads)]))
        if with_aliases:
            gathered.aliases = self._aliases(gathered)
            take(sorted(gathered.aliases))
        for name, module in modules.items():
            to_import = modules_to_import(module, all_mentioned)
            if to_import is None:
                gathered.values[name] = module
                gathered.encoded[name] = self._encode(name, module, gathered.via.get(name, ""), limited=True)
            else:
                gathered.modules[name] = to_import
        return gathered

    def encode(self, value: Any, *, limit_bytes: int | None = None) -> Encoded:
        """Encodes one value; raises whatever pickling raises."""
        return encode((value,), self._definitions, limit_bytes=limit_bytes, special=self._special, with_memo=True)

    def encode_together(self, values: Iterable[Any]) -> Encoded:
        """Encodes several values in one piece, so that what they share stays shared."""
        return encode(tuple(values), self._definitions, special=self._special, keeps_views=True)

    def _aliases(self, gathered: Gathered) -> set[str]:
        """Returns the names that are not read, of objects that are in what is read and can change."""
        names = self._names
        candidates = {
            name: value
            for name, value in list(names.namespace.items())
            if not isinstance(value, _UNCHANGING) and name not in gathered.values
            and names.may_bind(name) and names.defines(name)
        }  # fmt: skip
        read = [name for name, value in gathered.values.items() if not isinstance(value, _UNCHANGING)]
        if not candidates or not _may_lead_to([gathered.values[name] for name in read], candidates.values()):
            return set()
        ids = set[int]().union(*(gathered.encoded[name].mutable_ids() for name in read))
        return {name for name, value in candidates.items() if id(value) in ids or storage_id(value) in ids}

    def _encode(self, name: str, value: Any, via: str, *, limited: bool) -> Encoded:
        try:
            return self.encode(value, limit_bytes=REFUSE_BYTES if limited else None)
        except errors.Error:
            raise
        except ValueTooLargeError:
            raise too_large({name: REFUSE_BYTES}, {name: via} if via else {}, at_least=True) from None
        except Exception as error:  # any code may run in a reducer
            raise self._not_picklable(name, value, via, error) from error

    def _not_picklable(self, name: str, value: Any, via: str, error: Exception) -> NotPicklableError:
        path, part = find_culprit(name, value, self._try)
        through = f", which `{via}` reads," if via else ""
        why = reason_in_words(self._try(part) or error, part)
        return NotPicklableError(f"`{path}`{through} cannot be sent: {kind_in_words(part)}{why}")

    def _try(self, value: Any) -> Exception | None:
        try:
            encoded = self.encode(value, limit_bytes=NOTICE_BYTES)
            gather_definitions(encoded.classes, self._definitions, self._special)
        except ValueTooLargeError:
            return None
        except Exception as error:  # noqa: BLE001 - any code may run in a reducer
            return error
        return None

    def _gather_definitions(self, classes: Mapping[str, type]) -> dict[str, Definition]:
        try:
            return gather_definitions(classes, self._definitions, self._special)
        except errors.Error:
            raise
        except Exception as error:  # any code may run in a reducer
            for kind in classes.values():
                path, part = find_culprit(kind.__qualname__, kind, self._try)
                if part is not kind:
                    raise self._not_picklable(path, part, "", error) from error
            name = next(iter(classes.values())).__qualname__
            raise NotPicklableError(f"the class `{name}` cannot be sent: {type(error).__name__}: {error}") from error


def _may_lead_to(values: Sequence[Any], candidates: Iterable[Any]) -> bool:
    """Says whether any of the candidates may be in the values; told at a fraction of what it costs to know."""
    ids = {id(each) for each in candidates}
    tensor: Any = getattr(loaded_module("torch"), "Tensor", ())
    any_tensor = bool(tensor) and any(isinstance(each, tensor) for each in candidates)
    for found in itertools.chain([values], levels_below(values)):
        if not ids.isdisjoint(map(id, found)):
            return True
        if any_tensor and any(issubclass(kind, tensor) for kind in set(map(type, found))):
            return True  # their memory may be one, which they do not refer to
    return False


def too_large(sizes: Mapping[str, int], via: Mapping[str, str], *, at_least: bool = False) -> TooLargeError:
    """Returns the error for a cell that would send too much, which names the largest values and who reads them."""
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    more = "more than " if at_least else ""
    listed = ", ".join(
        f"`{name}` ({more}{size_in_words(sizes[name])})" + (f" through `{via[name]}`" if name in via else "")
        for name in largest
    )
    options = " ".join(f"-i {name}" for name in largest if sizes[name] > NOTICE_BYTES) or f"-i {largest[0]}"
    return TooLargeError(
        f"the cell would send {more}{size_in_words(sum(sizes.values()))}: {listed}",
        f"if that is meant: `%%gpu {options}`; else make or load it in a `%%gpu` cell, where it then stays",
    )
