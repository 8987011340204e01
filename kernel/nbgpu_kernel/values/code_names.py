"""Which globals a function's code reads and binds, and which modules the names in it need."""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Collection, Iterator
from types import CodeType, ModuleType

from nbgpu_kernel.values.exchange import importable_name


@functools.lru_cache(maxsize=4096)
def global_names(code: CodeType) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Returns the globals that a function reads, those that it binds, and the attributes and names that it mentions."""
    reads: set[str] = set()
    binds: set[str] = set()
    mentioned: set[str] = set()
    for each in _codes(code):
        mentioned.update(each.co_names)
        for instruction in dis.get_instructions(each):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
                reads.add(instruction.argval)
            elif instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                binds.add(instruction.argval)
    return frozenset(reads), frozenset(binds), frozenset(mentioned)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def modules_to_import(module: ModuleType, mentioned: Collection[str]) -> list[str] | None:
    """Returns the names to import for a module that a cell reads, itself first, or None if it cannot be imported.

    Submodules that are imported here and that the cell mentions come along: `import xml.dom` binds `xml` alone.
    """
    name = importable_name(module, sys.modules)
    if name is None:
        return None
    if "__path__" not in ModuleType.__getattribute__(module, "__dict__"):
        return [name]
    prefix = f"{name}."
    found = [each for each in list(sys.modules) if each.startswith(prefix)]
    return [name, *(each for each in found if all(part in mentioned for part in each[len(prefix) :].split(".")))]
