"""What a sync did, or would do, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nbgpu.values.errors import size_in_words
from nbgpu.workspace.local_tree import shown
from nbgpu.workspace.plan import BROUGHT, SENT, Step

_NAMED = 10
_DRY = {
    Step.SEND: "send",
    Step.SEND_AND_KEEP: "send; changed there too, and kept there beside it",
    Step.REMOVE: "remove there: it was deleted here",
    Step.BRING: "bring",
    Step.BRING_BACK: "bring: it was deleted here and changed there",
    Step.GONE_THERE: "keep here: it was deleted there",
    Step.DIFFER: "leave: it changed on both sides",
}


@dataclass
class SyncReport:
    """What a sync did. Its text is what the person reads."""

    sent: dict[str, int] = field(default_factory=dict)
    """Sizes in bytes, by path."""
    brought: dict[str, int] = field(default_factory=dict)
    """Sizes in bytes, by path."""
    removed: list[str] = field(default_factory=list)
    """Paths that were deleted here, and are gone there."""
    unchanged: int = 0
    notes: list[str] = field(default_factory=list)
    """What else the person is to know, a line each."""
    is_dry: bool = False
    """Nothing was done."""
    planned: dict[str, tuple[Step, int]] = field(default_factory=dict)
    """Steps and sizes in bytes by path, if nothing was done."""

    def __str__(self) -> str:
        if self.is_dry:
            lines = [
                f"{shown(path)}: {_DRY[step]}{f', {size_in_words(size)}' if step in SENT | BROUGHT else ''}"
                for path, (step, size) in self.planned.items()
            ]
            return "\n".join([*lines, f"{files_in_words(self.unchanged)} unchanged; nothing was done", *self.notes])
        parts = []
        if self.sent:
            parts.append(f"sent {files_in_words(len(self.sent))}, {size_in_words(sum(self.sent.values()))}")
        if self.brought:
            parts.append(f"brought {files_in_words(len(self.brought))}, {size_in_words(sum(self.brought.values()))}")
        if self.removed:
            parts.append(f"removed {files_in_words(len(self.removed))} there")
        if self.unchanged or not parts:
            parts.append(f"{self.unchanged} unchanged" if parts else f"{files_in_words(self.unchanged)} unchanged")
        return "\n".join(["; ".join(parts), *self.notes])

    def note_each(self, paths: Sequence[str], text: str) -> None:
        """Adds a line for each path, or one with the number of the rest where they are many."""
        self.notes += [f"{shown(path)}: {text}" for path in paths[:_NAMED]]
        if len(paths) > _NAMED:
            self.notes.append(f"and {files_in_words(len(paths) - _NAMED)} more: {text}")


def files_in_words(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def is_shown(step: Step) -> bool:
    """Says whether a step stands in the list of what would be done."""
    return step in _DRY
