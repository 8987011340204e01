"""The owner of every kernel: starts them for sessions, adopts an earlier agent's, and ends all that are left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq

from nbgpu_agent.background_tasks import BackgroundTasks
from nbgpu_agent.errors import KernelFailedError
from nbgpu_agent.isolation.choosing import Isolation
from nbgpu_agent.isolation.device_cgroups import DeviceCgroups
from nbgpu_agent.isolation.os_user import OsUser, own_folder, passable
from nbgpu_agent.journal import DEFAULT_LIMIT_BYTES
from nbgpu_agent.kernel_confinement import Confinement, find_confinement
from nbgpu_agent.kernel_environment import base_variables
from nbgpu_agent.kernel_processes import AdoptedProcess
from nbgpu_agent.kernel_records import KernelRecord
from nbgpu_agent.kernel_start import assign, wait_ready
from nbgpu_agent.kernels import Kernel, KernelCommons
from nbgpu_agent.model import Accelerator
from nbgpu_agent.processes import ProcessTable
from nbgpu_agent.spare_kernels import SpareKernels
from nbgpu_agent.user_blobs import folder_of

_LOG_TRIM_INTERVAL_S = 5.0
_GROUP_LOOK_S = 0.02
_GROUP_LOOKS = 100
"""What was killed leaves its group a moment later; kernels that are left to the next agent stay in theirs."""
_MAX_SOCKETS = 1 << 16
"""zmq's own 1023 are those of 170 kernels."""


class KernelLauncher:
    """All kernels of an agent, and the folders that they and their sessions have.

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
        context: zmq.Context[Any] = zmq.Context(io_threads=1)
        context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        self._common = KernelCommons(context, ProcessTable(), journal_bytes)
        self._kernels_outlive_agent = kernels_outlive_agent
        self._folder = folder
        self._environment_variables = tuple(environment_variables)
        self._default_python = default_python
        # One that runs before it is known whose it will be cannot be somebody else's any more.
        count = 0 if self.isolation.is_on else spare_kernels
        self._spares = SpareKernels(count, default_python, self._start)
        self._device_cgroups = DeviceCgroups()
        self._kernels: dict[str, Kernel] = {}
        self._trimming = BackgroundTasks()
        self._closed = False

    @property
    def spares_ready(self) -> int:
        return len(self._spares)

    async def start_spares(self) -> None:
        """Removes what earlier agents left of groups, and starts the spare kernels in the background."""
        self._device_cgroups.remove_leftovers()
        self._spares.replenish()

    async def close(self) -> None:
        """Ends every kernel that is left, spare or not. Idempotent."""
        self._closed = True
        await self._spares.close()
        await self._trimming.cancel()
        await asyncio.gather(*(kernel.end() for kernel in list(self._kernels.values())))
        for _ in range(_GROUP_LOOKS):
            if self._device_cgroups.tidy():
                break
            await asyncio.sleep(_GROUP_LOOK_S)
        self._common.context.destroy(linger=0)
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
        while (spare := self._spares.take(python)) is not None:
            with contextlib.suppress(KernelFailedError):  # it ended this moment
                await self._assign(spare, variables, working_folder, blobs_folder)
                self._spares.replenish(python)
                return spare
        confinement = find_confinement(
            self.isolation, owner, working_folder, accelerators, ends_with_agent=not self._kernels_outlive_agent
        )
        kernel = await self._start(python, os_user, confinement, accelerators)
        await self._assign(kernel, variables, working_folder, blobs_folder)
        self._spares.replenish(python)
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
            self._common,
            on_left=self._forget,
            os_user=record.os_user,
            adopted=process,
            runtime_folder=record.runtime_folder,
            sandboxed=record.sandboxed,
        )
        self._hold(kernel)
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

    def _hold(self, kernel: Kernel) -> None:
        self._kernels[kernel.id] = kernel
        if not self._trimming:
            self._trimming.begin(self._trim_logs())

    def _forget(self, kernel: Kernel) -> None:
        self._kernels.pop(kernel.id, None)
        self._spares.forget(kernel)
        self._device_cgroups.leave(kernel.id)

    async def _assign(
        self, kernel: Kernel, variables: Mapping[str, str], working_folder: Path, blobs_folder: Path | None
    ) -> None:
        try:
            await assign(kernel, variables, working_folder, blobs_folder, outlives_agent=self._kernels_outlive_agent)
        except BaseException:
            await kernel.end()
            raise

    async def _start(
        self,
        python: str,
        os_user: OsUser | None = None,
        confinement: Confinement | None = None,
        accelerators: Sequence[Accelerator] = (),
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
        devices = (
            self._device_cgroups.entered(kernel_id, accelerators) if os_user is not None else contextlib.nullcontext()
        )
        try:
            with devices:
                kernel = Kernel(
                    kernel_id,
                    self._folder / kernel_id,
                    python,
                    variables,
                    self._common,
                    on_left=self._forget,
                    os_user=os_user,
                    confinement=confinement,
                )
        except OSError as error:
            self._device_cgroups.leave(kernel_id)
            shutil.rmtree(self._folder / kernel_id, ignore_errors=True)
            raise KernelFailedError(
                f"the interpreter {python} cannot be run{_as_whom(os_user)}: {error.strerror or error}",
                "name one that exists, by its path",
            ) from error
        self._hold(kernel)
        try:
            await wait_ready(kernel)
        except BaseException:
            await kernel.end(grace_s=0.0)
            raise
        return kernel

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOG_TRIM_INTERVAL_S)
            for kernel in list(self._kernels.values()):
                with contextlib.suppress(OSError):
                    kernel.log.trim()


def _as_whom(os_user: OsUser | None) -> str:
    return f" by {os_user.name} (user id {os_user.uid})" if os_user is not None else ""
