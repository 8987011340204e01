"""What accelerators a call asks for, under all the names that people bring along, and the session that has them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from IPython.core.getipython import get_ipython

from nbgpu import words
from nbgpu.client.background import background, run_telling
from nbgpu.errors import SpecError
from nbgpu.notebook import this_notebook
from nbgpu.progress import OpeningProgress
from nbgpu.session import open_session
from nbgpu.session_client import SessionClient
from nbgpu.spec import Alternative, Spec, parse_spec
from nbgpu_protocol.accelerator_types import CPU
from nbgpu_protocol.v1 import pool_pb2


@dataclass(frozen=True)
class Wanted:
    """What a call asks for."""

    spec: Spec | None
    """None: any accelerators, as many as `count` says."""
    count: int | None
    """Ranks; None: one for each accelerator of the session."""

    def is_met_by(self, accelerators: Sequence[pool_pb2.Accelerator]) -> bool:
        """Says whether a session has the accelerators; it may have more of them."""
        if all(each.type == CPU for each in accelerators):
            # Any number of ranks share the CPU, where nothing else was asked for.
            return self.spec is None or any(each.type == CPU for each in self.spec.alternatives)
        if self.spec is None:
            return self.count is None or len(accelerators) >= self.count
        return any(_has(accelerators, each) for each in self.spec.alternatives)

    def world_size(self, accelerators: Sequence[pool_pb2.Accelerator]) -> int:
        """Returns how many ranks the call has on these accelerators, which meet what is wanted."""
        if self.count is not None:
            return self.count
        for each in self.spec.alternatives if self.spec is not None else ():
            if each.count > 1 and _has(accelerators, each):
                return each.count
        return len(accelerators)


def _has(accelerators: Sequence[pool_pb2.Accelerator], wanted: Alternative) -> bool:
    return len(accelerators) >= wanted.count and all(
        (each.type == wanted.type if wanted.type else each.type != CPU) and each.memory_bytes >= wanted.min_memory_bytes
        for each in accelerators
    )


def parse_wanted(count: int | None, accelerator_type: Any) -> Wanted:
    """Reads a number and a type such as "H100", "h100_80gb", "GPU_8xH100", or an enum's member with such a value.

    Raises:
        SpecError: The type cannot be read, or says another number.
    """
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise SpecError(str(count), 0, "a number of accelerators is 1 or more")
    if accelerator_type is None:
        return Wanted(None, count)
    text = str(getattr(accelerator_type, "value", accelerator_type))
    spec = parse_spec(text)
    alternatives = []
    for each in spec.alternatives:
        if each.type == CPU or count is None:
            alternatives.append(each)
        elif each.count not in (1, count):
            raise SpecError(text, 0, f"it says {each.count} accelerators, and {count} are asked for besides")
        else:
            alternatives.append(replace(each, count=count))
    written = text if count is None else f"{text}, {count} of them"
    single = all(each.type != CPU and each.count == 1 for each in alternatives)
    return Wanted(Spec(tuple(alternatives), written), 1 if count is None and single else count)


def find_session(wanted: Wanted) -> SessionClient:
    """Returns a session that has what is wanted: the notebook's own, another that it has, or a new one.

    Raises:
        Error: As `nbgpu.attach` does.
    """
    notebook = this_notebook()
    chosen = background().run(notebook.find_chosen())
    if chosen is not None and wanted.is_met_by(list(chosen.info.accelerators)):
        return chosen
    spec = wanted.spec
    if spec is None and wanted.count is not None:
        spec = Spec((Alternative("", wanted.count),), f"any x{wanted.count}")
    attached = notebook.attached_that_meets(spec) if spec is not None else None
    if attached is not None:
        return attached
    held = notebook.held()
    with OpeningProgress(get_ipython(), words.accelerators_in_words(held) if held else "") as progress:
        client, existing = open_session(spec, on_update=progress)
    if not existing:
        notebook.close_at_end(client)
    if notebook.chosen is None:
        notebook.chosen = client
    elif not existing:
        here = words.accelerators_in_words(client.info.accelerators)
        others = words.accelerators_in_words(notebook.chosen.info.accelerators)
        print(f"nbgpu: opened a session on {here}; the one on {others} stays open too", file=sys.stderr, flush=True)
    return client


def bring_up_to_date(client: SessionClient) -> None:
    """Gives the session what has changed here since its last cell: packages, local modules, named variables."""
    with OpeningProgress(get_ipython()) as progress:
        run_telling(lambda tell: this_notebook().bring_up_to_date(client, "", tell), progress)
