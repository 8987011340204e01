"""The sandbox that one kernel is started in: its user's, with its own folders and the devices of its session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nbgpu_agent.isolation.choosing import Isolation
from nbgpu_agent.isolation.device_files import device_files
from nbgpu_agent.isolation.os_user import OsUser
from nbgpu_agent.isolation.sandbox import Sandbox
from nbgpu_agent.kernel_folders import KernelFolders
from nbgpu_agent.model import Accelerator


@dataclass(frozen=True)
class Confinement:
    """What a kernel is started in.

    Attributes:
        sandbox: Of its user.
        working_folder: Of its session, to which it may write.
        devices: Files of /dev that it sees, beside those that every process has.
        ends_with_agent: Whether it is killed when the agent ends.
    """

    sandbox: Sandbox
    working_folder: Path
    devices: Sequence[Path]
    ends_with_agent: bool

    @property
    def user(self) -> OsUser | None:
        """Whose name and home it has; None: the agent's own."""
        return self.sandbox.user

    def command(self, arguments: Sequence[str], folders: KernelFolders) -> list[str]:
        """Returns the command that starts the kernel.

        Args:
            arguments: Which starts it outside.
            folders: The kernel's, made.
        """
        return self.sandbox.command(
            arguments,
            folder=folders.temporary,
            temporary=folders.temporary,
            readable=folders.readable,
            writable=(*folders.writable, self.working_folder),
            devices=self.devices,
            ends_with_agent=self.ends_with_agent,
        )


def find_confinement(
    isolation: Isolation,
    owner: str,
    working_folder: Path,
    accelerators: Sequence[Accelerator],
    *,
    ends_with_agent: bool,
) -> Confinement | None:
    """Returns what a kernel of the owner's is to be started in; None: in nothing.

    Raises:
        IsolationError: There is no device file of an accelerator.
    """
    sandbox = isolation.sandbox(owner)
    if sandbox is None:
        return None
    return Confinement(sandbox, working_folder, device_files(accelerators), ends_with_agent)
