"""Finds the modules that a cell imported in its session, here: loaded when they are first used."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from types import ModuleType


def find_module(name: str) -> ModuleType | None:
    """Returns a module, or None if it is not here; one that was not imported yet is loaded when it is first used."""
    found = sys.modules.get(name)
    if found is not None:
        return found
    try:
        specification = importlib.util.find_spec(name)
        if specification is None or specification.loader is None:
            return None
        if name in sys.modules:  # its package, which was loaded to find it, has imported it
            return sys.modules[name]
        loader = importlib.util.LazyLoader(specification.loader)
        specification.loader = loader
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        loader.exec_module(module)
    except Exception:  # noqa: BLE001 - a package's own code, or a loader that cannot be lazy
        sys.modules.pop(name, None)
        with contextlib.suppress(Exception):
            return importlib.import_module(name)
        return None
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)
    return module
