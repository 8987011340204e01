"""Cells that run on every rank of a session, rank 0 in the session's own kernel: begun, shown, and ended together."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from IPython.core.compilerop import code_name

from nbgpu_kernel.ranks.call_folder import CallFolder, write_json
from nbgpu_kernel.ranks.cell_values import CellNames, CellValues, Selection, names_of_cell
from nbgpu_kernel.ranks.complaints import Complaints
from nbgpu_kernel.ranks.failures import traceback_text
from nbgpu_kernel.ranks.group_release import NCCL_ABORTS_ALONE, NCCL_VARIABLE, forget_failed_groups
from nbgpu_kernel.ranks.hang_view import HangView
from nbgpu_kernel.ranks.lines import ranks_in_words
from nbgpu_kernel.ranks.output import FoldedView, Follower, FullView, PrefixedView, View
from nbgpu_kernel.ranks.rendezvous import torchrun_variables
from nbgpu_kernel.ranks.resident import report_of
from nbgpu_kernel.ranks.resident_shell import place_of_cell
from nbgpu_kernel.ranks.residents import Residents, StoppableThread
from nbgpu_kernel.ranks.spmd_replies import LauncherEndedError, not_launched
from nbgpu_kernel.ranks.surroundings import Surroundings
from nbgpu_kernel.streams import SessionOutStream
from nbgpu_kernel.whereabouts import note_cell

_LOOK_EVERY_S = 0.05
_NEEDS_TORCH = re.compile(
    r"\b(torch\w*|accelerate|lightning|pytorch_lightning|transformers|trl|peft|deepspeed|diffusers|monai|timm)\b"
)
"""What imports torch; the launcher imports it once then, before it makes the ranks."""


@dataclass(frozen=True)
class Wish:
    """What the notebook wants of a cell."""

    ranks: tuple[int, ...]
    world_size: int
    view: str
    """"folded", "prefixed" or "full"."""
    hang_after_s: float | None = None
    """Without output and progress for so long the ranks are said to hang; None: that is not looked for."""

    @classmethod
    def parse(cls, found: Mapping[str, Any]) -> Wish:
        """Reads it from a request's metadata.

        Raises:
            ValueError: It has not its form.
        """
        ranks, world_size, view = found.get("ranks"), found.get("world_size"), found.get("view")
        hang_after_s = found.get("hang_after_s")
        if (
            type(world_size) is not int
            or not isinstance(ranks, list)
            or not ranks
            or not all(type(rank) is int and 0 <= rank < world_size for rank in ranks)
            or view not in ("folded", "prefixed", "full")
            or not (hang_after_s is None or (type(hang_after_s) in (int, float) and hang_after_s > 0))
        ):
            raise ValueError(f"this is no wish for ranks: {dict(found)!r}")
        return cls(tuple(sorted(set(ranks))), world_size, view, hang_after_s)

    @property
    def runs_in_kernel(self) -> bool:
        return 0 in self.ranks


Publish = Callable[[str, dict[str, Any]], None]
"""Sends an output message of a type, with a content, as of the cell that runs."""


class SpmdRanks:
    """The ranks of a session's kernel, and what each of them has. For its main thread.

    Args:
        shell: The kernel's.
        values: Of the kernel.
    """

    def __init__(self, shell: Any, values: Any) -> None:
        self._shell = shell
        self._values = values
        self._residents: Residents | None = None
        self._cell_values = CellValues(values.definitions, shell.user_ns_hidden, values.token_of)
        self._surroundings = Surroundings()
        self.last_used_s = float("-inf")
        """When the last cell began, on the monotonic clock."""

    def begin(self, wish: Wish, code: str, execution_count: int, reads: Collection[str], publish: Publish) -> SpmdCell:
        """Starts a cell on all of its ranks but 0.

        Args:
            wish: What the notebook wants.
            code: The cell's.
            execution_count: Its number.
            reads: Names that it reads, as far as the notebook knows.
            publish: Sends output.

        Raises:
            UnsendableError: Something that it reads cannot be sent to the ranks.
            LauncherEndedError: The ranks could not be started.
        """
        self.last_used_s = time.monotonic()
        others = [rank for rank in wish.ranks if rank]
        prepared = self._prepare(wish, others)
        residents = self._residents
        assert residents is not None
        transformed = self._transformed(code)
        note_cell(code_name(transformed, execution_count), execution_count)  # as the ranks name it
        names = names_of_cell(transformed)
        selection = self._cell_values.select(names, reads, others)
        self._surroundings.note_changes()
        for rank in prepared.fresh:
            self._surroundings.welcome(rank)
        folder = residents.new_cell()
        folder.plan.write_text(f"cell {execution_count}")
        if not selection.is_empty:
            selection.write(folder.payload, self._values.definitions)
        told = {rank: self._surroundings.take_for(rank) for rank in others}
        messages = {
            rank: {
                "code": code,
                "execution_count": execution_count,
                "values": str(folder.payload),
                "taken": sorted(selection.taken_by[rank]),
                "surroundings": told[rank],
                "world": {"size": wish.world_size, "port": prepared.port, "id": residents.id},
            }
            for rank in others
        }
        needs_torch = "torch" in sys.modules or _NEEDS_TORCH.search(code) is not None
        self._cell_values.begin(selection)
        residents.run(
            messages,
            runs_in_kernel=wish.runs_in_kernel,
            preload=["torch", "torch.distributed"] if needs_torch and prepared.fresh else [],
            surroundings=told[min(prepared.fresh)] if prepared.fresh else {},
            hang_after_s=wish.hang_after_s,
        )
        variables = torchrun_variables(0, wish.world_size, prepared.port, residents.id)
        return SpmdCell(self, wish, residents, folder, names, selection, variables, publish)

    def _prepare(self, wish: Wish, others: list[int]) -> Any:
        if self._residents is not None and self._residents.world_size != wish.world_size:
            self.end()
        for attempt in range(2):
            if self._residents is None:
                self._residents = Residents(wish.world_size)
            try:
                prepared = self._residents.prepare(others)
            except LauncherEndedError:
                self._residents = None
                if attempt:
                    raise
                tell("the ranks' launcher had ended, and they are made anew, without their variables")
                continue
            break
        for rank in prepared.fresh:
            self._cell_values.welcome(rank)
        if prepared.ended:
            tell_of_ended(prepared.ended, prepared.fresh)
        return prepared

    def _transformed(self, code: str) -> str:
        try:
            return str(self._shell.transform_cell(code))
        except Exception:  # noqa: BLE001 - the cell says so when it runs
            return ""

    def lost(self) -> None:
        """Takes note of a launcher that ended while a cell ran."""
        self._residents = None

    def over(self, cell: SpmdCell) -> None:
        """Called when a cell is over, and what it bound was gathered."""
        self._cell_values.end(cell.names, cell.wish.ranks)
        self._surroundings.settle()

    def note_plain_cell(self) -> None:
        """Called after each cell that ran in the kernel alone."""
        if self._residents is not None:
            self._cell_values.forget_replaced()

    def note_update(self, content: Mapping[str, Any]) -> None:
        """Called when the kernel was brought up to date with its notebook; see `nbgpu_kernel.updates`."""
        if content.get("changed_files"):
            self._surroundings.renew_modules(content.get("local_folders") or [])

    def log(self, rank: int) -> str | None:
        """Returns what a rank wrote in the last cells; None if there is no such rank, or were no ranks."""
        if self._residents is None or not 0 <= rank < self._residents.world_size:
            return None
        return self._residents.log(rank)

    @property
    def world_size(self) -> int:
        return self._residents.world_size if self._residents is not None else 0

    def live(self) -> dict[int, int]:
        """Returns the process ids of the ranks that live, by number, the kernel's among them; none if none were made.

        Those other than 0 append the stacks of their threads to `stacks_file` when they get SIGUSR1.
        """
        return self._residents.live() if self._residents is not None else {}

    def stacks_file(self, rank: int) -> str | None:
        """Returns the path of a rank's file of stacks, or None for rank 0, whose file is the kernel's, and for none."""
        return str(self._residents.stacks_file(rank)) if self._residents is not None and rank else None

    def end(self) -> None:
        """Ends the ranks. Idempotent."""
        residents, self._residents = self._residents, None
        if residents is not None:
            residents.end()


class SpmdCell:
    """A cell that runs on ranks; see `SpmdRanks.begin`."""

    def __init__(
        self,
        ranks: SpmdRanks,
        wish: Wish,
        residents: Residents,
        folder: CallFolder,
        names: CellNames,
        selection: Selection,
        variables: Mapping[str, str],
        publish: Publish,
    ) -> None:
        self.wish = wish
        self.names = names
        self._ranks = ranks
        self._residents = residents
        self._folder = folder
        self._selection = selection  # kept: the file refers to it
        self._publish = publish
        self._follower = Follower(folder, self._view())
        publish_hang = self._display if wish.view != "prefixed" else None
        self._hang_view = HangView(
            folder.hang,
            publish_hang,
            lambda file: place_of_cell(file) or file,
            lambda text: self._write(text, is_stderr=True),
        )
        self._showing = StoppableThread(self._show, _LOOK_EVERY_S)
        self._environment = _Environment({**variables, NCCL_VARIABLE: os.environ.get(NCCL_VARIABLE, NCCL_ABORTS_ALONE)})
        self._log: Any = None
        self._complaints = Complaints(folder.log(0))
        if wish.runs_in_kernel:
            self._environment.enter()
            forget_failed_groups()
            SessionOutStream.copy_to = self._keep
            residents.on_leave = self._complaints.begin

    def finish(self, error: BaseException | None) -> dict[str, Any]:
        """Waits for the other ranks; returns how the cell ended on all of them. To be called in any case.

        Args:
            error: That the cell raised in the kernel.
        """
        try:
            if self.wish.runs_in_kernel:
                self._residents.report(report_of(error))
                self._leave_kernel()
            outcome = self._residents.wait()
        except LauncherEndedError as ended:
            self._ranks.lost()
            outcome = not_launched(ended)
        finally:
            self._leave_kernel()
            self._showing.stop()
            self._follower.__exit__()
            self._folder.payload.unlink(missing_ok=True)
        self._hang_view.finish(has_returned=outcome["kind"] == "returned")
        for failure in outcome.get("failures", ()):
            with contextlib.suppress(OSError):
                write_json(self._folder.error(failure["rank"]), traceback_text(failure.get("chain", ())))
        places: dict[str, str] = {}
        for told in (*outcome.get("failures", ()), *outcome.get("others", ())):
            places |= told.pop("places", {})
            for frame in told.get("stack", ()):
                if (place := place_of_cell(frame["file"])) is not None:
                    places[frame["file"]] = place
        return {**outcome, "world_size": self.wish.world_size, "hostname": socket.gethostname(), "places": places}

    def over(self) -> None:
        """To be called when what the cell bound was gathered."""
        self._ranks.over(self)

    def _show(self, *, final: bool) -> None:
        self._follower.look(final=final)
        self._hang_view.refresh()

    def _leave_kernel(self) -> None:
        SessionOutStream.copy_to = None
        self._residents.on_leave = lambda: None
        self._complaints.end()
        self._environment.leave()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _keep(self, text: str) -> None:
        """Keeps what the kernel writes as rank 0."""
        with contextlib.suppress(OSError, ValueError):
            if self._log is None:
                self._log = open(self._folder.log(0), "ab", buffering=0)  # noqa: SIM115 - until the cell is over
            self._log.write(text.encode(errors="replace"))

    def _view(self) -> View:
        first = self.wish.ranks[0]
        if self.wish.view == "full":
            return FullView(write=self._write)
        if self.wish.view == "prefixed":
            return PrefixedView(first=first, write=self._write)
        return FoldedView(self._display, first=first, write=self._write)

    def _write(self, text: str, is_stderr: bool) -> None:
        self._publish("stream", {"name": "stderr" if is_stderr else "stdout", "text": text})

    def _display(self, data: dict[str, str], *, transient: dict[str, str], update: bool) -> None:
        if not update and self.wish.runs_in_kernel:
            sys.stdout.flush()  # rank 0's first lines above those of the others
        kind = "update_display_data" if update else "display_data"
        self._publish(kind, {"data": data, "metadata": {}, "transient": transient})


class _Environment:
    """Variables of the environment that are set for a while.

    Args:
        variables: By name.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._before: dict[str, str | None] = {}

    def enter(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._variables}
        os.environ.update(self._variables)

    def leave(self) -> None:
        before, self._before = self._before, {}
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def tell_of_ended(ended: list[dict[str, Any]], fresh: Collection[int]) -> None:
    """Says of which ranks the variables are gone."""
    numbers = sorted({each["rank"] for each in ended})
    one = len(numbers) == 1
    anew = "it is made anew" if one else "they are made anew"
    if not set(numbers) <= set(fresh):
        anew = "it will be made anew" if one else "they will be made anew"
    whose = "its" if one else "their"
    tell(
        f"{ranks_in_words(numbers)} had ended; {anew}, without {whose} variables:"
        " run the cells again that make them, and `init_process_group`"
    )


def tell(text: str) -> None:
    print(f"nbgpu: {text}", file=sys.stderr, flush=True)
