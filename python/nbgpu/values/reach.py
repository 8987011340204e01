"""What a value leads to as the garbage collector sees it: quicker than taking it apart, and more than would travel.

Objects in an array of objects are not seen.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any

_MAX_LOOKED_AT = 5_000_000


def levels_below(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Yields what the values refer to, then what that refers to, and so on; an object may come more than once.

    Not what classes, modules and the globals of functions lead to, which is everything; nor more than some millions.
    """
    level = list(values)
    seen: set[int] = set()
    while level and len(seen) < _MAX_LOOKED_AT:
        functions = [each for each in level if type(each) is FunctionType]
        found = gc.get_referents(*(each for each in level if not isinstance(each, (type, ModuleType, FunctionType))))
        for each in functions:
            found += [each.__closure__, each.__defaults__, each.__kwdefaults__, each.__dict__]
        yield found
        # What is not tracked refers to nothing that refers to something else.
        level = [each for each in filter(gc.is_tracked, found) if id(each) not in seen]
        seen.update(map(id, level))
        level = list({id(each): each for each in level}.values())
