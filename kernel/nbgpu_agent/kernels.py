"""One kernel: its process, its sockets and its folder, from its start to its end, which leaves nothing of these.

A kernel is driven through Jupyter's kernel protocol: a connection file, five sockets, JPY_PARENT_PID. jupyter_client's
manager is not used: it would learn of a kernel's end by polling ten times a second, and its import alone takes longer
than the rest of the agent's start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import zmq

from nbgpu_agent.channels import Channel, KernelChannels, message_parts
from nbgpu_agent.errors import KernelDiedError
from nbgpu_agent.isolation.os_user import OsUser, acting
from nbgpu_agent.isolation.sandboxed_process import SandboxedProcess, outside_numbers
from nbgpu_agent.kernel_confinement import Confinement
from nbgpu_agent.kernel_folders import KernelFolders
from nbgpu_agent.kernel_log import KernelLog
from nbgpu_agent.kernel_processes import Acknowledgement, AdoptedProcess, KernelProcess
from nbgpu_agent.kernel_records import write_kernel_record
from nbgpu_agent.model import KernelExit
from nbgpu_agent.outbox_files import read_outbox_files
from nbgpu_agent.processes import (
    MARKER_VARIABLE,
    ProcessTable,
    end_processes,
    end_processes_now,
    marked_pids,
    signal_group,
    signal_process,
)
from nbgpu_agent.stacks import (
    ANSWER_WITHIN_S,
    STACKS_REQUEST,
    Stacks,
    StackSource,
    read_cells,
    read_groups,
    take_stacks,
)

T = TypeVar("T")

STDERR_TAIL_BYTES = 4096
_TERMINATION_GRACE_S = 0.3
_FIRST_RESEND_S, _LAST_RESEND_S = 0.2, 5.0
_KERNEL_ARGUMENTS = (
    "--HistoryManager.enabled=False",
    "--HistoryManager.hist_file=:memory:",
    # By ipykernel's name for the application: libraries such as tqdm take its section for the sign of a notebook.
    "--IPKernelApp.log_level=CRITICAL",
)
_KERNEL_SCRIPT = Path(__file__).resolve().parent.parent / "nbgpu_kernel"


@dataclass(frozen=True)
class KernelCommons:
    """What all kernels of an agent have in common."""

    context: zmq.Context[Any]
    process_table: ProcessTable
    journal_bytes: int
    """How much of what it says a kernel keeps while there is no agent."""


class Kernel:
    """One kernel: its process, its sockets, its folder. Made by a KernelLauncher, and ended by whoever took it.

    Attributes:
        id: Marks its processes, see `processes`.
        channels: To exchange messages with it.
        folders: Where it has its files.
        log: What its process wrote outside of cells.
        python_version: Of its language, once it is ready.
        ended_because: Why we ended it, if its person did not ask for that: "at its memory limit of 64 GB".
        ended: Done when the process has ended; the result is its exit code, negative for a signal, None where it is not
            known, as of one that an earlier agent started.

    Args:
        on_left: Called once it has been left, to the next agent or since it was ended.
        os_user: As whom it runs; None: as the agent.
        adopted: The process, if it is one that an earlier agent started.
        runtime_folder: Of that one: where its sockets are.
        sandboxed: Whether that one runs in a sandbox.
        confinement: What it is started in, if that is one.
    """

    def __init__(
        self,
        kernel_id: str,
        folder: Path,
        python: str,
        variables: Mapping[str, str],
        common: KernelCommons,
        *,
        on_left: Callable[[Kernel], None],
        os_user: OsUser | None = None,
        adopted: AdoptedProcess | None = None,
        runtime_folder: Path | None = None,
        sandboxed: bool = False,
        confinement: Confinement | None = None,
    ) -> None:
        self.id = kernel_id
        self.sandboxed = sandboxed or confinement is not None
        self.os_user = os_user
        self.python = python
        self.python_version = ""
        self.ending_asked_for = False
        self.ended_because = ""
        self.folders = KernelFolders(
            kernel_id, folder, os_user, runtime_folder=runtime_folder, sandboxed=self.sandboxed
        )
        self._common = common
        self._on_left = on_left
        self._loop = asyncio.get_running_loop()
        self._stacks_lock = asyncio.Lock()
        self.ended: asyncio.Future[int | None] = self._loop.create_future()
        self.log = KernelLog(self.folders.log)
        if adopted is None:
            self.folders.make_first()
        self.acknowledgement = Acknowledgement(folder)
        try:
            self._process: KernelProcess = adopted or self._start_process(variables, confinement)
            threading.Thread(target=self._wait, name=f"kernel-{kernel_id}", daemon=True).start()
            if adopted is None:
                self._write_record(self._process.pid)
            self.channels = KernelChannels(common.context, self.folders.socket_prefix, f"nbgpu-{kernel_id}".encode())
            if not self.is_apart or (adopted is not None and self.folders.sealed):
                self.channels.connect()  # else once nobody can put another's sockets there
        except BaseException:
            end_processes_now([kernel_id])
            self.acknowledgement.close()
            self.folders.remove()
            raise

    def _start_process(self, variables: Mapping[str, str], confinement: Confinement | None) -> KernelProcess:
        # Written down before it is made, so that the next agent finds it whenever this one is killed.
        self._write_record(None)
        folders = self.folders
        folders.make()
        own_variables = {
            "NBGPU_OUTBOX_FOLDER": str(folders.own),
            "NBGPU_OUTBOX_BYTES": str(self._common.journal_bytes),
            "NBGPU_STACKS_FILE": str(folders.stacks),
            "NBGPU_WHEREABOUTS_FOLDER": str(folders.whereabouts),
            "TMPDIR": str(folders.temporary),
            MARKER_VARIABLE: self.id,
        }
        command = [self.python, str(_KERNEL_SCRIPT), "-f", str(folders.connection), *_KERNEL_ARGUMENTS]
        if confinement is None:
            own_variables["JPY_PARENT_PID"] = str(os.getpid())
        else:
            command = confinement.command(command, folders)
        with open(self.log.path, "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folders.temporary,
                env={**variables, **own_variables},
                start_new_session=True,
                **(self.os_user.process_arguments() if self.os_user is not None else {}),
            )
        return process if confinement is None else SandboxedProcess(process)

    @property
    def is_apart(self) -> bool:
        """Whether it has no right to what is the agent's."""
        return self.sandboxed or self.os_user is not None

    def find_process(self) -> bool:
        """Looks for its own process where another one started it; returns whether it was found. Blocks for some ms."""
        if not isinstance(self._process, SandboxedProcess):
            return True
        found = self._process.find()
        if found:
            self._write_record(self.pid)
        return found

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self.ended.done() and self._process.returncode is None

    def processes(self) -> list[psutil.Process]:
        """Returns its process, if it lives, and all that came from it."""
        return self._common.process_table.processes(self.id, self.pid, self.uid)

    @property
    def uid(self) -> int | None:
        """Of its user; None: the agent's."""
        return self.os_user.uid if self.os_user is not None else None

    def interrupt(self) -> None:
        """Sends SIGINT to the kernel and its process group: children of the cell are meant as well."""
        if self.alive:
            signal_group(self.pid, signal.SIGINT)

    def nudge(self) -> None:
        """Has the kernel return from a system call that blocks, if it is in one, and look for signals.

        Python repeats the call, if there was no signal else. SIGURG is ignored by whoever does not handle it.
        """
        if self.alive:
            signal_process(self.pid, signal.SIGURG)

    async def stacks(self) -> Stacks:
        """Returns the Python stacks of its threads and of its ranks, also while they compute.

        Raises:
            KernelDiedError: The kernel has ended, or does not answer.
        """
        async with self._stacks_lock:
            if not self.alive:
                raise KernelDiedError("the kernel has ended, so it has no stacks")
            whereabouts = self.folders.whereabouts
            numbers = await asyncio.to_thread(self._outside_numbers) if self.sandboxed else None
            ranks, known = await asyncio.to_thread(self._acting, read_groups, whereabouts, self.id, self.uid, numbers)
            own = StackSource(self.pid, self.folders.stacks, send_request=self._request_stacks)
            seen_by = self.pid if self.sandboxed else None
            processes = await take_stacks([own, *ranks], os_user=self.os_user, seen_by=seen_by)
            if not processes[0].dump:
                raise KernelDiedError(
                    f"the kernel did not show its stacks within {ANSWER_WITHIN_S:g} s",
                    "`%gpu logs` shows what it wrote",
                )
            dumps = [each.dump for each in processes]
            cells = await asyncio.to_thread(self._acting, read_cells, whereabouts, known, dumps)
            return Stacks(tuple(processes), cells)

    def _outside_numbers(self) -> Mapping[int, int]:
        return outside_numbers(self.pid, marked_pids().get(self.id, ()))

    def _acting(self, function: Callable[..., T], *arguments: Any) -> T:
        with acting(self.os_user):
            return function(*arguments)

    def _request_stacks(self) -> None:
        self.channels.send(Channel.CONTROL, message_parts(STACKS_REQUEST, {}))

    @property
    def temporary_folder(self) -> Path:
        """Where its processes have their temporary files."""
        return self.folders.temporary

    def exit(self) -> KernelExit:
        """Returns how it ended, once it has."""
        code = self.ended.result()
        return KernelExit(
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            stderr_tail=self.log.tail(STDERR_TAIL_BYTES).strip(),
            asked_for=self.ending_asked_for,
            ended_because=self.ended_because,
        )

    async def resend(self, on_missing: Callable[[int], None]) -> None:
        """Has the kernel send again what it has said after `channels.number`; returns once that came, or it ended.

        A kernel of which other code holds the GIL answers when that lets go.

        Args:
            on_missing: As `KernelChannels.expect_resent`.
        """
        self.channels.in_order = True
        timeout_s = _FIRST_RESEND_S
        while self.alive:
            request_id = secrets.token_hex(8)
            resent = self.channels.expect_resent(request_id, on_missing)
            content = {"after": self.channels.number, "request_id": request_id}
            self.channels.send(Channel.CONTROL, message_parts("nbgpu_resend_request", content))
            # What is sent before the subscription arrives is lost, so it is asked for until it comes.
            either: set[asyncio.Future[Any]] = {resent, self.ended}
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if resent.done():
                return
            timeout_s = min(timeout_s * 2, _LAST_RESEND_S)

    async def end(self, *, grace_s: float = _TERMINATION_GRACE_S) -> None:
        """Ends it with all that came from it, closes its sockets and removes its folders. Idempotent.

        Ends also what it left when it has ended on its own.
        """
        await self.end_processes(grace_s=grace_s)
        self.leave()
        self.folders.remove()

    def left_behind(self) -> list[tuple[Channel, list[bytes]]]:
        """Returns what it wrote down while it had no agent, and could not say before it ended."""
        found = []
        with acting(self.os_user):
            for number, channel, parts in read_outbox_files(self.folders.own, 2 * self._common.journal_bytes):
                if number > self.channels.number:
                    self.channels.number = number
                    found.append((channel, parts))
        return found

    def leave(self) -> None:
        """Closes the sockets, and leaves the kernel to the next agent. Idempotent."""
        self.channels.close()
        self.acknowledgement.close()
        self._on_left(self)

    async def end_processes(self, *, grace_s: float = _TERMINATION_GRACE_S) -> None:
        """Ends its processes, and waits until its own has ended.

        With a grace, an idle kernel runs what the user registered with atexit; one that computes is killed after it.
        """
        if self.alive:
            self.ending_asked_for = True
            if grace_s > 0:
                self.channels.send(Channel.CONTROL, message_parts("shutdown_request", {"restart": False}))
                await asyncio.wait({self.ended}, timeout=grace_s)
            if self.alive:
                signal_process(self.pid, signal.SIGKILL)
        await asyncio.wait({self.ended}, timeout=5.0)
        # What keeps shared memory tidy (multiprocessing's resource tracker) ends by itself now that its owner is gone.
        await end_processes([self.id], grace_s=max(grace_s, _TERMINATION_GRACE_S))

    def _wait(self) -> None:
        code = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(lambda: None if self.ended.done() else self.ended.set_result(code))

    def _write_record(self, pid: int | None) -> None:
        folders = self.folders
        write_kernel_record(
            self.id, pid, self.os_user, folders.record, runtime_folder=folders.runtime, sandboxed=self.sandboxed
        )
