"""What `%load_ext nbgpu` adds to an IPython shell, and `%unload_ext nbgpu` takes away again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from nbgpu import remote_exceptions
from nbgpu.comms import CommBridge
from nbgpu.completion import Completion
from nbgpu.kernel_questions import ask_widgets, forward_comm
from nbgpu.magics import STICKY_OPTION, GpuMagics
from nbgpu.notebook import this_notebook
from nbgpu.notebook_facts import FactsTeller

_LEFT_HERE = ("%gpu", "%%gpu", "%load_ext", "%unload_ext", "%reload_ext")
"""Cells that begin with one of these run here also when the notebook is switched to its session."""


class Extension:
    """What was added to one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._magics = GpuMagics(shell)
        self._completion = Completion(self._magics)
        self._facts: FactsTeller | None = None
        self._transform = sticky_transform(lambda: self._magics.is_sticky)
        self._is_loaded = False

    def load(self) -> None:
        """Does nothing where it is loaded already."""
        if self._is_loaded:
            return
        self._is_loaded = True
        self._shell.register_magics(self._magics)
        self._completion.install(self._shell)
        self._shell.input_transformers_cleanup.append(self._transform)
        remote_exceptions.install(self._shell)
        if getattr(self._shell, "kernel", None) is not None:
            this_notebook().comms = _bridge()
            self._facts = FactsTeller(this_notebook())
            self._shell.events.register("post_run_cell", self._facts.cell_ended)
            this_notebook().on_given = self._facts.look_soon

    def unload(self) -> None:
        self._is_loaded = False
        for kind in ("line", "cell"):
            self._shell.magics_manager.magics[kind].pop("gpu", None)
        self._completion.uninstall(self._shell)
        self._shell.input_transformers_cleanup.remove(self._transform)
        remote_exceptions.uninstall(self._shell)
        if self._facts is not None:
            self._shell.events.unregister("post_run_cell", self._facts.cell_ended)
            this_notebook().on_given = lambda: None
            self._facts = None
        comms, this_notebook().comms = this_notebook().comms, None
        if comms is not None:
            comms.release()


def _bridge() -> CommBridge:
    from comm import get_comm_manager

    bridge: CommBridge

    def ask(session: Any) -> Any:
        return ask_widgets(bridge, session)

    bridge = CommBridge(get_comm_manager(), forward_comm, ask)
    return bridge


def sticky_transform(is_sticky: Callable[[], bool]) -> Callable[[list[str]], list[str]]:
    """Returns an input transformer that puts `%%gpu` in front of every cell while the notebook is switched on."""

    def transform(lines: list[str]) -> list[str]:
        first = lines[0].split(None, 1)[:1] if lines else []
        if not is_sticky() or not first or first[0] in _LEFT_HERE:
            return lines
        return [f"%%gpu {STICKY_OPTION}\n", *lines]

    transform.has_side_effects = True  # type: ignore[attr-defined]  # so that typing does not run it
    return transform


@functools.cache
def extension_of(shell: Any) -> Extension:
    """Returns the shell's extension, made at the first call."""
    return Extension(shell)
