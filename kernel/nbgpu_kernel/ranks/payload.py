"""What a call takes to its ranks: the function, its arguments, and the session's variables that its code reads."""

from __future__ import annotations

import builtins
import collections
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from nbgpu_kernel.ranks.message_file import read_values, write_encoded
from nbgpu_kernel.values.code_names import global_names, modules_to_import
from nbgpu_kernel.values.definitions import Definitions
from nbgpu_kernel.values.encoding import Encoded, encode
from nbgpu_kernel.values.exchange import codes_of, gather_definitions

_CALL = "\0call"
"""No variable has this name."""
MANAGED = re.compile(r"In|Out|exit|quit|get_ipython|_+|_\d+|_i+|_i\d+|_[oid]h|_exit_code|__\w*__")
"""What IPython keeps itself."""


class UnsendableError(TypeError):
    """Raised when something that a function reads cannot be sent to the ranks.

    Args:
        text: What, and why.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)


def write_call(
    path: Path,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    definitions: Definitions,
    hidden: Mapping[str, Any],
) -> None:
    """Writes a call for its ranks.

    Args:
        path: Of the file.
        function: To be called in each rank.
        args: Its arguments by position.
        kwargs: And by name.
        definitions: Of the session, whose namespace has the variables.
        hidden: Names in the namespace that are IPython's own, with what they were bound to.

    Raises:
        UnsendableError: Something cannot be pickled.
    """
    namespace = definitions.namespace
    values: dict[str, Any] = {}
    encoded: dict[str, Encoded] = {}
    modules: dict[str, ModuleType] = {}
    mentioned: set[str] = set()
    read_by: dict[str, str] = {}
    waiting = collections.deque([_CALL])
    seen = {_CALL}
    while waiting:
        name = waiting.popleft()
        value = (function, tuple(args), dict(kwargs)) if name == _CALL else namespace[name]
        if isinstance(value, ModuleType):
            modules[name] = value
            continue
        try:
            values[name], encoded[name] = value, encode((value,), definitions, with_memo=True)
            found = gather_definitions(encoded[name].classes, definitions)
        except Exception as error:  # any code may run in a reducer
            raise UnsendableError(_unsendable(name, read_by.get(name, ""), error)) from error
        for code in (*encoded[name].codes, *codes_of(found.values())):
            reads, _, mentions = global_names(code)
            mentioned |= mentions
            for each in sorted(reads - seen):
                if _is_variable(each, namespace, hidden):
                    seen.add(each)
                    read_by[each] = code.co_name
                    waiting.append(each)
    imports = {name: modules_to_import(module, mentioned) for name, module in modules.items()}
    if handmade := [name for name, to_import in imports.items() if to_import is None]:
        raise UnsendableError(f"`{handmade[0]}` is a module that cannot be imported in the ranks")
    write_encoded(path, values, encoded, definitions, modules=imports)


def _unsendable(name: str, reader: str, error: Exception) -> str:
    what = "the call" if name == _CALL else f"`{name}`, which `{reader}` reads,"
    return f"{what} cannot be sent to the ranks: {type(error).__name__}: {error}"


def _is_variable(name: str, namespace: Mapping[str, Any], hidden: Mapping[str, Any]) -> bool:
    missing = object()
    value = namespace.get(name, missing)
    if value is missing or getattr(builtins, name, missing) is value or MANAGED.fullmatch(name):
        return False
    return hidden.get(name, missing) is not value


def read_call(path: Path, definitions: Definitions) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Puts a call together in a rank: binds the variables, and returns the function and its arguments.

    Raises:
        UndecodableError: Something cannot be put together here.
        ImportError: A module is not here.
    """
    namespace = definitions.namespace
    _, message = read_values(path, definitions, namespace=namespace)
    for name, modules in message["modules"].items():
        for module in reversed(modules):  # the first is what the name is bound to
            namespace[name] = importlib.import_module(module)
    function, args, kwargs = namespace.pop(_CALL)
    return function, args, kwargs
