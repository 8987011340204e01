"""Starts kernels, holds spare ones, and owns what each leaves on the machine: processes, sockets and folders.

A kernel is driven through Jupyter's kernel protocol: a connection file, five sockets, JPY_PARENT_PID. jupyter_client's
manager is not used: it would learn of a kernel's end by polling ten times a second, and its import alone takes longer
than the rest of the agent's start.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import zmq

from nbgpu_agent.channels import Channel, KernelChannels, message_parts
from nbgpu_agent.errors import KernelDiedError, KernelFailedError
from nbgpu_agent.isolation.choosing import Isolation
from nbgpu_agent.isolation.os_user import OsUser, acting, own_folder, passable
from nbgpu_agent.isolation.sandboxed_process import SandboxedProcess, outside_numbers
from nbgpu_agent.journal import DEFAULT_LIMIT_BYTES
from nbgpu_agent.kernel_confinement import Confinement, find_confinement
from nbgpu_agent.kernel_environment import base_variables
from nbgpu_agent.kernel_folders import RECORD_FILE, SHORT_FOLDER_PREFIX, KernelFolders
from nbgpu_agent.kernel_processes import Acknowledgement, AdoptedProcess, KernelProcess
from nbgpu_agent.model import Accelerator, KernelExit
from nbgpu_agent.outbox_files import read_outbox_files
from nbgpu_agent.processes import (
    MARKER_VARIABLE,
    ProcessTable,
    end_processes,
    end_processes_now,
    marked_pids,
    signal_group,
    signal_process,
    start_time,
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
from nbgpu_agent.user_blobs import folder_of

T = TypeVar("T")

START_TIMEOUT_S = 60.0
STDERR_TAIL_BYTES = 4096
MAX_LOG_BYTES = 4 << 20
"""A kernel's log is cut back to a quarter of this when it is longer."""
_LOG_TRIM_INTERVAL_S = 5.0
_TERMINATION_GRACE_S = 0.3
_MAX_FAILED_SPARES = 3
_MAX_SOCKETS = 1 << 16
"""zmq's own 1023 are those of 170 kernels."""
_FIRST_RESEND_S, _LAST_RESEND_S = 0.2, 5.0
_LISTENS_POLL_S = 0.01
_KERNEL_ARGUMENTS = (
    "--HistoryManager.enabled=False",
    "--HistoryManager.hist_file=:memory:",
    # By ipykernel's name for the application: libraries such as tqdm take its section for the sign of a notebook.
    "--IPKernelApp.log_level=CRITICAL",
)
_KERNEL_SCRIPT = Path(__file__).resolve().parent.parent / "nbgpu_kernel"


class Kernel:
    """One kernel: its process, its sockets, its folder. Made by a KernelLauncher, and ended by whoever took it.

    Attributes:
        id: Marks its processes, see `processes`.
        channels: To exchange messages with it.
        python_version: Of its language, once it is ready.
        ended_because: Why we ended it, if its person did not ask for that: "at its memory limit of 64 GB".
        ended: Done when the process has ended; the result is its exit code, negative for a signal, None where it is not
            known, as of one that an earlier agent started.

    Args:
        os_user: As whom it runs; None: as the agent.
        adopted: The process, if it is one that an earlier agent started.
        runtime_folder: Of that one: where its sockets are.
        sandboxed: Whether it runs in a sandbox.
        confinement: What it is started in, if that is one.
    """

    def __init__(
        self,
        kernel_id: str,
        folder: Path,
        python: str,
        variables: Mapping[str, str],
        launcher: KernelLauncher,
        *,
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
        self._folders = KernelFolders(
            kernel_id, folder, os_user, runtime_folder=runtime_folder, sandboxed=self.sandboxed
        )
        self._launcher = launcher
        self._loop = asyncio.get_running_loop()
        self._stacks_lock = asyncio.Lock()
        self.ended: asyncio.Future[int | None] = self._loop.create_future()
        self._log_path = self._folders.log
        if adopted is None:
            self._folders.make_first()
        self.acknowledgement = Acknowledgement(folder)
        try:
            self._process: KernelProcess = adopted or self._start_process(variables, confinement)
            threading.Thread(target=self._wait, name=f"kernel-{kernel_id}", daemon=True).start()
            if adopted is None:
                self._write_record(self._process.pid)
            self.channels = KernelChannels(launcher.context, self._folders.socket_prefix, f"nbgpu-{kernel_id}".encode())
            if not self._is_apart or (adopted is not None and self._folders.sealed):
                self.channels.connect()  # else once nobody can put another's sockets there
        except BaseException:
            end_processes_now([kernel_id])
            self.acknowledgement.close()
            self._folders.remove()
            raise

    def _start_process(self, variables: Mapping[str, str], confinement: Confinement | None) -> KernelProcess:
        # Written down before it is made, so that the next agent finds it whenever this one is killed.
        self._write_record(None)
        folders = self._folders
        folders.make()
        own_variables = {
            "NBGPU_OUTBOX_FOLDER": str(folders.own),
            "NBGPU_OUTBOX_BYTES": str(self._launcher.journal_bytes),
            "NBGPU_STACKS_FILE": str(folders.stacks),
            "NBGPU_WHEREABOUTS_FOLDER": str(folders.whereabouts),
            "TMPDIR": str(folders.temporary),
            MARKER_VARIABLE: self.id,
        }
        command = [self.python, str(_KERNEL_SCRIPT), "-f", str(folders.connection), *_KERNEL_ARGUMENTS]
        if confinement is None:
            own_variables["JPY_PARENT_PID"] = str(os.getpid())
        else:
            command = confinement.command(command, folders, ends_with_agent=not self._launcher.kernels_outlive_agent)
        with open(self._log_path, "ab") as log:
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
    def _is_apart(self) -> bool:
        """Whether it has no right to what is the agent's."""
        return self.sandboxed or self.os_user is not None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self.ended.done() and self._process.returncode is None

    def processes(self) -> list[psutil.Process]:
        """Returns its process, if it lives, and all that came from it."""
        return self._launcher.process_table.processes(self.id, self.pid, self.uid)

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
            whereabouts = self._folders.whereabouts
            numbers = await asyncio.to_thread(self._outside_numbers) if self.sandboxed else None
            ranks, known = await asyncio.to_thread(self._acting, read_groups, whereabouts, self.id, self.uid, numbers)
            own = StackSource(self.pid, self._folders.stacks, send_request=self._request_stacks)
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

    def log_tail(self, max_bytes: int = 0) -> str:
        """Returns the end of what the process wrote to its own stdout and stderr; 0: all that is kept."""
        limit_bytes = 2 * MAX_LOG_BYTES  # which what is written until it is trimmed may be far beyond
        wanted_bytes = min(max_bytes or limit_bytes, limit_bytes)
        try:
            with open(self._log_path, "rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                file.seek(max(0, size_bytes - wanted_bytes))
                return file.read(wanted_bytes).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def append_to_log(self, text: str) -> None:
        """Adds to its log what did not go to the notebook. What cannot be written is lost."""
        with contextlib.suppress(OSError), open(self._log_path, "a", errors="replace") as log:
            log.write(text)

    @property
    def temporary_folder(self) -> Path:
        """Where its processes have their temporary files."""
        return self._folders.temporary

    def trim_log(self) -> None:
        """Cuts the log back where it is too long. What is written meanwhile may be lost; what follows is appended."""
        if _size(self._log_path) > MAX_LOG_BYTES:
            with open(self._log_path, "r+b") as file:
                file.seek(-(MAX_LOG_BYTES // 4), os.SEEK_END)
                kept = file.read()
                file.seek(0)
                file.write(kept)
                file.truncate()

    def exit(self) -> KernelExit:
        """Returns how it ended, once it has."""
        code = self.ended.result()
        return KernelExit(
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            stderr_tail=self.log_tail(STDERR_TAIL_BYTES).strip(),
            asked_for=self.ending_asked_for,
            ended_because=self.ended_because,
        )

    async def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Waits until it answers, on its output socket as well.

        Raises:
            KernelFailedError: It ended, or did not answer in time.
        """
        heard: set[Channel] = set()
        both = self._loop.create_future()

        def on_message(channel: Channel, parts: list[bytes]) -> None:
            heard.add(channel)
            if channel is Channel.SHELL:
                self.python_version = json.loads(parts[3])["language_info"]["version"]
            if {Channel.SHELL, Channel.IOPUB} <= heard and not both.done():
                both.set_result(None)

        self.channels.on_message = on_message
        deadline = self._loop.time() + timeout_s
        if self._is_apart:
            await self._connect_sealed(deadline, timeout_s)
        # What the kernel publishes before the subscription arrives is lost, so it is asked until both have come.
        while not both.done():
            self.channels.send(Channel.SHELL, message_parts("kernel_info_request", {}))
            await asyncio.wait(
                {both, self.ended}, timeout=2.0 if not heard else 0.1, return_when=asyncio.FIRST_COMPLETED
            )
            if self.ended.done():
                raise self._failed(f"the kernel of {self.python} ended while it started")
            if self._loop.time() > deadline:
                raise self._failed(f"the kernel of {self.python} did not answer within {timeout_s:g} s")

    async def _connect_sealed(self, deadline: float, timeout_s: float) -> None:
        while not self._folders.listens:
            await asyncio.wait({self.ended}, timeout=_LISTENS_POLL_S)
            if self.ended.done():
                raise self._failed(f"the kernel of {self.python} ended while it started")
            if self._loop.time() > deadline:
                raise self._failed(f"the kernel of {self.python} did not listen within {timeout_s:g} s")
        if isinstance(self._process, SandboxedProcess):
            if not await asyncio.to_thread(self._process.find):
                raise self._failed(f"the kernel of {self.python} ended while it started")
            self._write_record(self._process.pid)
        if wrong := self._folders.seal_sockets():
            raise self._failed(f"the kernel of {self.python} is not talked to: {wrong}")
        self.channels.connect()

    async def assign(self, variables: Mapping[str, str], working_folder: Path, blobs_folder: Path | None) -> None:
        """Makes it a session's, with these environment variables, in this folder, and with its user's blobs.

        Raises:
            KernelFailedError: It ended, refused, or did not answer.
        """
        replied: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        idle = self._loop.create_future()
        content: dict[str, Any] = {
            "environment_variables": dict(variables),
            "working_folder": str(working_folder),
            "outlives_agent": self._launcher.kernels_outlive_agent,
        }
        if blobs_folder is not None:
            content["blobs_folder"] = str(blobs_folder)
        parts = message_parts("nbgpu_assign_request", content)
        message_id = json.loads(parts[0])["msg_id"]

        def on_message(channel: Channel, received: list[bytes]) -> None:
            if json.loads(received[1]).get("msg_id") != message_id:
                return
            if channel is Channel.SHELL and not replied.done():
                replied.set_result(json.loads(received[3]))
            elif channel is Channel.IOPUB and b'"idle"' in received[3] and not idle.done():
                idle.set_result(None)

        self.channels.on_message = on_message
        self.channels.send(Channel.SHELL, parts)
        both = asyncio.gather(replied, idle)
        try:
            await asyncio.wait({both, self.ended}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if not both.done():
                raise self._failed("the kernel ended, or did not answer, when it was given to its session")
            reply = replied.result()
        finally:
            both.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await both
        if reply["status"] != "ok":
            raise self._failed(f"the kernel refused its session: {reply['ename']}: {reply['evalue']}")
        self.channels.in_order = True

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
        self._folders.remove()

    def left_behind(self) -> list[tuple[Channel, list[bytes]]]:
        """Returns what it wrote down while it had no agent, and could not say before it ended."""
        found = []
        with acting(self.os_user):
            for number, channel, parts in read_outbox_files(self._folders.own, 2 * self._launcher.journal_bytes):
                if number > self.channels.number:
                    self.channels.number = number
                    found.append((channel, parts))
        return found

    def leave(self) -> None:
        """Closes the sockets, and leaves the kernel to the next agent. Idempotent."""
        self.channels.close()
        self.acknowledgement.close()
        self._launcher.forget(self)

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
        record = {
            "id": self.id,
            "pid": pid,
            "start_time": start_time(pid) if pid is not None else None,
            "runtime_folder": str(self._folders.runtime),
            "user": [self.os_user.uid, self.os_user.gid] if self.os_user is not None else None,
            "sandboxed": self.sandboxed,
        }
        new = self._folders.record.with_name(f"{RECORD_FILE}.new")
        new.write_text(json.dumps(record))
        new.replace(self._folders.record)  # whole or not at all, for whoever comes after a kill

    def _failed(self, message: str) -> KernelFailedError:
        tail = self.log_tail(STDERR_TAIL_BYTES).strip()
        hint = "`%gpu restart` tries again"
        if "No module named 'ipykernel" in tail or "No module named 'zmq" in tail:
            hint = f"{self.python} -m pip install ipykernel"
        return KernelFailedError(f"{message}:\n{tail}" if tail else message, hint)


class KernelLauncher:
    """Starts kernels, holds spare ones, and knows their folders.

    Args:
        folder: In which each kernel gets a folder of its own. The launcher's alone.
        environment_variables: Names that are passed on to kernels, beside the usual ones.
        spare_kernels: How many kernels are held ready.
        default_python: Interpreter of kernels that none is asked for.
        blobs_folder: The owner's store, from which kernels take large values and to which they put them; those of
            other users have a store beside it.
        journal_bytes: How much of what it says a kernel keeps while there is no agent.
        kernels_outlive_agent: Whether a session's kernel waits for the next agent when this one is killed.
        isolation: As whom kernels run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        environment_variables: Sequence[str],
        spare_kernels: int,
        default_python: str,
        blobs_folder: Path | None = None,
        journal_bytes: int = DEFAULT_LIMIT_BYTES,
        kernels_outlive_agent: bool = False,
        isolation: Isolation | None = None,
    ) -> None:
        self.isolation = isolation or Isolation()
        self.blobs_folder = blobs_folder
        self.journal_bytes = journal_bytes
        self.kernels_outlive_agent = kernels_outlive_agent
        self.context: zmq.Context[Any] = zmq.Context(io_threads=1)
        self.context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        self.process_table = ProcessTable()
        self._folder = folder
        self._environment_variables = tuple(environment_variables)
        # One that runs before it is known whose it will be cannot be somebody else's any more.
        self._spare_kernels = 0 if self.isolation.is_on else spare_kernels
        self._default_python = default_python
        self._kernels: dict[str, Kernel] = {}
        self._spares: collections.deque[Kernel] = collections.deque()
        self._spare_python = default_python
        self._failed_spares = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._refill: asyncio.Task[None] | None = None
        self._trimming: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def spares_ready(self) -> int:
        return len(self._spares)

    async def start_spares(self) -> None:
        """Starts the spare kernels in the background."""
        self._start_refill()

    async def close(self) -> None:
        """Ends every kernel that is left, spare or not. Idempotent."""
        self._closed = True
        for task in (*self._tasks, self._trimming):
            if task is not None:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._trimming is not None:
            await asyncio.gather(self._trimming, return_exceptions=True)
        await asyncio.gather(*(kernel.end() for kernel in list(self._kernels.values())))
        self._spares.clear()
        self.context.destroy(linger=0)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    async def take(
        self,
        python: str,
        working_folder: Path,
        variables: Mapping[str, str],
        *,
        owner: str = "",
        accelerators: Sequence[Accelerator] = (),
    ) -> Kernel:
        """Returns a kernel that is ready, in the folder and with the variables: a spare one, or a new one.

        Args:
            python: Path of the interpreter; empty: the default.
            working_folder: Of its session.
            variables: Environment variables, besides those that every kernel has.
            owner: The user whose blobs it reads; empty: the agent's owner.
            accelerators: Of its session, whose devices it sees where it sees none else.

        Raises:
            KernelFailedError: It does not start.
            IsolationError: There is no user of the operating system for the owner, or no device of an accelerator.
        """
        python = python or self._default_python
        os_user = self.isolation.os_user(owner)
        blobs_folder = folder_of(self.blobs_folder, owner) if self.blobs_folder is not None else None
        if blobs_folder is not None and os_user is not None:
            own_folder(blobs_folder, os_user, replace=True)
        while (spare := self._pop_spare(python)) is not None:
            try:
                await spare.assign(variables, working_folder, blobs_folder)
            except KernelFailedError:  # it ended this moment
                await spare.end()
            except BaseException:
                await spare.end()
                raise
            else:
                self._start_refill(python)
                return spare
        confinement = find_confinement(self.isolation, owner, working_folder, accelerators)
        kernel = await self._start(python, os_user, confinement)
        try:
            await kernel.assign(variables, working_folder, blobs_folder)
        except BaseException:
            await kernel.end()
            raise
        self._start_refill(python)
        return kernel

    def adopt(self, record: KernelRecord, python: str) -> Kernel:
        """Takes over a kernel that an earlier agent started, and that runs.

        Args:
            record: What that agent wrote down.
            python: Path of its interpreter.
        """
        assert record.pid is not None
        assert record.started is not None
        process = AdoptedProcess(record.pid, record.started)
        kernel = Kernel(
            record.id,
            self._folder / record.id,
            python or self._default_python,
            {},
            self,
            os_user=record.os_user,
            adopted=process,
            runtime_folder=record.runtime_folder,
            sandboxed=record.sandboxed,
        )
        self._kernels[kernel.id] = kernel
        self._start_trimming()
        return kernel

    def check_os_user(self, kernel: Kernel, owner: str) -> None:
        """Refuses a kernel that runs as another user than a new one of the owner would.

        Raises:
            LookupError: It does: what is configured has changed.
        """
        wanted = self.isolation.os_user(owner)
        if kernel.uid != (wanted.uid if wanted is not None else None):
            raise LookupError("sessions of its owner run as another user of the operating system by now")
        if kernel.sandboxed != (self.isolation.bubblewrap is not None):
            raise LookupError(f"sessions run {'outside of' if kernel.sandboxed else 'in'} sandboxes by now")

    def make_folder(self, session_id: str, owner: str = "") -> Path:
        """Makes a session's own folder, to work in. Removed by `remove_folder`."""
        return own_folder(self._folder / f"session-{session_id}", self.isolation.os_user(owner))

    def remove_folder(self, session_id: str) -> None:
        shutil.rmtree(self._folder / f"session-{session_id}", ignore_errors=True)

    def forget(self, kernel: Kernel) -> None:
        """Called by a kernel that has ended and cleaned up."""
        self._kernels.pop(kernel.id, None)
        with contextlib.suppress(ValueError):
            self._spares.remove(kernel)

    def _pop_spare(self, python: str) -> Kernel | None:
        for spare in self._spares:
            if spare.python == python and spare.alive:
                self._spares.remove(spare)
                return spare
        return None

    async def _start(
        self, python: str, os_user: OsUser | None = None, confinement: Confinement | None = None
    ) -> Kernel:
        if self._closed:
            raise KernelFailedError("the agent is ending and starts no kernels")
        if os_user is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            passable(self._folder)
        kernel_id = secrets.token_hex(8)
        named = confinement.user if confinement is not None else os_user
        variables = base_variables(os.environ, self._environment_variables, Path(python), named)
        folder = self._folder / kernel_id
        try:
            kernel = Kernel(kernel_id, folder, python, variables, self, os_user=os_user, confinement=confinement)
        except OSError as error:
            shutil.rmtree(self._folder / kernel_id, ignore_errors=True)
            raise KernelFailedError(
                f"the interpreter {python} cannot be run{_as_whom(os_user)}: {error.strerror or error}",
                "name one that exists, by its path",
            ) from error
        self._kernels[kernel_id] = kernel
        self._start_trimming()
        try:
            await kernel.wait_ready()
        except BaseException:
            await kernel.end(grace_s=0.0)
            raise
        return kernel

    def _start_refill(self, python: str | None = None) -> None:
        """Has spare kernels replaced that were taken, that died, or that are of another interpreter than the last."""
        if python is not None:
            self._spare_python, self._failed_spares = python, 0
        if self._closed or self._spare_kernels <= 0 or (self._refill is not None and not self._refill.done()):
            return
        self._refill = asyncio.create_task(self._fill_spares())
        self._tasks.add(self._refill)
        self._refill.add_done_callback(self._tasks.discard)

    async def _fill_spares(self) -> None:
        while not self._closed:
            for spare in [spare for spare in self._spares if spare.python != self._spare_python or not spare.alive]:
                self._spares.remove(spare)
                await spare.end(grace_s=0.0)
            if len(self._spares) >= self._spare_kernels or self._failed_spares >= _MAX_FAILED_SPARES:
                return
            try:
                spare = await self._start(self._spare_python)
            except KernelFailedError:  # whoever asks for a kernel will be told
                self._failed_spares += 1
                continue
            spare.ended.add_done_callback(lambda ended: self._start_refill())
            self._spares.append(spare)

    def _start_trimming(self) -> None:
        if self._trimming is None:
            self._trimming = asyncio.create_task(self._trim_logs())

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOG_TRIM_INTERVAL_S)
            for kernel in list(self._kernels.values()):
                with contextlib.suppress(OSError):
                    kernel.trim_log()


@dataclass(frozen=True)
class KernelRecord:
    """What an agent writes down of a kernel, so that the next one finds it."""

    id: str
    pid: int | None
    started: float | None
    """When the process was started, by which it is told from a later one of the same number."""
    runtime_folder: Path
    os_user: OsUser | None = None
    """As whom it runs, as far as files need it; None: as the agent."""
    sandboxed: bool = False

    @property
    def runs(self) -> bool:
        return self.pid is not None and self.started is not None and start_time(self.pid) == self.started


def read_kernel_record(folder: Path, kernel_id: str) -> KernelRecord | None:
    """Returns the record of a kernel; None where there is none that can be read."""
    try:
        record = json.loads((folder / kernel_id / RECORD_FILE).read_text())
        pid, started, user = record["pid"], record["start_time"], record.get("user")
        return KernelRecord(
            str(record["id"]),
            pid if isinstance(pid, int) else None,
            started if isinstance(started, float) else None,
            Path(record["runtime_folder"]),
            OsUser("", int(user[0]), int(user[1]), Path()) if user is not None else None,
            record.get("sandboxed") is True,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def reap_leftovers(folder: Path, spared: Collection[str] = ()) -> list[str]:
    """Ends every process and removes every folder that an agent left which was killed. Blocks.

    Called before the folder's next agent starts kernels. Processes are found by the kernel's random marker, or by
    number and start time, so that none is hit that was given the number since.

    Args:
        folder: Of all kernels.
        spared: Names of folders in it that are adopted.

    Returns:
        What was ended and removed, in words.
    """
    done: list[str] = []
    if not folder.is_dir():
        return done
    for kernel_folder in sorted(folder.iterdir()):
        if kernel_folder.name in spared:
            continue
        record = read_kernel_record(folder, kernel_folder.name) or KernelRecord(
            kernel_folder.name, None, None, kernel_folder
        )
        if record.runs:
            assert record.pid is not None
            signal_process(record.pid, signal.SIGKILL)
        ended = end_processes_now([record.id])
        if ended:
            done.append(f"ended {len(ended)} processes of kernel {record.id}: {', '.join(map(str, ended))}")
        if record.runtime_folder != kernel_folder and _is_short_folder(record.runtime_folder, record.id):
            shutil.rmtree(record.runtime_folder, ignore_errors=True)
            done.append(f"removed {record.runtime_folder}")
        shutil.rmtree(kernel_folder, ignore_errors=True)
        done.append(f"removed {kernel_folder}")
    return done


def _is_short_folder(folder: Path, kernel_id: str) -> bool:
    """Says whether it is the kernel's folder as Kernel makes it, so that a damaged record removes nothing else."""
    return (
        folder.name == f"{SHORT_FOLDER_PREFIX}{kernel_id}"
        and folder.is_dir()
        and not folder.is_symlink()
        and folder.stat().st_uid == os.getuid()
    )


def _as_whom(os_user: OsUser | None) -> str:
    return f" by {os_user.name} (user id {os_user.uid})" if os_user is not None else ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
