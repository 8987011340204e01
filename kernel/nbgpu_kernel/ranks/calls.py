"""The calls of a session's kernel: started, followed, ended, and asked what they brought. For its main thread.

The notebook's side runs one line of code in the session for each of the functions here, and reads what it returns.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbgpu_kernel import whereabouts
from nbgpu_kernel.ranks.call_folder import CallFolder, Plan
from nbgpu_kernel.ranks.failures import traceback_text
from nbgpu_kernel.ranks.hang_view import HangView
from nbgpu_kernel.ranks.message_file import read_values
from nbgpu_kernel.ranks.output import FoldedView, Follower, FullView, PrefixedView, View
from nbgpu_kernel.ranks.payload import UnsendableError, write_call
from nbgpu_kernel.ranks.processes import MARKER_VARIABLE, end_marked

KEPT_CALLS = 10
"""Of so many calls the logs and what they returned are kept, for the session's life."""
_POLL_S = 0.05
_END_WITHIN_S = 12.0
_SCRIPT = Path(__file__).resolve().parent.parent
_NOT_PASSED_ON = ("JPY_PARENT_PID", "JPY_SESSION_NAME", "MPLBACKEND", "CLICOLOR", "FORCE_COLOR", "CLICOLOR_FORCE")
"""What the kernel has for itself: its parent, its front end, its figures."""
_PACKAGES = re.compile(r"^.*[/\\](site|dist)-packages[/\\]")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_WITHOUT_CUDA = {"ACCELERATE_USE_CPU": "true", "DS_ACCELERATOR": "cpu"}
"""What `accelerate launch --cpu` and `deepspeed` set. Without the first, Accelerate and transformers' Trainer find no
other ranks where there is no GPU, and each rank trains alone, without a word (accelerate 1.15, state.py)."""


class Call:
    """One call, from its start until the session forgets it."""

    def __init__(self, call_id: str, folder: CallFolder, world_size: int, cells: Mapping[str, int]) -> None:
        self.id = call_id
        self.world_size = world_size
        self.folder = folder
        self.cells = dict(cells)
        """Files of the notebook's cells, and the number of each."""
        self.is_awaited = False
        """Whether what it returned was brought when it ended, and is not asked for again."""
        self.begun_s = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self._alive, self._process_end = os.pipe()
        """The launcher has the other end, which is closed when it ends."""
        self._outcome: dict[str, Any] | None = None
        self._asked: int | None = None
        """The signal by which the launcher was told to end."""

    def start(self, variables: Mapping[str, str]) -> None:
        with open(self.folder.launcher_log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_SCRIPT), "--ranks", str(self.folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(variables),
                pass_fds=[self._process_end],
                start_new_session=True,  # an interrupt of the kernel's group is the kernel's to pass on
            )
        os.close(self._process_end)

    def abandon(self) -> None:
        """Takes back what was made of it, and ends its launcher if that was started."""
        for descriptor in (self._alive, self._process_end):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        end_marked(self.id, self.folder.read_leaders())
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.folder.remove()

    @property
    def is_over(self) -> bool:
        return self._outcome is not None or self._process is None or self._process.poll() is not None

    def wait(self, timeout_s: float) -> bool:
        """Waits until the launcher has ended, for so long at most; returns whether it has."""
        if not self.is_over:
            poll = select.poll()  # `select` knows no descriptor above 1023
            poll.register(self._alive, select.POLLIN)
            poll.poll(timeout_s * 1000)
        return self.is_over

    def end(self, number: int) -> None:
        """Has the launcher end its ranks, and waits for it; kills all where that takes too long."""
        if self._process is None:
            return
        deadline = time.monotonic() + _END_WITHIN_S
        if not self.is_over:
            self._asked = number
            self._process.send_signal(number)
        while not self.wait(_POLL_S):
            if time.monotonic() > deadline:
                self._process.kill()
                self._process.wait()

    def place_of(self, file: str) -> str:
        """Returns "Cell In[3]" for the code of a cell, of the notebook's or of this kernel's, and else "File …"."""
        if file in self.cells:
            return f"Cell In[{self.cells[file]}]"
        return _place_of_cell(file) or f"File {_PACKAGES.sub('', file)}"

    def outcome(self) -> dict[str, Any]:
        """Returns how the call ended, once it has; ends whatever is left of it."""
        if self._outcome is None:
            assert self._process is not None
            code = self._process.wait()
            os.close(self._alive)
            end_marked(self.id, self.folder.read_leaders())
            self._outcome = self._read_outcome(code)
            self.folder.remove_scratch()
        return self._outcome

    def _read_outcome(self, code: int) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.folder.outcome.read_text())
            return found
        except (OSError, ValueError):  # it was killed, or could not even begin
            if self._asked is not None:
                return {"kind": "interrupted" if self._asked == signal.SIGINT else "cancelled"}
            lines = self.folder.launcher_log.read_text(errors="replace").splitlines()[-20:]
            return {
                "kind": "not_launched",
                "ename": "",
                "evalue": "",
                "lines": lines,
                "exit_code": code if code >= 0 else None,
                "signal": -code if code < 0 else None,
            }

    def returns(self) -> list[Any]:
        definitions = _definitions()
        return [read_values(self.folder.result(rank), definitions)[0]["value"] for rank in range(self.world_size)]

    def log(self, rank: int) -> str:
        """Returns what a rank wrote, and the exception that ended it."""
        text = ""
        with contextlib.suppress(FileNotFoundError):
            text = self.folder.log(rank).read_bytes().decode(errors="replace")
        with contextlib.suppress(OSError, ValueError):
            report = json.loads(self.folder.report(rank).read_text())
            told = traceback_text(report.get("chain", []))
            text += ("\n" if told and text and not text.endswith("\n") else "") + told
        return text


_calls: dict[str, Call] = {}
"""Latest last."""


def run(request: Mapping[str, Any]) -> dict[str, Any]:
    """Starts a call, shows its output until it ends, and returns its outcome with what it returned.

    An interrupt ends the call, and is its outcome.
    """
    answer = submit(request)
    if answer["kind"] != "started":
        return answer
    _calls[answer["id"]].is_awaited = True
    return follow(answer["id"], request["view"])


def submit(request: Mapping[str, Any]) -> dict[str, Any]:
    """Starts a call; returns its id.

    Args:
        request: `function`, `args`, `kwargs`, `world_size`, `timeout_s`, and what the ranks' watcher is to know:
            `hang_after_s`, and `cells`, the numbers of the notebook's cells by the files that their code names.
    """
    call_id = secrets.token_hex(4)
    folder = CallFolder(Path(tempfile.gettempdir()) / call_id)
    world_size = int(request["world_size"])
    sys_path = [entry or os.getcwd() for entry in sys.path]
    call = Call(call_id, folder, world_size, dict(request.get("cells") or {}))
    try:
        folder.make()
        hidden = _shell().user_ns_hidden
        write_call(folder.payload, request["function"], request["args"], request["kwargs"], _definitions(), hidden)
        plan = Plan(
            call_id,
            world_size,
            request["timeout_s"],
            sys_path,
            os.getpid(),
            whereabouts.folder(),
            cells=call.cells,
            hang_after_s=request.get("hang_after_s"),
        )
        folder.write_plan(plan)
        call.start(_variables(call_id, folder, world_size))
    except BaseException as error:  # an interrupt as well
        call.abandon()
        if isinstance(error, UnsendableError):
            return {"kind": "unsendable", "text": str(error)}
        raise
    _forget_old()
    _calls[call_id] = call
    return {"kind": "started", "id": call_id}


def follow(call_id: str, view: str) -> dict[str, Any]:
    """Shows a call's output from its beginning until it ends; returns its outcome with what it returned.

    Args:
        call_id: Of the call.
        view: "folded", "prefixed" or "full".
    """
    call = _calls.get(call_id)
    if call is None:
        return {"kind": "unknown"}
    publish = _shell().display_pub.publish if view != "prefixed" else None
    hang_view = HangView(call.folder.hang, publish, call.place_of)
    with Follower(call.folder, _view(view)) as follower:
        try:
            while not call.wait(_POLL_S):
                follower.look()
                hang_view.refresh()
        except KeyboardInterrupt:
            call.end(signal.SIGINT)
        outcome = call.outcome()
        follower.look(final=True)
        hang_view.finish(has_returned=outcome["kind"] == "returned")
    return _answer(call, outcome)


def _answer(call: Call, outcome: dict[str, Any]) -> dict[str, Any]:
    if outcome["kind"] != "returned":
        places = {file: place for file in _files(outcome) if (place := _place_of_cell(file)) is not None}
        return {**outcome, "id": call.id, "world_size": call.world_size, "places": places}
    return {**outcome, "id": call.id, "world_size": call.world_size, "returns": call.returns()}


def _files(found: Any) -> set[str]:
    """Returns the files of all frames in an outcome."""
    if isinstance(found, dict):
        own = {found["file"]} if isinstance(found.get("file"), str) else set()
        return own.union(*map(_files, found.values()))
    return set().union(*map(_files, found)) if isinstance(found, list) else set()


def cancel(call_id: str) -> str:
    """Ends a call; returns its state then."""
    call = _calls.get(call_id)
    if call is not None and not call.is_over:
        call.end(signal.SIGTERM)
    return state(call_id)


def state(call_id: str) -> str:
    """Returns "running", how the call ended, or "unknown"."""
    call = _calls.get(call_id)
    if call is None:
        return "unknown"
    return str(call.outcome()["kind"]) if call.is_over else "running"


def log(call_id: str, rank: int) -> str | None:
    """Returns what a rank has written; None if there is no such call, or rank.

    Args:
        call_id: Of the call; empty for the latest.
        rank: Its number.
    """
    call = _calls.get(call_id) if call_id else next(reversed(_calls.values()), None)
    return call.log(rank) if call is not None and 0 <= rank < call.world_size else None


def rank_log(rank: int) -> dict[str, Any]:
    """Returns what a rank wrote, `text`, in the latest call, or in the last `--spmd` cells if these came after it.

    `text` is None where there is no such rank of `world_size`, which is 0 where there were no ranks at all.
    """
    resident = _shell().kernel.spmd_ranks
    latest = next(reversed(_calls.values()), None)
    if latest is None or latest.begun_s < resident.last_used_s:
        return {"text": resident.log(rank), "world_size": resident.world_size}
    return {"text": log("", rank), "world_size": latest.world_size}


def describe(call_id: str) -> dict[str, Any]:
    """Returns what is known of a call, or of the latest for an empty id."""
    found = call_id or next(reversed(_calls), "")
    known = _calls.get(found)
    return {"id": found, "state": state(found), "world_size": known.world_size if known is not None else 0}


def error(call_id: str, rank: int) -> BaseException:
    """Returns the exception that a rank raised.

    Raises:
        Exception: It could not leave the rank, or cannot be put together here.
    """
    values, _ = read_values(_calls[call_id].folder.error(rank), _definitions())
    found: BaseException = values["error"]
    return found


def _forget_old() -> None:
    for call in _calls.values():
        if call.is_awaited and call.is_over:
            call.folder.remove_results()
    for call_id in [each.id for each in _calls.values() if each.is_over][: max(0, len(_calls) - KEPT_CALLS + 1)]:
        call = _calls.pop(call_id)
        call.outcome()
        call.folder.remove()


def _view(name: str) -> View:
    if name == "full":
        return FullView()
    if name == "prefixed":
        return PrefixedView()
    return FoldedView(_shell().display_pub.publish)


def _variables(call_id: str, folder: CallFolder, world_size: int) -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    threads = str(max(1, (os.cpu_count() or 1) // world_size))
    for name in _THREAD_VARIABLES:
        variables.setdefault(name, threads)
    if variables.get("CUDA_VISIBLE_DEVICES") == "":  # as the agent has it where no accelerator is a GPU
        variables = {**_WITHOUT_CUDA, **variables}
    return {**variables, MARKER_VARIABLE: call_id, "TMPDIR": str(folder.temporary)}


def _shell() -> Any:
    from IPython.core.getipython import get_ipython

    return get_ipython()


def _definitions() -> Any:
    return _shell().kernel.definitions


def _place_of_cell(file: str) -> str | None:
    """Returns "Cell In[3]" for the file by which this kernel knows one of its cells; None for other files."""
    formatted = getattr(_shell().compile, "format_code_name", lambda _: None)(file)
    return " ".join(formatted) if formatted else None
