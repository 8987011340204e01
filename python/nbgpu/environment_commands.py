"""`%gpu plan`, `%gpu env` and `%gpu secret`, and what brings a session up to date before a cell runs in it."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import sys
from typing import Any

from nbgpu import errors
from nbgpu.client.background import run_telling
from nbgpu.notebook import this_notebook
from nbgpu.plan_table import plan_table
from nbgpu.progress import OpeningProgress
from nbgpu.session_client import SessionClient

PLAN_OPTION = "--plan"
_PYTHON_OPTION = re.compile(r"(?:^|\s)--python(?:[=\s]+(?P<value>[^\s-]\S*)|(?=\s|$))")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EnvironmentCommands:
    """Commands of the magics around what sessions have of the notebook's environment.

    Args:
        shell: IPython's.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.commands = {"plan": self.plan, "env": self.env, "secret": self.secret}

    def bring_up_to_date(self, client: SessionClient, cell: str) -> None:
        """Gives the session what has changed here since its last cell; an interrupt withdraws it.

        Raises:
            EnvironmentImpossibleError: The node cannot have what was installed here.
            BuildFailedError: It could not be built there.
        """
        with OpeningProgress(self._shell) as progress:
            run_telling(lambda tell: this_notebook().bring_up_to_date(client, cell, tell), progress)

    def take_python(self, line: str) -> str:
        """Takes `--python any` out of a line, and has this notebook's sessions run any Python from then on.

        Raises:
            CommandError: It is asked for something else than any.
        """
        found = _PYTHON_OPTION.search(line)
        if found is None:
            return line
        if found["value"] != "any":
            raise errors.CommandError(
                f"--python takes nothing but any, there is {found['value'] or 'nothing'}",
                "sessions run the notebook's version of Python wherever the node has it",
            )
        this_notebook().attachment.takes_any_python = True
        return line[: found.start()] + line[found.end() :]

    def plan(self, line: str) -> None:
        options = _split(self.take_python(line))
        if options not in ([], ["--all"]):
            raise errors.CommandError(f"%gpu plan takes nothing but --all, there is {line.strip()!r}")
        self.show_plan(everything=bool(options))

    def show_plan(self, cell: str = "", *, everything: bool = False) -> None:
        """Prints what the node would do to run the cell; changes nothing."""
        plan = run_telling(lambda tell: this_notebook().plan(cell), None)
        if plan is None:
            print(f"nothing is installed: sessions run in {sys.prefix} itself, or in their agent's environment")
            return
        print(plan_table(plan, everything=everything))

    def env(self, line: str) -> None:
        names = [word for word in _split(line) if word != "-e"]
        _check(names)
        this_notebook().attachment.add_variables(names)
        self._show_names()

    def secret(self, line: str) -> None:
        names = _split(line)
        if not names:
            self._show_names()
            return
        if len(names) != 1:
            raise errors.CommandError("%gpu secret needs the name of one environment variable", "%gpu secret HF_TOKEN")
        _check(names)
        value = os.environ.get(names[0]) or getpass.getpass(f"{names[0]}: ")
        if not value:
            raise errors.CommandError(f"no value was given for {names[0]}")
        this_notebook().attachment.add_secret(names[0], value)
        print(f"sessions get {names[0]} from their next cell on")

    def _show_names(self) -> None:
        """Prints the names of what sessions get; no value is ever shown."""
        attachment = this_notebook().attachment
        plain, secret = attachment.variable_names, attachment.secret_names
        if not plain and not secret:
            print("sessions get no variables of this notebook's; `%gpu env -e NAME` and `%gpu secret NAME` add some")
        if plain:
            print(f"sessions get from this notebook: {', '.join(plain)}")
        if secret:
            print(f"and as secrets, written nowhere: {', '.join(secret)}")


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise errors.CommandError(f"cannot read {line!r}: {str(error).lower()}") from error


def _check(names: list[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            raise errors.CommandError(f"{name!r} is no name of an environment variable", "%gpu env -e HF_HOME")
