"""A notebook's kernel, driven as a front end drives it, with everything that it says kept in order."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

WITHIN_S = 180


@dataclass
class Cell:
    """What came of one execution."""

    request_id: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    """On iopub, with this request as the parent, without status and execute_input."""
    reply: dict[str, Any] = field(default_factory=dict)
    execution_count: int = 0

    @property
    def kinds(self) -> list[str]:
        return [message["msg_type"] for message in self.messages]

    def text(self, name: str = "stdout") -> str:
        return "".join(
            message["content"]["text"]
            for message in self.messages
            if message["msg_type"] == "stream" and message["content"]["name"] == name
        )

    @property
    def result(self) -> str | None:
        """The text of the execute_result."""
        for message in self.messages:
            if message["msg_type"] == "execute_result":
                return str(message["content"]["data"]["text/plain"])
        return None

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [message["content"] for message in self.messages if message["msg_type"] == "error"]


class _ThisPython(KernelManager):  # type: ignore[misc]
    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python", language="python")


class NotebookKernel:
    """One kernel and the front end's end of its channels."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def run(
        self,
        code: str,
        *,
        answers: tuple[str, ...] = (),
        during: Callable[[], None] | None = None,
        within_s: float = WITHIN_S,
    ) -> Cell:
        """Executes a cell to its end.

        Args:
            code: The cell.
            answers: What the person types, one an input request.
            during: Called at the first output.
            within_s: By when it must have ended.
        """
        cell = self.start(code, allow_stdin=bool(answers))
        return self.finish(cell, answers=answers, during=during, within_s=within_s)

    def start(self, code: str, *, allow_stdin: bool = False) -> Cell:
        return Cell(self.client.execute(code, allow_stdin=allow_stdin))

    def finish(
        self,
        cell: Cell,
        *,
        answers: tuple[str, ...] = (),
        during: Callable[[], None] | None = None,
        within_s: float = WITHIN_S,
    ) -> Cell:
        """Collects what a started cell says, until its idle status and its reply."""
        remaining = list(answers)
        deadline = time.monotonic() + within_s
        while True:
            assert time.monotonic() < deadline, f"no end of the cell; so far: {cell.messages}"
            if remaining and (prompt := self._input_request()) is not None:
                cell.messages.append(prompt)
                self.client.input(remaining.pop(0))
            message = self._iopub(0.05 if remaining else 1.0)
            if message is None or message["parent_header"].get("msg_id") != cell.request_id:
                continue
            kind = message["msg_type"]
            if kind == "status":
                if message["content"]["execution_state"] == "idle":
                    break
            elif kind == "execute_input":
                cell.execution_count = message["content"]["execution_count"]
            else:
                cell.messages.append(message)
                if during is not None:
                    during()
                    during = None
        while cell.reply.get("parent_header", {}).get("msg_id") != cell.request_id:
            cell.reply = self.client.get_shell_msg(timeout=WITHIN_S)
        return cell

    def listen(self, cell: Cell, enough: Callable[[Cell], bool]) -> bool:
        """Collects what a started cell says until that is enough; returns whether the cell was over before."""
        deadline = time.monotonic() + WITHIN_S
        while not enough(cell):
            assert time.monotonic() < deadline, f"not enough of the cell came; so far: {cell.kinds}"
            message = self._iopub(1.0)
            if message is None or message["parent_header"].get("msg_id") != cell.request_id:
                continue
            if message["msg_type"] not in ("status", "execute_input"):
                cell.messages.append(message)
            elif message["content"].get("execution_state") == "idle":
                return True
        return False

    def kill(self) -> None:
        """Kills the kernel, without a word."""
        process = self.manager.provisioner.process
        process.kill()
        process.wait()

    def take_rest(self, cell: Cell) -> bool:
        """Collects what a kernel had said of a cell before it was killed; returns whether the cell was over."""
        while (message := self._iopub(0.5)) is not None:
            if message["parent_header"].get("msg_id") != cell.request_id:
                continue
            if message["msg_type"] not in ("status", "execute_input"):
                cell.messages.append(message)
            elif message["content"].get("execution_state") == "idle":
                return True
        return False

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Returns the next iopub message that is wanted; others are passed over, but an error is raised here."""
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            message = self._iopub(1.0)
            if message is not None and wanted(message):
                return message
            if message is not None and message["header"]["msg_type"] == "error":
                raise AssertionError("\n".join(message["content"]["traceback"]))
        raise AssertionError("the message did not come")

    def wait_for_text(self, text: str) -> dict[str, Any]:
        """Returns the next stream message with the text in it."""
        return self.wait_for(lambda each: each["msg_type"] == "stream" and text in each["content"]["text"])

    def ask(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """Sends a request on the shell channel, and returns the content of its reply."""
        message = self.client.session.msg(kind, content)
        self.client.shell_channel.send(message)
        while True:
            reply = self.client.get_shell_msg(timeout=WITHIN_S)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return dict(reply["content"])

    def send_comm(self, kind: str, content: dict[str, Any], metadata: dict[str, Any] | None = None) -> str:
        """Sends a comm message as a front end does; returns its message id."""
        message = self.client.session.msg(kind, content, metadata=metadata)
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def restart(self, *, now: bool = True) -> None:
        """What a front end's "Restart Kernel" does: an interrupt, the end, the same connection file, another process.

        Args:
            now: Kill the process, rather than ask it to end.
        """
        self.manager.restart_kernel(now=now)
        self.client.wait_for_ready(timeout=WITHIN_S)

    def _iopub(self, timeout_s: float) -> dict[str, Any] | None:
        try:
            return dict(self.client.get_iopub_msg(timeout=timeout_s))
        except queue.Empty:
            return None

    def _input_request(self) -> dict[str, Any] | None:
        try:
            return dict(self.client.get_stdin_msg(timeout=0.05))
        except queue.Empty:
            return None


@contextlib.contextmanager
def notebook_kernel(connection_folder: Path, *, name: str = "one") -> Iterator[NotebookKernel]:
    """Starts a kernel over Unix sockets in the folder, as the notebook of that name."""
    manager = _ThisPython(
        transport="ipc",
        ip=str(connection_folder / f"s-{name}"),
        connection_file=str(connection_folder / f"kernel-{name}.json"),
    )
    # Where it sees this variable ipykernel does not capture what is written to the file descriptors.
    environ = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    manager.start_kernel(env=environ)
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=WITHIN_S)
        yield NotebookKernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def wait_for_answers(notebook: NotebookKernel) -> None:
    """Has completion and inspection wait longer for the session than a person would: this machine may be loaded."""
    notebook.run(
        "from nbgpu import completion, kernel_questions\n"
        "for module in (completion, kernel_questions):\n"
        "    for name in ('COMPLETION_BUDGET_S', 'FIRST_COMPLETION_BUDGET_S', 'INSPECTION_BUDGET_S'):\n"
        "        setattr(module, name, 60)"
    )


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def run(notebook: NotebookKernel, code: str) -> Cell:
    """Executes a cell that is to succeed."""
    cell = notebook.run(textwrap.dedent(code).strip())
    assert not cell.errors, "\n".join(cell.errors[0]["traceback"])
    return cell


def value(notebook: NotebookKernel, expression: str) -> str | None:
    return run(notebook, expression).result


def failure(notebook: NotebookKernel, code: str) -> str:
    """Executes a cell that is to fail; returns what the person reads."""
    cell = notebook.run(textwrap.dedent(code).strip())
    assert cell.errors, cell.messages
    return without_colours("\n".join(cell.errors[0]["traceback"]))
