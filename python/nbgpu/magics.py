"""`%%gpu` and `%gpu`: cells that run in a session, and the commands around them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from IPython.core.magic import Magics, line_cell_magic, magics_class

from nbgpu import errors, words
from nbgpu.cell_execution import execute_cell
from nbgpu.cell_record import CellRecord
from nbgpu.cell_timeout import TIMEOUT_OPTION, parse_duration
from nbgpu.client.background import background
from nbgpu.environment_commands import PLAN_OPTION, EnvironmentCommands
from nbgpu.limit_commands import LimitCommands, take_idle
from nbgpu.live_metrics.table import show_metrics
from nbgpu.notebook import current_request, notebook_id, this_notebook
from nbgpu.output_commands import FOLLOW_OPTION, OutputCommands, missed_in_words, show_missed, tell_missed
from nbgpu.progress import OpeningProgress
from nbgpu.ranks.call import RANK_OPTION, read_rank_log
from nbgpu.ranks.spmd import take_spmd, wish_for
from nbgpu.ranks.spmd_failure import kernel_died
from nbgpu.remote_exceptions import rendered
from nbgpu.session import Session, open_session
from nbgpu.session_client import SessionClient
from nbgpu.spec import Spec, parse_spec
from nbgpu.values.names import analyse
from nbgpu.values.wish import Wish
from nbgpu.workspace_commands import WorkspaceCommands
from nbgpu_protocol.v1 import pool_pb2

STICKY_OPTION = "--sticky"
NO_SYNC_OPTION = "--no-sync"
ALL_OPTION = "--all"


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


def take_names(line: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Takes `-i NAME` and `-o NAME` out of a line, any number of each, and `-i A,B` too; returns the rest and both.

    Raises:
        CommandError: A name is missing, or is none.
    """
    names: dict[str, list[str]] = {"-i": [], "-o": []}
    rest: list[str] = []
    tokens = iter(line.split())
    for token in tokens:
        option, value = token[:2], token[2:].removeprefix("=")
        if option not in names:
            rest.append(token)
            continue
        given = [name for name in (value or next(tokens, "")).split(",") if name]
        if not given or not all(name.isidentifier() for name in given):
            raise errors.CommandError(f"{option} needs the name of a variable", f"such as `%%gpu {option} model`")
        names[option] += given
    return " ".join(rest), tuple(names["-i"]), tuple(names["-o"])


def take_value(line: str, option: str) -> tuple[str, str | None]:
    """Takes `OPTION VALUE`, or `OPTION=VALUE`, out of a line; returns the rest, and the value if it is there.

    Raises:
        CommandError: The value is missing, or a quote is not closed.
    """
    try:
        tokens = shlex.split(line)
    except ValueError as error:
        raise errors.CommandError(f"cannot read {line!r}: {str(error).lower()}") from error
    value: str | None = None
    rest: list[str] = []
    following = iter(tokens)
    for token in following:
        name, equals, given = token.partition("=")
        if name != option:
            rest.append(token)
            continue
        value = given if equals else next(following, "")
        if not value or value.startswith("-"):
            raise errors.CommandError(f"{option} needs a value", f"such as `{option} NAME`")
    return shlex.join(rest), value


@magics_class
class GpuMagics(Magics):
    """The magics, and whether the notebook is switched to running every cell in its session."""

    shell: Any

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self.is_sticky = False
        self.environment = EnvironmentCommands(shell)
        self.commands: dict[str, Callable[[str], None]] = {
            "attach": self._attach,
            "detach": self._detach,
            "close": self._close,
            "status": self._status,
            "offers": self._offers,
            "sessions": self._sessions,
            "metrics": self._metrics,
            "interrupt": self._interrupt,
            "restart": self._restart,
            "logs": self._logs,
            "stacks": self._stacks,
            "push": self._push,
            "pull": self._pull,
            **self.environment.commands,
            **WorkspaceCommands(lambda: self._named("")).commands,
            **LimitCommands(lambda: self._named("")).commands,
            **OutputCommands(lambda: self._named("")).commands,
            "on": self._on,
            "off": self._off,
        }

    @line_cell_magic
    def gpu(self, line: str, cell: str | None = None) -> None:
        """Run cells on a GPU that is elsewhere.

        ::

            %%gpu [SPEC] [--no-wait] [-i NAME] [-o NAME] [--no-sync] [--timeout 10m] [--python any]
                  [--spmd] [--ranks 0,2-3] [--all-ranks]
                                         run this cell in a session on the accelerators of SPEC; without
                                         SPEC in the session that this notebook is attached to
                                         (-i: send NAME, however large; -o: bring NAME back, however
                                         large; --no-sync: send and bring back nothing; --timeout: interrupt
                                         the cell when it has run so long, as 90s or 1h30m; --python any:
                                         from now on with the nearest version of Python that the node
                                         has, if it lacks this one; plain data crosses then;
                                         --spmd: on every accelerator of the session, as torchrun
                                         would, on ranks that keep their variables; rank 0 is the
                                         session itself; --ranks: on these alone; --all-ranks: show
                                         every line of every rank)

            %gpu attach [SPEC] [--new] [--no-wait] [--pool NAME] [--idle SPAN] [--no-follow]
                                         attach this notebook to a session, and open one if it has none;
                                         shows what its cells printed while this notebook's kernel was
                                         not there, and follows the one that runs, until interrupted
                                         (--no-follow: only what it printed so far)
                                         (--new: in any case; --no-wait: fail rather than queue;
                                         --pool: in that pool, see `nbgpu pool list`; --idle: close it
                                         after so long without work, such as 2h, or `off`)
            %gpu attach --session ID     attach to a session that is open
            %gpu keep [--idle SPAN]      do not close the session yet, though it does nothing
            %gpu cost                    what was used and spent: session, notebook, today, this month, cells
            %gpu budget [20|off] [--month]
                                         what this notebook, or with --month all of yours in a calendar
                                         month, may spend, in the pool's currency: warned of at 80 %, at
                                         100 % interrupted, then closed
            %gpu detach                  leave the session running, without this notebook
            %gpu close [ID]              end the session and free its accelerators
            %gpu status                  what this notebook is attached to, and what that does
            %gpu offers                  the accelerators that there are
            %gpu sessions                all sessions, of all notebooks
            %gpu metrics                 what the accelerators do, once a second until interrupted
                                         (in a notebook: now; `nbgpu.metrics()` draws it)
            %gpu interrupt [ID]          interrupt what runs in the session
            %gpu restart [ID]            a fresh kernel on the same accelerators
            %gpu logs [ID]               what the session's process wrote outside of cells
            %gpu logs --rank N           what a rank wrote, in the latest `distributed` call or in
                                         the last `--spmd` cells, all of it
            %gpu stacks [ID] [--all]     where the session's code is now: of its kernel, and of each rank
                                         (while a cell runs: "Show Stacks" in the notebook's GPU menu,
                                         or `nbgpu stacks ID` in a terminal)
            %gpu output [N] [--list]     what a cell printed in the session, by its number or its id; the
                                         newest without one, as far as the agent holds it
            %gpu push NAME…              send variables to the session
            %gpu pull NAME…              bring variables of the session here
            %gpu sync [PATH…] [--to|--from] [--dry-run]
                                         bring files, folders and globs beside this notebook and those of
                                         the session in step; without PATH those of the last sync
                                         (--to, --from: change only its files, or only these)
            %gpu sync --environment      give the session now what was installed and edited here since its
                                         last cell, which its next cell would do
            %gpu plan [--all]            what a node would install, exchange and leave out to have this
                                         notebook's environment (%%gpu --plan: for this cell, not run)
            %gpu env [-e NAME]           give sessions the environment variable of that name; without one,
                                         list the names that they get
            %gpu secret NAME             the same for one that is written nowhere; asked for if it is not set
            %gpu on [SPEC] | off         run every cell there, or here again

        SPEC is a type and a count: ``H100``, ``H100x8`` (or ``H100:8``, ``8xH100``, ``GPU_8xH100``),
        ``A100-80GB``, any GPU with enough memory as ``24GB+``, ``any`` GPU, or ``CPU``; alternatives in
        order of preference as ``H100x8|A100-80GBx8``. ID is the beginning of a session's id.

        The session keeps its variables from cell to cell, and outlives a restart of this notebook's
        kernel. What a cell reads of this notebook is sent before it runs; what it binds is bound here
        when it is done, large things as handles: ``.fetch()`` brings their values.

        Interrupt reaches the cell over there; pressed again it ends the session's kernel.
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
        with CellRecord(current_request()["content"].get("code", "")) as record:
            self._run_recorded(line, cell, record)

    def _run_recorded(self, line: str, cell: str, record: CellRecord) -> None:
        rest, spmd = take_spmd(self.environment.take_python(line))
        rest, send, bring = take_names(rest)
        rest, limit = take_value(rest, TIMEOUT_OPTION)
        timeout_s = parse_duration(limit) if limit is not None else None
        command = parse_line(rest, frozenset({"--no-wait", NO_SYNC_OPTION, PLAN_OPTION, STICKY_OPTION}))
        if PLAN_OPTION in command.options:
            self.environment.show_plan(cell)
            return
        if NO_SYNC_OPTION in command.options and (send or bring):
            raise errors.CommandError(
                f"{NO_SYNC_OPTION} says that nothing is sent or brought back, -i and -o that it is"
            )
        sticky = STICKY_OPTION in command.options
        client = self._session_for(command.spec, wait="--no-wait" not in command.options, record=record)
        if sticky:
            place = {"text/plain": f"▸ on {words.accelerators_in_words(client.info.accelerators)}"}
            self.shell.display_pub.publish(place)
            record.note_display(place)
        self.environment.bring_up_to_date(client, cell)
        code = code_to_run("" if sticky else f"%%gpu {line}".rstrip(), cell)
        # The cell's own number: `execution_count` is the next one already in newer versions of IPython.
        count = self.shell.displayhook.prompt_count
        wish = Wish() if NO_SYNC_OPTION in command.options else Wish.of_cell(analyse(cell), send, bring)
        spmd_wish = wish_for(spmd, client.info.accelerators, client.info.node.hostname) if spmd is not None else None
        try:
            execute_cell(client, code, wish, execution_count=count, timeout_s=timeout_s, spmd=spmd_wish, record=record)
        except errors.KernelDiedError as error:
            raise error if spmd_wish is None else kernel_died(error, spmd_wish) from None

    def _session_for(self, spec: Spec | None, *, wait: bool, record: CellRecord | None = None) -> SessionClient:
        notebook, known_end = this_notebook(), False
        if notebook.chosen is not None and notebook.chosen.end is not None:
            _tell(f"{notebook.chosen.end.message()}; opening a new session")
            notebook.chosen = None
            known_end = True
        chosen = notebook.chosen
        attached = notebook.attached_that_meets(spec) if spec else chosen
        if attached is not None:
            return attached
        client, existing = self._open(spec, wait=wait, quiet=known_end, record=record)
        if existing:
            tell_missed(client)
        if chosen is None:
            background().run(notebook.choose(client))
        elif not existing:
            others = words.accelerators_in_words(chosen.info.accelerators)
            _tell(f"opened a session on {_place(client)}; the one on {others} stays open too")
        if spec is None and not existing and all(each.shared for each in client.info.accelerators):
            _tell(f"no GPU is offered here, so this runs on the CPU of {client.info.node.hostname}")
        return client

    def _open(
        self,
        spec: Spec | None,
        *,
        new: bool = False,
        wait: bool = True,
        quiet: bool = False,
        pool_name: str | None = None,
        idle_close_s: float | None = None,
        record: CellRecord | None = None,
    ) -> tuple[SessionClient, bool]:
        """Opens or finds a session; says what became of the last one, unless the person was told so already."""
        held = this_notebook().held()
        with OpeningProgress(self.shell, words.accelerators_in_words(held) if held else "") as progress:
            opened = open_session(
                spec, new=new, wait=wait, on_update=progress, pool_name=pool_name, idle_close_s=idle_close_s
            )
        if progress.was_shown and record is not None:
            record.note_cleared()
        if progress.notice and not quiet:
            _tell(f"{progress.notice}; this is a new one, without its variables")
        return opened

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
        rest = [each for each in line.split() if each != FOLLOW_OPTION]
        follow, line = len(rest) == len(line.split()), " ".join(rest)
        if line.strip().startswith("--session"):
            session_id = line.strip().removeprefix("--session").strip(" =")
            if not session_id:
                raise errors.CommandError("--session needs the beginning of a session's id", "see `%gpu sessions`")
            client, existing = background().run(this_notebook().find(session_id)), True
        else:
            line, pool_name = take_value(line, "--pool")
            line, idle_close_s = take_idle(line)
            command = parse_line(line, frozenset({"--new", "--no-wait"}))
            client, existing = self._open(
                command.spec,
                new="--new" in command.options,
                wait="--no-wait" not in command.options,
                pool_name=pool_name,
                idle_close_s=idle_close_s,
            )
        background().run(this_notebook().choose(client))
        print(f"attached to {_place(client)}, session {client.id}" + (" (open since before)" if existing else ""))
        if existing:
            sys.stdout.flush()
            show_missed(client, follow=follow)

    def _detach(self, line: str) -> None:
        client = self._named(line)
        background().run(this_notebook().leave(client))
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
        closing = words.closing_in_words(info.closing)
        print(f"{_place(client)}: {state}" + (f", {closing}" if closing else ""))
        print(f"session {info.id}, {info.executions} cells run, Python {info.python_version}")
        missed = background().run(missed_in_words(client))
        if missed:
            print(missed)
        samples = background().run(_latest_samples(client))
        if samples:
            print(words.samples_table(info.accelerators, samples))
        if self.is_sticky:
            print("every cell runs there, until `%gpu off`")

    def _offers(self, line: str) -> None:
        _refuse_words(line)
        print(words.offers_table(background().run(this_notebook().offers())))

    def _sessions(self, line: str) -> None:
        _refuse_words(line)
        print(words.sessions_table(background().run(this_notebook().sessions()), notebook_id()))

    def _metrics(self, line: str) -> None:
        _refuse_words(line)
        show_metrics()

    def _interrupt(self, line: str) -> None:
        client = self._named(line)
        print("interrupted" if Session(client).interrupt() else "nothing was running")

    def _restart(self, line: str) -> None:
        client = self._named(line)
        Session(client).restart()
        print(f"session {client.id} has a fresh kernel on {_place(client)}; its variables are gone")

    def _logs(self, line: str) -> None:
        option, _, rank = line.strip().replace("=", " ").partition(" ")
        if option == RANK_OPTION:
            print(read_rank_log(rank.strip()), end="")
            return
        print(Session(self._named(line)).logs(), end="")

    def _stacks(self, line: str) -> None:
        command = parse_line(line, frozenset({ALL_OPTION}))
        client = self._named(" ".join(command.words))
        print(Session(client).stacks(all_threads=ALL_OPTION in command.options))

    def _push(self, line: str) -> None:
        names = _names(line)
        Session(self._named("")).push(*names)
        print(f"sent {', '.join(names)}")

    def _pull(self, line: str) -> None:
        names = _names(line)
        Session(self._named("")).pull(*names)
        print(f"brought {', '.join(names)}")

    def _on(self, line: str) -> None:
        command = parse_line(line, frozenset({"--no-wait"}))
        client = self._session_for(command.spec, wait="--no-wait" not in command.options)
        background().run(this_notebook().choose(client))
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
    lines = rendered(error)
    if not hasattr(error, "_render_traceback_"):
        error._render_traceback_ = lambda: lines  # type: ignore[attr-defined]
    return error


def _place(client: SessionClient) -> str:
    return f"{words.accelerators_in_words(client.info.accelerators)} on {client.info.node.hostname}"


def _names(line: str) -> list[str]:
    names = line.replace(",", " ").split()
    if not names or not all(name.isidentifier() for name in names):
        raise errors.CommandError(f"names of variables are expected here, not {line.strip()!r}", "such as `model`")
    return names


def _refuse_words(line: str) -> None:
    if line.strip():
        raise errors.CommandError(f"nothing is expected here, but there is {line.strip()!r}")


def _tell(text: str) -> None:
    print(f"nbgpu: {text}", file=sys.stderr, flush=True)


async def _latest_samples(client: SessionClient) -> list[pool_pb2.Sample]:
    """Returns the newest sample of each of the session's accelerators."""
    held = {each.id for each in client.info.accelerators}
    async for batch in client.pool.watch_samples(history_s=3):
        newest = {sample.accelerator_id: sample for sample in batch.samples if sample.accelerator_id in held}
        return list(newest.values())
    return []
