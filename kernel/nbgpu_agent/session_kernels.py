"""The kernels of a session, one after the other: each is started in the session's folder and setting, and retired."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import psutil

from nbgpu_agent.channels import Channel, message_parts
from nbgpu_agent.errors import KernelDiedError, KernelFailedError
from nbgpu_agent.isolation.os_user import OsUser
from nbgpu_agent.kernel_launcher import KernelLauncher
from nbgpu_agent.kernels import Kernel
from nbgpu_agent.model import Accelerator, EnvironmentFacts, KernelExit, KernelSetting, KernelState, SessionRequest
from nbgpu_agent.session_state import SessionState
from nbgpu_agent.stacks import Stacks

_DRAIN_TIMEOUT_S = 1.0
_KEPT_LOG_BYTES = 1 << 20


class KernelUser(Protocol):
    """The session, as far as its kernels go."""

    @property
    def is_executing(self) -> bool: ...

    def on_message(self, channel: Channel, parts: list[bytes]) -> None:
        """Takes what a kernel says."""

    def on_kernel_ended(self) -> None:
        """Is told that there is no kernel any more, after its last message; what it left is removed after this."""

    def on_change(self) -> None:
        """Is told after every change."""


class SessionKernels:
    """A session's kernel, which may be missing: before the first, between two, and after one that ended.

    Attributes:
        kernel: None: there is none now.
        generation: How many there have been.
        exit: How the last one ended; None: it lives, or there was none.
        python_version: Of the last one.
        working_folder: Where they work; None: not made yet.
        setting: Of the next one, and of the one that runs.
        environment: What they run in, or how far that is built.
        closing: Whether there will be no other.
    """

    def __init__(self, session_id: str, request: SessionRequest, launcher: KernelLauncher, user: KernelUser) -> None:
        self.kernel: Kernel | None = None
        self.generation = 0
        self.exit: KernelExit | None = None
        self.python_version = ""
        self.working_folder: Path | None = None
        self.setting = KernelSetting(python=request.python)
        self.environment = EnvironmentFacts()
        self.closing = False
        self._session_id = session_id
        self._owner = request.owner
        self._launcher = launcher
        # Another's sandbox has none that was asked for: it would be anybody's.
        self._asked_folder = "" if self.confined and self._owner else request.working_folder
        self._user = user
        self._starting = True
        self._taking: asyncio.Task[Kernel] | None = None
        self._retirements: dict[str, asyncio.Task[None]] = {}
        self._last_log = ""
        self._number = 0

    def restore(self, state: SessionState) -> None:
        """Goes on where an earlier agent was, for now without a kernel."""
        self.generation = state.generation
        self.exit = state.kernel_exit
        self.python_version = state.python_version
        self.working_folder = Path(state.working_folder)
        self.setting = state.setting
        self._number = state.kernel_number
        if self.setting.environment:
            self.environment = _facts_of(self.setting.environment)
        self._starting = False

    @property
    def state(self) -> KernelState:
        if self.kernel is None:
            return KernelState.STARTING if self._starting else KernelState.DEAD
        return KernelState.EXECUTING if self._user.is_executing else KernelState.IDLE

    @property
    def os_user(self) -> OsUser | None:
        """As whom they run, and who their files are; None: the agent."""
        return self._launcher.isolation.os_user(self._owner)

    @property
    def confined(self) -> bool:
        """Whether they run in sandboxes, and their files are to be reached by no link that leads out."""
        return self._launcher.isolation.bubblewrap is not None

    def make_working_folder(self) -> Path:
        """Returns the folder that they work in: the one that was asked for, else one of the session's own."""
        asked = Path(self._asked_folder) if self._asked_folder else None
        if asked is not None and asked.is_dir():
            return asked
        return self._launcher.make_folder(self._session_id, self._owner)

    def folders(self) -> list[Path]:
        """Returns the folders on the node that are their own: to work in, unless that is another's, and temporary."""
        found = [self.kernel.temporary_folder] if self.kernel is not None else []
        if self.working_folder is not None and not self._asked_folder:
            found.append(self.working_folder)
        return found

    def processes(self) -> list[psutil.Process]:
        """Returns the kernel's process and all that came from it; the same objects from call to call."""
        kernel = self.kernel  # read once: the sampler asks from a thread of its own
        return kernel.processes() if kernel is not None else []

    async def stacks(self) -> Stacks:
        """Returns the Python stacks of the kernel's threads, and of its ranks.

        Raises:
            KernelDiedError: There is no kernel, or it does not answer.
        """
        if self.kernel is None:
            raise KernelDiedError("the session has no kernel now", "`%gpu restart` starts one")
        return await self.kernel.stacks()

    def log_tail(self, max_bytes: int) -> str:
        """Returns the end of what the kernel's process, or the last one's, wrote outside of cells; 0: all of it."""
        if self.kernel is not None:
            return self.kernel.log.tail(max_bytes)
        return self._last_log[-max_bytes:] if max_bytes else self._last_log

    async def start(self, variables: Mapping[str, str], accelerators: Sequence[Accelerator] = ()) -> None:
        """Starts one, where there is none.

        Args:
            variables: Environment variables that tell it what the session holds.
            accelerators: Which those are.

        Raises:
            KernelFailedError: It does not start; nothing of it is left.
        """
        assert self.kernel is None
        if self.working_folder is None:
            self.working_folder = self.make_working_folder()
        self._starting = True
        self._user.on_change()
        try:
            kernel = await self._take(self.working_folder, variables, accelerators)
        except BaseException:
            if self.generation == 0:
                self._launcher.remove_folder(self._session_id)
            raise
        finally:
            self._starting = False
        self.generation += 1
        self.exit = None
        self.python_version = kernel.python_version
        self._hold(kernel)
        if self.setting.path_entries or self.setting.variables:
            self._send_setting(kernel)

    async def _take(
        self, working_folder: Path, variables: Mapping[str, str], accelerators: Sequence[Accelerator]
    ) -> Kernel:
        python, owner = self.setting.python, self._owner
        taking = self._taking = asyncio.ensure_future(
            self._launcher.take(python, working_folder, variables, owner=owner, accelerators=accelerators)
        )
        try:
            await asyncio.wait({taking})
            return taking.result()
        except BaseException as error:
            taking.cancel()
            await asyncio.wait({taking})
            if not taking.cancelled() and taking.exception() is None:
                await taking.result().end(grace_s=0.0)
            if isinstance(error, asyncio.CancelledError) and self.closing:
                raise KernelFailedError("the session was closed while its kernel started") from error
            raise
        finally:
            self._taking = None

    def adopt(self, kernel: Kernel) -> None:
        """Takes over the one that an earlier agent had, after the last of its messages that is known."""
        kernel.python_version = self.python_version
        kernel.channels.number = self._number
        kernel.channels.in_order = True
        self._hold(kernel)

    def _hold(self, kernel: Kernel) -> None:
        self.kernel = kernel
        kernel.channels.on_message = self._user.on_message
        kernel.ended.add_done_callback(lambda ended: self.retire(kernel))

    def leave(self) -> None:
        """Leaves the kernel to the next agent."""
        kernel, self.kernel = self.kernel, None
        if kernel is not None:
            kernel.leave()

    def update(self, setting: KernelSetting, changed_files: Sequence[str] = ()) -> None:
        """Gives another setting to the next ones, and to the one that runs, before any message sent later.

        Args:
            changed_files: Of local modules: they are imported anew.
        """
        previous, self.setting = self.setting, setting
        if setting.environment and setting.environment != previous.environment:
            self.note_environment(_facts_of(setting.environment))
        if self.kernel is not None and self.kernel.alive and (setting != previous or changed_files):
            self._send_setting(self.kernel, changed_files)

    def note_environment(self, environment: EnvironmentFacts) -> None:
        """Notes what they run in, or how far that is built."""
        self.environment = environment
        self._user.on_change()

    def _send_setting(self, kernel: Kernel, changed_files: Sequence[str] = ()) -> None:
        content = {
            "variables": dict(self.setting.variables),
            "environment": self.setting.environment,
            "path_entries": list(self.setting.path_entries),
            "local_folders": [str(self.working_folder), *self.setting.path_entries],
            "changed_files": list(changed_files),
        }
        kernel.channels.send(Channel.SHELL, message_parts("nbgpu_update_request", content))

    async def end(self, because: str = "") -> None:
        """Ends the kernel with all its processes, if there is one. The session stays.

        Args:
            because: Why, if its person did not ask for that; to stand behind "the session's kernel was ended ".
        """
        kernel = self.kernel
        if kernel is None or (because and not kernel.alive):
            return
        if because:
            kernel.ended_because = because
        else:
            kernel.ending_asked_for = True
        await self.retire(kernel)

    def begin_closing(self) -> None:
        """Stops the start of one, if it is on its way. `close` does the rest."""
        self.closing = True
        if self._taking is not None:
            self._taking.cancel()

    async def close(self) -> None:
        """Ends the kernel, and removes the session's folder."""
        self._starting = False
        await self.end()
        self._launcher.remove_folder(self._session_id)

    def retire(self, kernel: Kernel) -> asyncio.Task[None]:
        """Ends a kernel or what it left, hands out its last messages, and tells its end. Once for each kernel."""
        retirement = self._retirements.get(kernel.id)
        if retirement is None:
            retirement = self._retirements[kernel.id] = asyncio.ensure_future(self._retire(kernel))
        return retirement

    async def _retire(self, kernel: Kernel) -> None:
        asked_for = kernel.ending_asked_for
        await kernel.end_processes(grace_s=0.0 if self._user.is_executing else 0.3)
        # With the last process that held the output socket, zmq gets what was sent, and then the end.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _DRAIN_TIMEOUT_S
        while not kernel.channels.disconnected() and loop.time() < deadline:  # noqa: ASYNC110 - zmq calls nobody
            await asyncio.sleep(0.002)
        kernel.channels.drain()
        for channel, parts in kernel.left_behind():
            self._user.on_message(channel, parts)
        kernel.ending_asked_for = asked_for
        self.exit = kernel.exit()
        self._last_log = kernel.log.tail(_KEPT_LOG_BYTES)
        self.kernel = None
        self._user.on_kernel_ended()
        await kernel.end(grace_s=0.0)
        self._user.on_change()


def _facts_of(environment: str) -> EnvironmentFacts:
    """Returns what is told of a virtual environment that is built; some µs for each of its distributions."""
    distributions = Path(environment).glob("lib/python*/site-packages/*.dist-info")
    return EnvironmentFacts(own=True, package_count=sum(1 for _ in distributions))
