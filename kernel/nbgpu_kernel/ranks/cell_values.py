"""What a cell takes to ranks that stay: the variables that it reads, as far as they do not have them already.

A name that a cell bound on the ranks is each rank's own from then on, until the notebook, or a cell that runs in the
session's kernel alone, binds it anew.
"""

from __future__ import annotations

import ast
import builtins
import collections
import dis
import importlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from nbgpu_kernel.ranks.message_file import read_values, write_encoded
from nbgpu_kernel.ranks.payload import MANAGED, UnsendableError
from nbgpu_kernel.values.code_names import global_names, modules_to_import
from nbgpu_kernel.values.definitions import Definitions
from nbgpu_kernel.values.encoding import Encoded, encode
from nbgpu_kernel.values.exchange import codes_of, gather_definitions
from nbgpu_kernel.values.watching import Identity

_MISSING = object()
_CODE = (FunctionType, type, ModuleType)
"""Types of what is the same on every rank, whoever made it."""


@dataclass(frozen=True)
class CellNames:
    """The names in a cell, as its code has them."""

    reads: frozenset[str] = frozenset()
    """Those that it reads before it binds them."""
    binds: frozenset[str] = frozenset()
    mentions: frozenset[str] = frozenset()
    """Attributes as well."""


def names_of_cell(source: str) -> CellNames:
    """Returns the names of a cell whose magics are translated already; none where it cannot be compiled."""
    try:
        code = compile(source, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError):
        return CellNames()
    reads: set[str] = set()
    binds: set[str] = set()
    for instruction in dis.get_instructions(code):
        name = instruction.argval
        if instruction.opname in ("STORE_NAME", "STORE_GLOBAL"):
            binds.add(name)
        elif instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL", "DELETE_NAME"):
            reads |= {name} - binds
        elif isinstance(name, CodeType):
            inner_reads, inner_binds, _ = global_names(name)
            reads |= inner_reads - binds
            binds |= inner_binds
    return CellNames(frozenset(reads), frozenset(binds), global_names(code)[2])


@dataclass(frozen=True)
class _Mark:
    """What a name was bound to in the kernel when a rank had the same, or its own."""

    identity: Identity
    token: str | None
    """By which both sides of the session know the value; another one after a change in place."""


@dataclass
class Selection:
    """What goes to the ranks with a cell."""

    values: dict[str, Any] = field(default_factory=dict)
    encoded: dict[str, Encoded] = field(default_factory=dict)
    modules: dict[str, list[str]] = field(default_factory=dict)
    taken_by: dict[int, frozenset[str]] = field(default_factory=dict)
    """The names that each rank is to bind."""

    @property
    def is_empty(self) -> bool:
        return not self.values and not self.modules

    def write(self, path: Path, definitions: Definitions) -> None:
        """Writes the file that all ranks read. What it refers to is kept by this object."""
        write_encoded(path, self.values, self.encoded, definitions, refers=True, modules=self.modules)


class CellValues:
    """What each rank has of the variables of the session's kernel.

    Args:
        definitions: Of the kernel, with its namespace.
        hidden: Names in it that are IPython's own, with what they were bound to.
        token_of: Returns the token by which the notebook knows what a name is bound to, or None.
    """

    def __init__(
        self, definitions: Definitions, hidden: Mapping[str, Any], token_of: Callable[[str], str | None]
    ) -> None:
        self._definitions = definitions
        self._hidden = hidden
        self._token_of = token_of
        self._marks: dict[int, dict[str, _Mark]] = {}
        self._made: dict[str, Identity] = {}
        """What cells on the ranks bound: each rank has its own, and that of rank 0 is nobody else's."""
        self._changed: dict[str, Identity] = {}
        """What they changed in place, each rank for itself."""
        self._before: dict[str, Identity] = {}

    def welcome(self, rank: int) -> None:
        """Takes note of a rank that was made anew, and has nothing."""
        self._marks[rank] = {}

    def select(self, names: CellNames, known_reads: Collection[str], ranks: Iterable[int]) -> Selection:
        """Returns what a cell's ranks lack of what it reads, and what that reads in its turn.

        Args:
            names: Of the cell.
            known_reads: What it reads by the notebook's own analysis, which knows what is bound conditionally.
            ranks: Those that run it, without 0.

        Raises:
            UnsendableError: Something cannot be pickled.
        """
        selection = Selection(taken_by=dict.fromkeys(ranks, frozenset()))
        namespace = self._definitions.namespace
        mentioned = set(names.mentions)
        modules: dict[str, ModuleType] = {}
        read_by: dict[str, str] = {}
        seen = {name for name in {*names.reads, *known_reads} if self._is_variable(name)}
        waiting = collections.deque(sorted(seen))
        lacking: dict[str, set[int]] = {}
        while waiting:
            name = waiting.popleft()
            value = namespace[name]
            lacking[name] = {rank for rank in selection.taken_by if self._lacks(rank, name, value)}
            if isinstance(value, ModuleType):
                if lacking[name]:
                    modules[name] = value
                continue
            if not lacking[name] and not isinstance(value, (FunctionType, type)):
                continue
            try:
                encoded = encode((value,), self._definitions, with_memo=True)
                found = gather_definitions(encoded.classes, self._definitions)
            except Exception as error:  # any code may run in a reducer
                if name in names.binds and name not in names.reads:
                    continue  # the cell most likely binds it anew
                raise UnsendableError(_unsendable(name, read_by.get(name), error)) from error
            if lacking[name]:
                selection.values[name], selection.encoded[name] = value, encoded
            for code in (*encoded.codes, *codes_of(found.values())):
                reads, _, mentions = global_names(code)
                mentioned |= mentions
                for each in sorted(reads - seen):
                    if self._is_variable(each):
                        seen.add(each)
                        read_by[each] = code.co_name
                        waiting.append(each)
        for name, module in modules.items():
            to_import = modules_to_import(module, mentioned)
            if to_import is None:
                raise UnsendableError(f"`{name}` is a module that cannot be imported in the ranks")
            selection.modules[name] = to_import
        for rank in selection.taken_by:
            taken = frozenset(name for name, lack in lacking.items() if rank in lack)
            selection.taken_by[rank] = taken & {*selection.values, *selection.modules}
        return selection

    def begin(self, selection: Selection) -> None:
        """Takes note of what goes to the ranks, as the cell begins."""
        for rank, taken in selection.taken_by.items():
            for name in taken:
                self._marks[rank][name] = self._mark(name)
        namespace = self._definitions.namespace
        self._before = {name: Identity(namespace[name], keeps=False) for name in self._variables()}

    def end(self, names: CellNames, ranks: Collection[int]) -> None:
        """Takes note of what the cell bound: each rank has its own.

        Args:
            names: Of the cell.
            ranks: Those that ran it.
        """
        namespace = self._definitions.namespace
        before, self._before = self._before, {}
        variables = set(self._variables())
        rebound = {
            name for name in variables if 0 in ranks and (name not in before or not before[name].is_of(namespace[name]))
        }
        for name in (rebound | names.binds) & variables if 0 in ranks else ():
            self._made[name] = Identity(namespace[name])
        for rank in self._marks.keys() & set(ranks):
            marks = self._marks[rank]
            for name, mark in marks.items():
                is_same = name in variables and mark.identity.is_of(namespace[name])
                if is_same and mark.token != self._token_of(name):
                    self._changed[name] = mark.identity
            for name in rebound | names.binds:
                marks[name] = self._mark(name)
        self.forget_replaced()

    def forget_replaced(self) -> None:
        """Keeps nothing alive that a cell has replaced in the kernel, and has the ranks get what replaced it."""
        namespace = self._definitions.namespace
        kept = [self._made, self._changed]
        for found in kept:
            for name in [name for name, each in found.items() if not each.is_of(namespace.get(name, _MISSING))]:
                del found[name]
        for marks in self._marks.values():
            for name in [
                name for name, each in marks.items() if not each.identity.is_of(namespace.get(name, _MISSING))
            ]:
                del marks[name]

    def _lacks(self, rank: int, name: str, value: Any) -> bool:
        mark = self._marks[rank].get(name)
        made = self._made.get(name)
        is_made = made is not None and made.is_of(value)
        if mark is None or not mark.identity.is_of(value):
            # What a cell made on each rank is gone with the rank: the kernel's is another.
            return not is_made or isinstance(value, _CODE)
        changed = self._changed.get(name)
        is_own = is_made or (changed is not None and changed.is_of(value))
        return not is_own and mark.token != self._token_of(name)

    def _mark(self, name: str) -> _Mark:
        return _Mark(Identity(self._definitions.namespace.get(name, _MISSING)), self._token_of(name))

    def _variables(self) -> list[str]:
        return [name for name in list(self._definitions.namespace) if self._is_variable(name)]

    def _is_variable(self, name: str) -> bool:
        value = self._definitions.namespace.get(name, _MISSING)
        if value is _MISSING or getattr(builtins, name, _MISSING) is value or MANAGED.fullmatch(name):
            return False
        return self._hidden.get(name, _MISSING) is not value


def read_cell_values(path: Path, definitions: Definitions, taken: Collection[str]) -> None:
    """Binds what came with a cell in a rank.

    Args:
        path: Of the file.
        definitions: The rank's.
        taken: The names to bind.

    Raises:
        UndecodableError: Something cannot be put together here.
        ImportError: A module is not here.
    """
    values, message = read_values(path, definitions)
    namespace = definitions.namespace
    for name, modules in message["modules"].items():
        if name in taken:
            for module in reversed(modules):  # the first is what the name is bound to
                namespace[name] = importlib.import_module(module)
    namespace.update({name: value for name, value in values.items() if name in taken})


def _unsendable(name: str, reader: str | None, error: Exception) -> str:
    who = f"`{reader}`" if reader else "the cell"
    return f"`{name}`, which {who} reads, cannot be sent to the ranks: {type(error).__name__}: {error}"
