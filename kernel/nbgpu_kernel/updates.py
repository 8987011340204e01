"""Brings a running kernel up to date with its notebook: variables, search path, and local modules that were edited."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, MutableMapping
from types import ModuleType
from typing import Any

UPDATE_REQUEST = "nbgpu_update_request"
UPDATE_REPLY = "nbgpu_update_reply"


def install(kernel: Any) -> None:
    """Has the kernel answer update requests, in order with the cells that it is sent."""

    async def update_request(stream: Any, ident: Any, parent: Any) -> None:
        reply = apply(parent["content"], kernel.shell.user_ns)
        kernel.spmd_ranks.note_update(parent["content"])
        kernel.session.send(stream, UPDATE_REPLY, reply, parent, ident)

    kernel.shell_handlers[UPDATE_REQUEST] = update_request


def apply(content: dict[str, Any], namespace: MutableMapping[str, Any]) -> dict[str, Any]:
    """Carries out an update.

    Args:
        content: `variables` to set; `path_entries` to have on `sys.path`, after the current folder; `environment` to
            take the place of the virtual environment that the kernel has now; `local_folders`, of whose modules
            `changed_files` says that they are not those that were imported.
        namespace: The person's variables.
    """
    try:
        os.environ.update(content.get("variables") or {})
        environment = content.get("environment")
        if environment:
            _change_environment(environment)
        _add_to_path(content.get("path_entries") or [])
        importlib.invalidate_caches()
        if content.get("changed_files"):
            renew_modules(content.get("local_folders") or [], namespace)
    except (OSError, ValueError) as error:
        return {"status": "error", "ename": type(error).__name__, "evalue": str(error)}
    return {"status": "ok"}


def renew_modules(folders: Iterable[str], namespace: MutableMapping[str, Any]) -> None:
    """Forgets every module of the folders, and has the names that a person bound to them mean the new ones.

    All of them, since one that did not change may hold what another defined before. A module that cannot be imported
    any more stays as it is under the person's names; the error comes where it is next imported.
    """
    prefixes = tuple(f"{os.path.realpath(folder)}{os.sep}" for folder in folders)
    forgotten = {name: module for name, module in list(sys.modules.items()) if _is_below(module, prefixes)}
    for name in forgotten:
        del sys.modules[name]
    renewed: dict[str, ModuleType | None] = {}
    for bound, value in list(namespace.items()):
        is_module = isinstance(value, ModuleType)
        origin = value.__name__ if is_module else getattr(value, "__module__", None)
        old = forgotten.get(origin) if isinstance(origin, str) else None
        attribute = None if is_module else getattr(value, "__name__", None)
        if old is None or (not is_module and getattr(old, str(attribute), None) is not value):
            continue
        assert isinstance(origin, str)
        if origin not in renewed:
            renewed[origin] = _import(origin)
        module = renewed[origin]
        if module is not None:
            new = module if is_module else getattr(module, str(attribute), None)
            if new is not None:
                namespace[bound] = new


def _import(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception:  # noqa: BLE001 - of the person's own module
        return None


def _is_below(module: object, prefixes: tuple[str, ...]) -> bool:
    file = getattr(module, "__file__", None)
    places = [file] if isinstance(file, str) else []
    if not places and isinstance(module, ModuleType):
        places = [str(place) for place in getattr(module, "__path__", ())]
    return any(os.path.realpath(place).startswith(prefixes) for place in places)


def _add_to_path(entries: list[str]) -> None:
    # Before what is installed, as an editable install's folder comes, and after the standard library.
    installed = (at for at, entry in enumerate(sys.path) if entry.endswith(("site-packages", "dist-packages")))
    position = next(installed, len(sys.path))
    sys.path[position:position] = [entry for entry in entries if entry not in sys.path]
    if entries:  # for the processes that the person's code starts
        os.environ["PYTHONPATH"] = os.pathsep.join(entries)


def _change_environment(folder: str) -> None:
    """Puts another virtual environment in the place of the one that the kernel was started in.

    What is imported stays, as it does where pip changes the environment of a running interpreter.
    """
    old = os.environ.get("VIRTUAL_ENV", sys.prefix)
    if old == folder:
        return
    sys.path[:] = [_moved(entry, old, folder) for entry in sys.path]
    os.environ["PATH"] = os.pathsep.join(
        _moved(entry, old, folder) for entry in os.environ.get("PATH", "").split(os.pathsep)
    )
    os.environ["VIRTUAL_ENV"] = folder


def _moved(path: str, old: str, new: str) -> str:
    return new + path[len(old) :] if path == old or path.startswith(old + os.sep) else path
