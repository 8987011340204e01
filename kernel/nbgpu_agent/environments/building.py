"""Builds an environment from its plan, in a folder that does not exist yet."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from nbgpu_agent.environments.base import link_distributions
from nbgpu_agent.environments.pip_refusal import refuse_pip
from nbgpu_agent.environments.plan import Action, Plan
from nbgpu_agent.environments.progress import DownloadRate, InstallProgress, OnProgress
from nbgpu_agent.environments.protection import can_clone, link_modes, make_read_only
from nbgpu_agent.environments.resolution import is_unreachable, refuse_unreachable
from nbgpu_agent.environments.uv import Uv
from nbgpu_agent.errors import BuildFailedError, NoSpaceError
from nbgpu_agent.isolation.os_user import acting

_LOG_LINES = 25


class Builder:
    """Builds environments with uv, and remembers how quickly their packages came.

    Nothing is compiled to .pyc here: for 115 packages `uv --compile-bytecode` takes 30 s, and what it saves is 0.6 s at
    the first start of a kernel there, which leaves the compiled files of what a kernel needs.
    """

    def __init__(self, uv: Uv) -> None:
        self._uv = uv
        self.bytes_per_s: float | None = None
        """Of the last build that downloaded enough to tell; None before."""

    async def build(self, plan: Plan, target: Path, folder: Path, on_progress: OnProgress) -> None:
        """Builds the environment in the target.

        Args:
            folder: For files that uv reads.

        Raises:
            BuildFailedError: uv fails; the message names the package and has the last lines of the log.
            NoSpaceError: The disk is full.
            UnreachableIndexError: An index does not answer.
        """
        python = str(plan.python.path)
        into = (target.parent,)
        # Relocatable: it is renamed when it is complete.
        made = await self._uv.run(
            ["venv", "--relocatable", "--python", python, str(target)], folder=folder, writable=into
        )
        if made.exit_code:
            _refuse_full_disk(made.log)
            raise BuildFailedError(f"no virtual environment can be made with {python}:\n{_tail(made.log)}")
        lines = {_name(line): line for line in plan.requirements}
        planned = {each.name: each for each in plan.distributions}
        versions = {name: planned[name].version for name in lines}
        cached = sum(planned[name].action is Action.CACHED for name in lines)
        progress, rate = InstallProgress(versions, cached), DownloadRate()
        on_progress(progress.progress())
        loop = asyncio.get_running_loop()

        def on_line(line: str) -> None:
            rate.take(line, loop.time())
            if (update := progress.take(line)) is not None:
                on_progress(update)

        cache = await self._uv.cache_folder(folder)
        clones = await asyncio.to_thread(self._can_clone, cache, folder)
        for mode, names in link_modes(lines, clones=clones, as_root=self._uv.as_root).items():
            file = folder / f"{mode}.txt"
            self._uv.write(file, "".join(f"{lines[name]}\n" for name in names))
            arguments = ["pip", "install", "--no-deps", "--requirements", str(file), "--link-mode", mode]
            arguments += ["--python", str(target / "bin/python")]
            if self._uv.torch_backend is not None and any(name.startswith("torch") for name in names):
                arguments += ["--torch-backend", self._uv.torch_backend]
            installed = await self._uv.run(arguments, folder=folder, writable=into, on_line=on_line)
            if installed.exit_code:
                _refuse_failure(installed.log, names)
        self.bytes_per_s = rate.bytes_per_s or self.bytes_per_s
        await asyncio.to_thread(self._finish, plan, target)

    def _can_clone(self, cache: Path, folder: Path) -> bool:
        with acting(self._uv.os_user):
            return can_clone(cache, folder)

    def _finish(self, plan: Plan, target: Path) -> None:
        if self._uv.sandbox is not None:
            refuse_links_out(target)
        with acting(self._uv.os_user):
            if not self._uv.as_root:
                make_read_only(target)
            if plan.base is not None:
                link_distributions(plan.base, plan.provided, target)
            refuse_pip(target)


def refuse_links_out(target: Path) -> None:
    """Refuses an environment in which the agent would write elsewhere by a link of what was built. Nothing runs there.

    Raises:
        BuildFailedError: It has a link that leads out, beside that to its interpreter.
    """
    root = Path(os.path.realpath(target.parent)) / target.name
    if root.is_symlink():
        raise BuildFailedError("a package puts a link in the place of the environment")
    stack = [root]
    while stack:
        with os.scandir(stack.pop()) as scanned:
            entries = list(scanned)
        for entry in entries:
            path = Path(entry.path)
            if entry.is_symlink():
                is_interpreter = path.parent == root / "bin" and path.name.startswith("python")
                if not is_interpreter and not Path(os.path.realpath(path)).is_relative_to(root):
                    raise BuildFailedError(f"a package puts a link into the environment, {path.relative_to(root)}")
            elif entry.is_dir(follow_symlinks=False):
                stack.append(path)


def _refuse_full_disk(log: str) -> None:
    if "No space left" in log or "os error 28" in log:
        raise NoSpaceError(f"the node's disk is full:\n{_tail(log)}", "free some space on the node, then try again")


def _refuse_failure(log: str, names: list[str]) -> None:
    _refuse_full_disk(log)
    if is_unreachable(log):
        refuse_unreachable(log)
    failed = next((name for name in names if f"`{name}==" in log or f"`{name} @" in log or f"`{name}`" in log), None)
    what = f"{failed} cannot be built" if failed else "the packages cannot be installed"
    raise BuildFailedError(
        f"{what} on the node; the last lines of the log:\n{_tail(log)}",
        f"what {failed} needs to be built must be on the node" if failed else "",
    )


def _name(requirement: str) -> str:
    return requirement.replace(" @ ", "==").partition("==")[0]


def _tail(log: str) -> str:
    return "\n".join(f"    {line}" for line in log.strip().splitlines()[-_LOG_LINES:])
