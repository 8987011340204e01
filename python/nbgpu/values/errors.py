"""What goes wrong with values, and is the person's to know."""

from __future__ import annotations

from nbgpu.errors import InfrastructureError, UserError


def size_in_words(size_bytes: int) -> str:
    """Returns "512 B", "12 KB", "3.1 GB"."""
    size = float(size_bytes)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


class ValuesError(UserError):
    """What the errors about values have in common: one sentence, and a hint of its own."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text, hint)
        self.hint = hint or type(self).hint

    def message(self) -> str:
        return str(self.args[0])


class NotPicklableError(ValuesError):
    """Raised when a cell reads what cannot leave this process. Nothing has run."""

    hint = "make it in a `%%gpu` cell, where it then stays; or run this one with --no-sync"


class TooLargeError(ValuesError):
    """Raised when a cell reads more than is sent without being asked for. Nothing has run."""


class NotDefinedError(ValuesError):
    """Raised when a name that was given is not defined."""


class InputError(ValuesError):
    """Raised when the session cannot put together what a cell reads. The cell has not run."""


class StaleHandleError(ValuesError):
    """Raised when the object of a handle is gone, or in another session."""

    hint = "run the cell again that made it"


class SessionAnswerError(InfrastructureError):
    """Raised when a session says of its values what cannot be understood. Nothing of it is used."""

    hint = "start a fresh kernel with `%gpu restart`, and run the cell again"


class PythonMismatchError(ValuesError):
    """Raised when code would travel compiled between two minor versions of Python, of which the other crashes."""

    hint = "define it in a `%%gpu` cell, whose source travels as it is; plain data crosses between versions of Python"
