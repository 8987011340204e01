"""Agents that listen with TLS, as processes in a test's own place, and machines that pair with them."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent_processes import DEADLINE_S, Workplace
from nbgpu.cli import main
from nbgpu_agent.identity.__main__ import main as owners_main

OWNERS_COMMANDS = ("init", "invite", "users", "tokens")


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@dataclass(eq=False)
class Machine:
    """A person's machine: a configuration of its own, in which pools are, and the command line."""

    home: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    """Before each command, such as `ip netns exec NAME`."""
    interpreter: str = sys.executable

    def environ(self) -> dict[str, str]:
        self.home.mkdir(exist_ok=True)
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "HOME": str(self.home),
            "JUPYTER_CONFIG_DIR": str(self.home / "config"),
            "JUPYTER_DATA_DIR": str(self.home / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.home / "runtime"),
            "JUPYTER_NO_CONFIG_ENV": "1",
            "NBGPU_SNAPSHOT": "0",
            "NBGPU_OS_USERS_FOLDER": str(self.home / "os-users"),
            **self.variables,
        }

    def nbgpu(self, *arguments: str) -> Done:
        """Runs a command: in this process, which is faster, where none has to be another machine's."""
        if self.prefix:
            return self.python("-m", "nbgpu", *arguments)
        output, said = io.StringIO(), io.StringIO()
        kept, own = dict(os.environ), self.environ()
        os.environ.clear()
        os.environ.update(own)
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(said):
                owners = arguments[0] == "agent" and arguments[1] in OWNERS_COMMANDS
                code = owners_main(arguments[1:]) if owners else main(arguments)
        finally:
            os.environ.clear()
            os.environ.update(kept)
        return Done(code, output.getvalue(), said.getvalue())

    def paste(self, line: str) -> Done:
        """Runs a line that begins with `nbgpu`."""
        command, *arguments = shlex.split(line)
        assert command == "nbgpu"
        return self.nbgpu(*arguments)

    def python(self, *arguments: str) -> Done:
        """Runs Python as a process of the machine's."""
        done = subprocess.run(
            [*self.prefix, self.interpreter, *arguments],
            env=self.environ(),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts Python as a process of the machine's, which ends when its input does."""
        return subprocess.Popen(
            [*self.prefix, self.interpreter, *arguments],
            env=self.environ(),
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


@dataclass
class SecuredAgent:
    """An agent with TLS, and the owner's commands on its machine."""

    place: Workplace
    process: subprocess.Popen[str]
    address: str
    pin: str
    owner: Machine

    def invite(self, user: str, *options: str) -> str:
        """Returns the line that lets a user in, with the port that the agent really has."""
        done = self.owner.nbgpu("agent", "invite", user, *options)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1
        return done.stdout.strip().replace("grpcs://127.0.0.1:7443", self.address)

    def tokens(self) -> list[list[str]]:
        """Returns the rows of the owner's list of tokens."""
        done = self.owner.nbgpu("agent", "tokens", "list")
        assert done.returncode == 0, done.stderr
        return [line.split() for line in done.stdout.splitlines()[1:]]


def start_secured(place: Workplace, *options: str, **variables: str) -> SecuredAgent:
    """Makes certificates, and starts an agent on a free port of loopback with TLS."""
    own = {"NBGPU_IDENTITY_FOLDER": str(place.root / "identity"), **(variables if place.prefix else {})}
    owner = Machine(place.root / "owner", own, place.prefix, place.python if place.prefix else sys.executable)
    made = owner.python("-m", "nbgpu", "agent", "init", "--address=127.0.0.1:7443", "--name=lab", "--user=boss")
    assert made.returncode == 0, made.stderr
    process = place.start(
        "--listen=127.0.0.1:0",
        "--tls",
        f"--folder={place.folder}",
        f"--identity-folder={place.root / 'identity'}",
        *options,
        **variables,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, place.log()
    words = dict(word.split("=", 1) for word in line.removeprefix("export ").split())
    assert words.keys() == {"NBGPU_AGENT_ADDRESS", "NBGPU_AGENT_PIN"}
    return SecuredAgent(place, process, words["NBGPU_AGENT_ADDRESS"], words["NBGPU_AGENT_PIN"], owner)
