"""Which cells of a notebook lack output of their last execution. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A cell as a page has it."""

    id: str
    source_digest: str


@dataclass(frozen=True)
class CellExecution:
    """An execution as its agent lists it."""

    session_id: str
    id: str
    message_id: str
    """`msg_id` of the execute_request that the notebook's front end sent."""
    cell_id: str
    """Empty: the front end did not say."""
    source_digest: str
    """Empty: it was not the whole of a cell."""
    execution_count: int | None
    started_unix_s: float
    is_waiting: bool
    """For others to end; it has not started."""
    is_saved: bool
    """See `nbgpu.client.executions`."""


def unsaved(cells: Sequence[Cell], executions: Iterable[CellExecution]) -> list[CellExecution]:
    """Returns the executions whose output is to be shown: of each cell at most its last one, in the order of the cells.

    A cell is passed over that has another text by now, that ran again in another way, whose last execution is saved,
    or whose id another cell has too.
    """
    last: dict[str, CellExecution] = {}
    for each in executions:
        if each.cell_id and (each.cell_id not in last or _order(each) >= _order(last[each.cell_id])):
            last[each.cell_id] = each
    count_of = Counter(cell.id for cell in cells)
    found = []
    for cell in cells:
        execution = last.get(cell.id)
        if (
            execution is not None
            and count_of[cell.id] == 1
            and execution.source_digest == cell.source_digest
            and not execution.is_saved
        ):
            found.append(execution)
    return found


def _order(execution: CellExecution) -> tuple[bool, float]:
    return execution.is_waiting, execution.started_unix_s
