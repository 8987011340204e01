"""What goes wrong with files on their way between the notebook's folder and a session's."""

from __future__ import annotations

from nbgpu.errors import InfrastructureError, UserError


class WorkspaceError(UserError):
    """What the errors about the person's paths have in common: one sentence, and a hint of its own."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text, hint)
        self.hint = hint or type(self).hint

    def message(self) -> str:
        return str(self.args[0])


class OutsidePathError(WorkspaceError):
    """Raised for a path that is not below the notebook's folder."""

    hint = "move it beside the notebook, or read it in a plain cell: variables travel by themselves"


class NoSuchPathError(WorkspaceError):
    """Raised for a path that is neither in the notebook's folder nor in the session's."""


class UnfitPathError(WorkspaceError):
    """Raised for a path that stays where it is, or whose name cannot travel."""


class TooManyFilesError(WorkspaceError):
    """Raised when more files are chosen than are kept in step."""

    hint = "name fewer of them, or list what the session does not need in a .nbgpuignore file"


class LocalDiskError(InfrastructureError):
    """Raised when what comes cannot be written here."""

    hint = "make space on this machine, then `%gpu sync` goes on where it was"

    def message(self) -> str:
        return str(self.args[0])
