"""Runs uv: finds it, gives it the agent's own settings, follows what it says, and ends it when nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbgpu_agent.environments.plan import Python
from nbgpu_agent.errors import BuildFailedError
from nbgpu_agent.isolation.bubblewrap import pythons_folder
from nbgpu_agent.isolation.os_user import OsUser, acting
from nbgpu_agent.isolation.sandbox import Sandbox
from nbgpu_agent.kernel_environment import ALLOWED_NAMES
from nbgpu_agent.processes import MARKER_VARIABLE
from nbgpu_agent.tokens import TOKEN_VARIABLE

_KEPT_LINES = 400
_END_GRACE_S = 5.0
# Of the environment that the agent itself runs in: uv would install there.
_NOT_FOR_UV = frozenset(
    {"CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT", "UV_SYSTEM_PYTHON", "VIRTUAL_ENV"}
)

_SETTINGS = frozenset(
    {"ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "all_proxy", "https_proxy", "http_proxy", "no_proxy"}
)
_FOLDERS = frozenset({"UV_CACHE_DIR", "UV_PYTHON_INSTALL_DIR", "UV_TOOL_DIR", "UV_CREDENTIALS_DIR"})
"""In which the agent's user keeps what no other may change."""


@dataclass(frozen=True)
class UvResult:
    exit_code: int
    output: str
    log: str
    """Its last lines on standard error."""


class Uv:
    """uv with the settings of an environment: indexes, find-links, caches and proxies are named by its variables.

    Args:
        variables: The agent's environment variables.
        os_user: As whom it runs, since building a package runs code of it, and whose what it builds is. It is given
            their home and cache, and of the agent's variables its own settings and what every kernel gets. None: as
            the agent, with all of them.
        sandbox: In which it runs, as another user's; None: in none.
    """

    def __init__(
        self, variables: Mapping[str, str], os_user: OsUser | None = None, *, sandbox: Sandbox | None = None
    ) -> None:
        self.os_user = os_user
        self.sandbox = sandbox
        self._cache_folder: Path | None = None
        named = sandbox.user if sandbox is not None else os_user
        if named is not None:
            variables = _for_another(variables, named)
        if sandbox is not None:
            variables = {**variables, "UV_PYTHON_INSTALL_DIR": str(pythons_folder())}
        self.variables = {
            **{name: value for name, value in variables.items() if name not in _NOT_FOR_UV | {TOKEN_VARIABLE}},
            "NO_COLOR": "1",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": variables.get("UV_PYTHON_DOWNLOADS", "never"),
        }

    @property
    def as_root(self) -> bool:
        """Whether what it makes is root's, from whom no mode protects a file."""
        return self.os_user is None and os.geteuid() == 0

    def write(self, file: Path, text: str) -> None:
        """Writes a file for it to read."""
        with acting(self.os_user), open(file, "w", encoding="utf-8", opener=_open_no_link) as opened:
            opened.write(text)

    @property
    def torch_backend(self) -> str | None:
        """Returns what to pass as `--torch-backend`; None where the settings decide where torch comes from."""
        settings = ("UV_TORCH_BACKEND", "UV_OFFLINE", "UV_FIND_LINKS")
        return None if any(self.variables.get(name) for name in settings) else "auto"

    async def run(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        writable: Sequence[Path] = (),
        on_line: Callable[[str], None] | None = None,
    ) -> UvResult:
        """Runs it to its end; cancelled, it is ended with all that it started before this returns.

        Args:
            arguments: Beginning with the command.
            folder: To run in: no `uv.toml` or `pyproject.toml` is looked for above it.
            writable: Other folders that it writes to, where it runs in a sandbox.
            on_line: Called with each line on standard error.

        Raises:
            BuildFailedError: It cannot be run.
        """
        lines: deque[str] = deque(maxlen=_KEPT_LINES)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command([_binary(), *arguments, "--no-config"], folder, writable),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=folder,
                # By which its processes are found when the agent was killed.
                env={**self.variables, **self._place_of_files(folder), MARKER_VARIABLE: folder.name or "uv"},
                start_new_session=True,
                limit=1 << 20,
                **(self.os_user.process_arguments() if self.os_user is not None else {}),
            )
        except OSError as error:
            raise BuildFailedError(f"uv cannot be run: {error}", "install nbgpu anew on the node") from error
        assert process.stdout is not None
        assert process.stderr is not None
        stderr = process.stderr

        async def follow() -> None:
            while raw := await _read_line(stderr):
                line = raw.decode(errors="replace").rstrip()
                lines.append(line)
                if on_line is not None:
                    on_line(line)

        try:
            output, _ = await asyncio.gather(process.stdout.read(), follow())
            exit_code = await process.wait()
        except BaseException:
            await asyncio.shield(_end(process))
            raise
        return UvResult(exit_code, output.decode(errors="replace"), "\n".join(lines))

    def _command(self, command: list[str], folder: Path, writable: Sequence[Path]) -> list[str]:
        if self.sandbox is None:
            return command
        # Killed with the agent's thread, and its namespace with it: nothing of a build goes on.
        own = [folder] if _is_own(folder) else []
        return self.sandbox.command(command, folder=folder, writable=[*own, *writable], ends_with_agent=True)

    def _place_of_files(self, folder: Path) -> dict[str, str]:
        """Returns where builds have their temporary files: on the disk, where they would be in memory."""
        return {"TMPDIR": str(folder)} if self.sandbox is not None and _is_own(folder) else {}

    async def pythons(self, folder: Path) -> tuple[Python, ...]:
        """Returns the interpreters of this machine.

        Raises:
            BuildFailedError: uv cannot be run.
        """
        result = await self.run(
            ["python", "list", "--only-installed", "--all-versions", "--offline", "--output-format", "json"],
            folder=folder,
        )
        try:
            found = json.loads(result.output)
            return tuple(
                Python(each["version"], Path(each["path"]), each.get("implementation", "cpython"))
                for each in found
                if each.get("path") and each.get("variant", "default") == "default"
            )
        except (ValueError, KeyError, TypeError) as error:
            raise BuildFailedError(f"uv does not say which interpreters this node has:\n{result.log}") from error

    async def cache_folder(self, folder: Path) -> Path:
        """Returns where uv keeps what it has fetched; asked once.

        Raises:
            BuildFailedError: uv cannot be run.
        """
        if self._cache_folder is None:
            result = await self.run(["cache", "dir"], folder=folder)
            self._cache_folder = Path(result.output.strip())
        return self._cache_folder


def _open_no_link(path: str, flags: int) -> int:
    # What was built before may have put one there, which the agent's own rights would follow.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _is_own(folder: Path) -> bool:
    """Says whether a folder was made to run in, rather than being the machine's."""
    return folder != Path(os.path.sep)


def _for_another(variables: Mapping[str, str], os_user: OsUser) -> dict[str, str]:
    own = {
        name: value
        for name, value in variables.items()
        if name in ALLOWED_NAMES | _SETTINGS or (name.startswith(("LC_", "UV_")) and name not in _FOLDERS)
    }
    return {**own, **os_user.variables()}


@functools.cache
def _binary() -> str:
    from uv import find_uv_bin

    return os.fsdecode(find_uv_bin())


async def _read_line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than the limit, and dropped
        return b"\n"


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends uv and the builds that it runs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), _END_GRACE_S)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
