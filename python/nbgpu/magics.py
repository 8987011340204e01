"""`%%gpu` and `%gpu`: cells that run in a session, and the commands around them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from IPython.core.magic import Magics, line_cell_magic, magics_class

from nbgpu import errors, words
from nbgpu.client.background import background
from nbgpu.notebook import notebook_id, this_notebook
from nbgpu.progress import OpeningProgress
from nbgpu.session import Session, open_session
from nbgpu.session_client import SessionClient
from nbgpu.spec import Spec, parse_spec
from nbgpu_protocol.v1 import pool_pb2

STICKY_OPTION = "--sticky"


@dataclass(frozen=True)
class CommandLine:
    """The words after `%gpu` or `%%gpu`."""

    words: tuple[str, ...]
    options: frozenset[str]

    @property
    def spec(self) -> Spec | None:
        text = " ".join(self.words)
        return parse_spec(text) if text else None


def parse_line(line: str, allowed: frozenset[str]) -> CommandLine:
    """Splits a line into words and options.

    Raises:
        CommandError: There is an option that is not allowed here, or a quote is not closed.
    """
    try:
        tokens = shlex.split(line)
    except ValueError as error:
        raise errors.CommandError(f"cannot read {line!r}: {str(error).lower()}") from error
    options = frozenset(token for token in tokens if token.startswith("-"))
    for option in sorted(options - allowed):
        known = ", ".join(sorted(allowed - {STICKY_OPTION})) or "none"
        raise errors.CommandError(f"there is no option {option} here (there is: {known})")
    return CommandLine(tuple(token for token in tokens if token not in options), options)


@magics_class
class GpuMagics(Magics):
    """The magics, and whether the notebook is switched to running every cell in its session."""

    shell: Any

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self.is_sticky = False
        self.commands: dict[str, Callable[[str], None]] = {
            "attach": self._attach,
            "detach": self._detach,
            "close": self._close,
            "status": self._status,
            "offers": self._offers,
            "sessions": self._sessions,
            "interrupt": self._interrupt,
            "restart": self._restart,
            "logs": self._logs,
            "on": self._on,
            "off": self._off,
        }

    @line_cell_magic
    def gpu(self, line: str, cell: str | None = None) -> None:
        """Run cells on a GPU that is elsewhere.

        ::

            %%gpu [SPEC] [--no-wait]     run this cell in a session on the accelerators of SPEC; without
                                         SPEC in the session that this notebook is attached to

            %gpu attach [SPEC] [--new] [--no-wait]
                                         attach this notebook to a session, and open one if it has none
                                         (--new: in any case; --no-wait: fail rather than queue)
            %gpu attach --session ID     attach to a session that is open
            %gpu detach                  leave the session running, without this notebook
            %gpu close [ID]              end the session and free its accelerators
            %gpu status                  what this notebook is attached to, and what that does
            %gpu offers                  the accelerators that there are
            %gpu sessions                all sessions, of all notebooks
            %gpu interrupt [ID]          interrupt what runs in the session
            %gpu restart [ID]            a fresh kernel on the same accelerators
            %gpu logs [ID]               what the session's process wrote outside of cells
            %gpu on [SPEC] | off         run every cell there, or here again

        SPEC is a type and a count: ``H100``, ``H100x8`` (or ``H100:8``, ``8xH100``, ``GPU_8xH100``),
        ``A100-80GB``, any GPU with enough memory as ``24GB+``, ``any`` GPU, or ``CPU``; alternatives in
        order of preference as ``H100x8|A100-80GBx8``. ID is the beginning of a session's id.

        The session keeps its variables from cell to cell, and outlives a restart of this notebook's
        kernel. Interrupt reaches the cell over there; pressed again it ends the session's kernel.
        """
        try:
            if cell is None:
                self._run_command(line)
            else:
                self._run_cell(line, cell)
        except (errors.UserError, errors.InfrastructureError) as error:
            raise _without_frames(error) from None

    # %%gpu

    def _run_cell(self, line: str, cell: str) -> None:
        command = parse_line(line, frozenset({"--no-wait", STICKY_OPTION}))
        sticky = STICKY_OPTION in command.options
        client = self._session_for(command.spec, wait="--no-wait" not in command.options)
        if sticky:
            held = words.accelerators_in_words(client.info.accelerators)
            self.shell.display_pub.publish({"text/plain": f"▸ on {held}"})
        code = code_to_run("" if sticky else f"%%gpu {line}".rstrip(), cell)
        # The cell's own number: `execution_count` is the next one already in newer versions of IPython.
        Session(client).execute(code, execution_count=self.shell.displayhook.prompt_count)

    def _session_for(self, spec: Spec | None, *, wait: bool) -> SessionClient:
        notebook = this_notebook()
        if notebook.chosen is not None and notebook.chosen.end is not None:
            _tell(f"{notebook.chosen.end.message()}; opening a new session")
            notebook.chosen = None
        chosen = notebook.chosen
        attached = notebook.attached_that_meets(spec) if spec else chosen
        if attached is not None:
            return attached
        client, existing = self._open(spec, wait=wait)
        if chosen is None:
            notebook.chosen = client
        elif not existing:
            others = words.accelerators_in_words(chosen.info.accelerators)
            _tell(f"opened a session on {_place(client)}; the one on {others} stays open too")
        if spec is None and not existing and all(each.shared for each in client.info.accelerators):
            _tell(f"no GPU is offered here, so this runs on the CPU of {client.info.node.hostname}")
        return client

    def _open(self, spec: Spec | None, *, new: bool = False, wait: bool = True) -> tuple[SessionClient, bool]:
        held = this_notebook().held()
        with OpeningProgress(self.shell, words.accelerators_in_words(held) if held else "") as progress:
            return open_session(spec, new=new, wait=wait, on_update=progress)

    # %gpu

    def _run_command(self, line: str) -> None:
        name, _, rest = line.strip().partition(" ")
        if not name:
            self._status("")
            return
        command = self.commands.get(name.lower())
        if command is None:
            raise errors.CommandError(
                f"there is no command %gpu {name}", f"there is {', '.join(self.commands)}; a cell is run by %%gpu"
            )
        command(rest)

    def _attach(self, line: str) -> None:
        if line.strip().startswith("--session"):
            session_id = line.strip().removeprefix("--session").strip(" =")
            if not session_id:
                raise errors.CommandError("--session needs the beginning of a session's id", "see `%gpu sessions`")
            client, existing = background().run(this_notebook().find(session_id)), True
        else:
            command = parse_line(line, frozenset({"--new", "--no-wait"}))
            client, existing = self._open(
                command.spec, new="--new" in command.options, wait="--no-wait" not in command.options
            )
        this_notebook().chosen = client
        print(f"attached to {_place(client)}, session {client.id}" + (" (open since before)" if existing else ""))

    def _detach(self, line: str) -> None:
        client = self._named(line)
        background().run(this_notebook().detach(client))
        print(f"detached from session {client.id}; it goes on with {_place(client)}")

    def _close(self, line: str) -> None:
        client = self._named(line)
        background().run(this_notebook().close(client))
        print(f"closed session {client.id}; {words.accelerators_in_words(client.info.accelerators)} is free again")

    def _status(self, line: str) -> None:
        _refuse_words(line)
        client = background().run(this_notebook().find_chosen())
        if client is None:
            print("not attached; a `%%gpu` cell or `%gpu attach` opens a session, `%gpu offers` says on what")
            return
        info = Session(client).info()
        state = words.state_in_words(info)
        print(f"{_place(client)}: {state}")
        print(f"session {info.id}, {info.executions} cells run, Python {info.python_version}")
        samples = background().run(_latest_samples(client))
        if samples:
            print(words.samples_table(info.accelerators, samples))
        if self.is_sticky:
            print("every cell runs there, until `%gpu off`")

    def _offers(self, line: str) -> None:
        _refuse_words(line)
        print(words.offers_table(background().run(_list_offers())))

    def _sessions(self, line: str) -> None:
        _refuse_words(line)
        print(words.sessions_table(background().run(_list_sessions()), notebook_id()))

    def _interrupt(self, line: str) -> None:
        client = self._named(line)
        print("interrupted" if Session(client).interrupt() else "nothing was running")

    def _restart(self, line: str) -> None:
        client = self._named(line)
        Session(client).restart()
        print(f"session {client.id} has a fresh kernel on {_place(client)}; its variables are gone")

    def _logs(self, line: str) -> None:
        print(Session(self._named(line)).logs(), end="")

    def _on(self, line: str) -> None:
        command = parse_line(line, frozenset({"--no-wait"}))
        client = self._session_for(command.spec, wait="--no-wait" not in command.options)
        this_notebook().chosen = client
        self.is_sticky = True
        print(f"every cell now runs on {_place(client)}, until `%gpu off`")

    def _off(self, line: str) -> None:
        _refuse_words(line)
        self.is_sticky = False
        print("cells run here again; the session stays open until `%gpu close`")

    def _named(self, line: str) -> SessionClient:
        """Returns the session whose id the line begins, else the chosen one."""
        words_given = parse_line(line, frozenset()).words
        if len(words_given) > 1:
            raise errors.CommandError(f"one session at a time, not {' '.join(words_given)!r}")
        if words_given:
            return background().run(this_notebook().find(words_given[0]))
        client = background().run(this_notebook().find_chosen())
        if client is None:
            raise errors.NoSuchSessionError("this notebook is not attached to a session")
        return client


def code_to_run(first_line: str, cell: str) -> str:
    """Returns the cell's code with its line numbers as the person sees them: the magic's line as a comment.

    A cell that begins with another cell magic is left as it is: IPython knows it on the first line only.
    """
    if cell.lstrip().startswith("%%"):
        return cell.lstrip()
    return f"# {first_line}\n{cell}" if first_line else cell


def _without_frames(error: errors.Error) -> errors.Error:
    """Has IPython show the error by its message alone: the frames between the magic and the error are ours."""
    lines = [f"\x1b[31m{type(error).__name__}\x1b[0m: {error}"]
    if not hasattr(error, "_render_traceback_"):
        error._render_traceback_ = lambda: lines  # type: ignore[attr-defined]
    return error


def _place(client: SessionClient) -> str:
    return f"{words.accelerators_in_words(client.info.accelerators)} on {client.info.node.hostname}"


def _refuse_words(line: str) -> None:
    if line.strip():
        raise errors.CommandError(f"nothing is expected here, but there is {line.strip()!r}")


def _tell(text: str) -> None:
    print(f"nbgpu: {text}", file=sys.stderr, flush=True)


async def _list_offers() -> list[pool_pb2.Offer]:
    return await (await this_notebook().pool()).list_offers()


async def _list_sessions() -> list[pool_pb2.SessionInfo]:
    return await (await this_notebook().pool()).list_sessions()


async def _latest_samples(client: SessionClient) -> list[pool_pb2.Sample]:
    """Returns the newest sample of each of the session's accelerators."""
    held = {each.id for each in client.info.accelerators}
    async for batch in client.pool.watch_samples(history_s=3):
        newest = {sample.accelerator_id: sample for sample in batch.samples if sample.accelerator_id in held}
        return list(newest.values())
    return []
