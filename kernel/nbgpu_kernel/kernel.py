"""The kernel itself: ipykernel's, which the notebook numbers, the agent prepares, and no interrupt costs a reply."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelbase import Kernel
from IPython.core.events import EventManager
from IPython.core.interactiveshell import InteractiveShell

from nbgpu_kernel.exceptions import pack_exception, qualified_name
from nbgpu_kernel.interrupts import Interrupts
from nbgpu_kernel.process import outlive_parent, write_stacks
from nbgpu_kernel.ranks import spmd_replies
from nbgpu_kernel.ranks.payload import UnsendableError
from nbgpu_kernel.ranks.spmd import SpmdCell, SpmdRanks, Wish
from nbgpu_kernel.ranks.spmd_replies import LauncherEndedError
from nbgpu_kernel.sending import HandledRequests
from nbgpu_kernel.shell import ZMQInteractiveShell
from nbgpu_kernel.values.blob_files import BlobFiles
from nbgpu_kernel.values.definitions import Definitions
from nbgpu_kernel.values.exchange import UndecodableError
from nbgpu_kernel.values.session_values import SessionValues, StaleValuesError

VALUES_MESSAGE = "nbgpu_values"
ASSIGN_REQUEST = "nbgpu_assign_request"
ASSIGN_REPLY = "nbgpu_assign_reply"
OBJECT_REQUEST = "nbgpu_object_request"
OBJECT_REPLY = "nbgpu_object_reply"
STACKS_REQUEST = "nbgpu_stacks_request"


class SessionKernel(IPythonKernel):
    """ipykernel's kernel. Overrides pass on what they do not know, so that they outlive ipykernel's majors."""

    shell_class = ZMQInteractiveShell

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        # ipykernel waits this long (0.5 ms) before each reply, for front ends that take the reply for the end of a
        # cell. The agent's clients wait for the idle status.
        self._execute_sleep = 0.0
        self._handled = HandledRequests()
        self._execution_count: int | None = None
        self._result: Any = None
        self._exchange: tuple[dict[str, Any], list[Any], str] | None = None
        self._values = SessionValues(
            self._live_shell.user_ns,
            self._live_shell.user_ns_hidden,
            None,  # until it is a session's
        )
        self._wish: Wish | None = None
        self.spmd_ranks = SpmdRanks(self._live_shell, self._values)
        self.shell_handlers[ASSIGN_REQUEST] = self.assign_request
        self.shell_handlers[OBJECT_REQUEST] = self.object_request
        self.control_handlers[STACKS_REQUEST] = self.stacks_request
        self._live_shell.events.register("post_run_cell", self._keep_result)
        self._interrupts = Interrupts(
            self._live_shell.user_global_ns,
            guards=frozenset(
                function.__code__
                for function in (InteractiveShell.run_code, InteractiveShell.user_expressions, Kernel.dispatch_shell)
            ),
            callers=frozenset([EventManager.trigger.__code__]),
        )

    @property
    def _live_shell(self) -> Any:
        return self.shell  # never None once the kernel is made

    @property
    def _live_session(self) -> Any:
        return self.session

    @property
    def definitions(self) -> Definitions:
        """The classes and functions that its values refer to."""
        return self._values.definitions

    @property
    def _supports_kernel_subshells(self) -> bool:
        return False  # see nbgpu_kernel.app

    def start(self) -> None:
        super().start()  # type: ignore[no-untyped-call]
        self._interrupts.install()

    async def assign_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Makes the kernel a session's: sets environment variables, the working folder, and the store of its user."""
        content = parent["content"]
        try:
            os.environ.update(content["environment_variables"])
            os.chdir(content["working_folder"])
            if content.get("outlives_agent"):
                outlive_parent()
            if folder := content.get("blobs_folder"):
                self._values.use_blobs(BlobFiles(Path(folder)))
            self._live_shell.user_ns["_dh"][:] = [os.getcwd()]
            reply = {"status": "ok"}
        except (OSError, ValueError) as error:
            reply = {"status": "error", "ename": type(error).__name__, "evalue": str(error)}
        self._live_session.send(stream, ASSIGN_REPLY, reply, parent, ident)

    async def object_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Tells of the object of a handle what completing its attributes and reading about it takes."""
        found = self._values.look_at(str(parent["content"].get("id", "")))
        reply = {"status": "ok", **found} if found is not None else {"status": "error", "ename": "LookupError"}
        self._live_session.send(stream, OBJECT_REPLY, reply, parent, ident)

    async def stacks_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Appends the stacks to their file, where the agent looks: on the control thread, so while a cell runs too."""
        write_stacks()

    async def dispatch_shell(self, *args: Any, **kwargs: Any) -> None:
        if args and not self._handled.is_new(args[0]):
            return
        if threading.current_thread() is not threading.main_thread() or kwargs.get("concurrent"):
            await super().dispatch_shell(*args, **kwargs)
            return
        with self._interrupts.request():
            await super().dispatch_shell(*args, **kwargs)

    def pre_handler_hook(self) -> None:
        """Puts our handler back, in case that a cell has set another, where ipykernel sets Python's own."""
        self._interrupts.install()

    def post_handler_hook(self) -> None:
        self._interrupts.install()

    @contextlib.contextmanager
    def _cancel_on_sigint(self, future: Any) -> Iterator[None]:
        with self._interrupts.asynchronous_cell(future):
            yield

    async def execute_request(self, stream: Any, ident: Any, parent: Any, *args: Any, **kwargs: Any) -> None:
        """Runs the request under the notebook's execution count, so that tracebacks and `Out` are numbered right."""
        found = parent.get("metadata")
        found = found.get("nbgpu") if isinstance(found, dict) else None
        metadata = found if isinstance(found, dict) else {}
        count = metadata.get("execution_count")
        self._execution_count = count if isinstance(count, int) and count > 0 else None
        self._wish = Wish.parse(metadata["spmd"]) if "spmd" in metadata else None
        self._parent = parent
        values = metadata.get("values")
        client = str(parent["header"].get("nbgpu_client", ""))
        self._exchange = (values, parent.get("buffers") or [], client) if values else None
        if self._execution_count is not None and not parent["content"].get("silent", False):
            self._live_shell.execution_count = self._execution_count
        await super().execute_request(  # type: ignore[no-untyped-call]
            stream, ident, parent, *args, **kwargs
        )

    async def do_execute(self, *args: Any, **kwargs: Any) -> Any:
        """Always returns a reply, and with an error's the exception itself."""
        self._result = None
        last_error = getattr(sys, "last_value", None)
        execution_count = self._execution_count or self._live_shell.execution_count
        exchange, self._exchange = self._exchange, None
        wish, self._wish = self._wish, None
        try:
            bound = self._values.bind(*exchange) if exchange is not None else None
            if wish is None:
                reply = await super().do_execute(*args, **kwargs)  # type: ignore[no-untyped-call]
                cell = None
            else:
                cell, reply = await self._execute_on_ranks(wish, exchange, args, kwargs, execution_count)
            if exchange is not None and reply.get("status") == "ok":
                self._send_values(exchange)
            if cell is not None:
                cell.over()
            else:
                self.spmd_ranks.note_plain_cell()
            if bound is not None:
                reply["nbgpu_values"] = {"bound": True, **dataclasses.asdict(bound)}
        except (StaleValuesError, UndecodableError) as refusal:
            return _refusal(refusal, execution_count)
        except (KeyboardInterrupt, asyncio.CancelledError):
            return self._interrupted_reply(execution_count)
        if self._execution_count is not None and "execution_count" in reply:
            reply["execution_count"] = self._execution_count
        if reply.get("status") == "error" and wish is None:
            shown = getattr(sys, "last_value", None)
            error = self._error_of_result() or (shown if shown is not last_error else None)
            if error is not None and type(error).__name__ == reply.get("ename"):
                reply.update(_packed(error))
        self._result = None
        return reply

    async def _execute_on_ranks(
        self, wish: Wish, exchange: Any, args: tuple[Any, ...], kwargs: dict[str, Any], execution_count: int
    ) -> tuple[SpmdCell | None, dict[str, Any]]:
        """Runs a cell on several ranks, of which this process is the first; returns it, and the reply."""
        reads = [name for field in ("known", "tokens") for name in exchange[0].get(field, ())] if exchange else []
        parent = self._parent

        def publish(kind: str, content: dict[str, Any]) -> None:
            topic = f"kernel.{self.ident}.{kind}".encode()
            self._live_session.send(self.iopub_socket, kind, content, parent, ident=topic)

        try:
            cell = self.spmd_ranks.begin(wish, parent["content"]["code"], execution_count, reads, publish)
        except (UnsendableError, LauncherEndedError) as refusal:
            return None, spmd_replies.not_begun(refusal, execution_count)
        reply: dict[str, Any] = {}
        error: BaseException | None = None
        self._live_shell.holds_errors = True
        try:
            if wish.runs_in_kernel:
                reply = await super().do_execute(*args, **kwargs)  # type: ignore[no-untyped-call]
                error = self._error_of_result() if reply.get("status") == "error" else None
        except (KeyboardInterrupt, asyncio.CancelledError):
            error = KeyboardInterrupt()
            self._live_shell.payload_manager.clear_payload()
        finally:
            self._live_shell.holds_errors = False
            with self._interrupts.left_to_others():
                outcome = cell.finish(error)
        if outcome["kind"] == "returned":
            return cell, reply or spmd_replies.ok(execution_count)
        reply = spmd_replies.failed(outcome, execution_count)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # what came after an error would tell that it was not the cell's last word
        publish("error", {field: reply[field] for field in ("ename", "evalue", "traceback")})
        return cell, reply

    def _send_values(self, exchange: tuple[dict[str, Any], list[Any], str]) -> None:
        request, _, client = exchange
        content, buffers = self._values.collect(request, client)
        if any(content[field] for field in ("parcels", "handles", "modules", "left")):
            self.send_response(  # type: ignore[no-untyped-call]
                self.iopub_socket, VALUES_MESSAGE, content, buffers=buffers
            )

    def _keep_result(self, result: Any) -> None:
        self._result = result

    def _error_of_result(self) -> BaseException | None:
        error: BaseException | None = getattr(self._result, "error_before_exec", None)
        return error or getattr(self._result, "error_in_exec", None)

    def _interrupted_reply(self, execution_count: int) -> dict[str, Any]:
        """What an interrupt leaves that struck before the first line of the cell, or in what follows its last."""
        error = KeyboardInterrupt()
        self._live_shell._showtraceback(KeyboardInterrupt, error, ["KeyboardInterrupt: "])
        self._live_shell.payload_manager.clear_payload()
        return {
            "status": "error",
            "ename": "KeyboardInterrupt",
            "evalue": "",
            "traceback": ["KeyboardInterrupt: "],
            "execution_count": execution_count,
            "user_expressions": {},
            "payload": [],
            **_packed(error),
        }


def _refusal(error: StaleValuesError | UndecodableError, execution_count: int) -> dict[str, Any]:
    """The reply to a cell that did not run, because what it reads could not be bound."""
    if isinstance(error, UndecodableError):
        values = {"bound": False, "name": error.name, "ename": error.ename, "evalue": error.evalue}
    else:
        values = {"bound": False, "stale": list(error.names)}
    return {
        "status": "error",
        "ename": type(error).__name__,
        "evalue": str(error),
        "traceback": [],
        "execution_count": execution_count,
        "user_expressions": {},
        "payload": [],
        "nbgpu_values": values,
    }


def _packed(error: BaseException) -> dict[str, str]:
    packed = pack_exception(error)
    fields = {"nbgpu_exception_type": qualified_name(error)}
    return fields if packed is None else {**fields, "nbgpu_exception": packed}
