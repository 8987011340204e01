"""`%gpu sync`: the files beside the notebook and those of its session."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Literal

from nbgpu import errors
from nbgpu.notebook import this_notebook
from nbgpu.page_requests import synchronise
from nbgpu.session import Session
from nbgpu.session_client import SessionClient

_TO, _FROM, _DRY_RUN = "--to", "--from", "--dry-run"
_ENVIRONMENT = "--environment"
_OPTIONS = (_TO, _FROM, _DRY_RUN, _ENVIRONMENT)


class WorkspaceCommands:
    """Commands of the magics around the files of a session.

    Args:
        chosen: Returns the session that the notebook is attached to.
    """

    def __init__(self, chosen: Callable[[], SessionClient]) -> None:
        self._chosen = chosen
        self.commands = {"sync": self.sync}

    def sync(self, line: str) -> None:
        paths, options = _parsed(line)
        if _ENVIRONMENT in options:
            if paths or len(options) > 1:
                raise errors.CommandError(f"{_ENVIRONMENT} stands alone, there is {line.strip()!r}", "%gpu sync data")
            print(f"session {synchronise(self._chosen().id)} has the packages and local modules of this notebook")
            return
        only: Literal["to", "from"] | None = "to" if _TO in options else "from" if _FROM in options else None
        report = Session(self._chosen()).sync(*paths, only=only, dry_run=_DRY_RUN in options)
        if report is None:
            folder = this_notebook().attachment.folder
            print(f"the session works in this folder itself, {folder}, so there is nothing to do")
        else:
            print(report)


def _parsed(line: str) -> tuple[list[str], set[str]]:
    try:
        tokens = shlex.split(line)
    except ValueError as error:
        raise errors.CommandError(f"cannot read {line!r}: {str(error).lower()}") from error
    # After `--` come paths, whatever they begin with.
    end = tokens.index("--") if "--" in tokens else len(tokens)
    options = {token for token in tokens[:end] if token.startswith("-")}
    for option in sorted(options - set(_OPTIONS)):
        raise errors.CommandError(f"there is no option {option} here (there is: {', '.join(_OPTIONS)})")
    if {_TO, _FROM} <= options:
        raise errors.CommandError(f"{_TO} and {_FROM} together are what %gpu sync does without either")
    return [token for token in tokens[:end] if token not in options] + tokens[end + 1 :], options
