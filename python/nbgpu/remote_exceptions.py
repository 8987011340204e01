"""Makes a remote exception raise here: the real type where it can be had, the remote frames, shown once.

IPython shows an exception through `_render_traceback_` if it has one, but not syntax errors, usage errors and exception
groups, which it renders from local frames. `install` has the shell show those as they were rendered over there too.
"""

from __future__ import annotations

import base64
import contextlib
import pickle
import types
from typing import Any

from nbgpu.errors import RemoteError

_RENDERED = "_nbgpu_rendered_traceback"

# Raised here they would end, or be taken by, what is between the cell and the person.
_NOT_RAISED = (SystemExit, GeneratorExit, StopIteration, StopAsyncIteration)


def rebuild_exception(reply: dict[str, Any], *, is_told: bool) -> BaseException:
    """Returns the exception that an execute_reply of status "error" tells of, ready to be raised.

    The pickle in the reply is the session's own kernel's, and is opened here as everything that it sends back is.

    Args:
        reply: The reply's content.
        is_told: The person has read of it on standard error already, as IPython has it for usage errors and exception
            groups: it fails the cell, and is not shown.
    """
    frames = [] if is_told else [str(frame) for frame in reply.get("traceback", [])]
    ename, evalue = str(reply.get("ename", "Error")), str(reply.get("evalue", ""))
    return exception_to_raise(unpickle_exception(reply.get("nbgpu_exception")), ename, evalue, frames)


def exception_to_raise(error: BaseException | None, ename: str, evalue: str, frames: list[str]) -> BaseException:
    """Returns an exception that IPython shows by these frames: the given one, or a RemoteError in its place.

    Args:
        error: As it came; None where it could not.
        ename: Name of its type.
        evalue: Its message.
        frames: What is shown of it, in pieces of one line or more; empty if the person has read of it already.
    """
    if error is None or type(error).__name__ != ename or isinstance(error, _NOT_RAISED):
        error = _stand_in(ename, evalue, frames)
    return _with_frames(error, ename, evalue, frames)


def _with_frames(error: BaseException, ename: str, evalue: str, frames: list[str]) -> BaseException:
    try:
        setattr(error, _RENDERED, frames)
        error._render_traceback_ = lambda: frames  # type: ignore[attr-defined]
    except AttributeError:  # a type with slots
        return _with_frames(_stand_in(ename, evalue, frames), ename, evalue, frames)
    return error


def rendered(error: BaseException) -> list[str]:
    """Returns the pieces that IPython shows of an exception of this package's; none, if the person has read of it."""
    frames = getattr(error, "_render_traceback_", None)
    return list(frames()) if frames is not None else [f"\x1b[31m{type(error).__name__}\x1b[0m: {error}"]


def unpickle_exception(encoded: str | None) -> BaseException | None:
    """Returns an exception that the session's kernel packed, or None where it cannot be put together here."""
    if not encoded:
        return None
    # Whatever a class does when it is rebuilt here, the cell's own error is what has to be told.
    with contextlib.suppress(Exception):
        error = pickle.loads(base64.b64decode(encoded))
        if isinstance(error, BaseException):
            return error
    return None


def _stand_in(ename: str, evalue: str, frames: list[str]) -> RemoteError:
    """Returns a RemoteError whose type carries the remote name, so that the front end shows that one."""
    kind = type(ename, (RemoteError,), {"__module__": "builtins", "__reduce__": _reduce_stand_in})
    error: RemoteError = kind(ename, evalue, frames)
    return error


def _reduce_stand_in(error: RemoteError) -> tuple[Any, ...]:
    return _stand_in, (error.ename, error.evalue, error.frames)


def install(shell: Any) -> None:
    """Has the shell show remote exceptions of every type as they were rendered in their session."""
    if getattr(shell.showtraceback, "_nbgpu", False):
        return
    original = shell.showtraceback

    def showtraceback(self: Any, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        try:
            kind, error, _ = self._get_exc_info(exc_tuple)
            frames = getattr(error, _RENDERED, None)
        except ValueError:  # there is no exception to show; the original says so
            frames = None
        if frames is None:
            original(exc_tuple, *args, **kwargs)
        elif frames:
            self._showtraceback(kind, error, frames)
        else:
            self._last_traceback = []

    showtraceback._nbgpu = True  # type: ignore[attr-defined]
    shell.showtraceback = types.MethodType(showtraceback, shell)


def uninstall(shell: Any) -> None:
    """Gives the shell its own way of showing exceptions back."""
    if getattr(shell.showtraceback, "_nbgpu", False):
        del shell.showtraceback
