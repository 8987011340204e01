"""A folder for all that a benchmark's kernels and agent write, and variables that point everything there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from nbgpu.client.embedded import find_agent
from nbgpu.client.pool import Pool

_FOLDERS = ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "TMPDIR")
_NOT_SET = ("NBGPU_AGENT_ADDRESS", "NBGPU_AGENT_TOKEN", "PYTHONDONTWRITEBYTECODE")
SETTLED_WITHIN_S = 60


@contextlib.contextmanager
def workplace(*, spare_kernels: int = 1, **settings: float | str) -> Iterator[Path]:
    """Changes the environment variables of this process for as long as it lasts; at its end the agent is ended.

    One within another has an agent of its own.

    Args:
        spare_kernels: The agent's setting.
        settings: More of them, by the names of its options.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="nbgpu-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            for variable in _FOLDERS:
                path = folder / variable.lower()
                path.mkdir(mode=0o700)
                os.environ[variable] = str(path)
            for variable in _NOT_SET:
                os.environ.pop(variable, None)
            os.environ["NBGPU_AGENT_DIR"] = str(folder / "agent")
            os.environ["NBGPU_SIMULATE"] = "H100x1"
            configuration = {"AgentApp": {"spare_kernels": spare_kernels, **settings}}
            (folder / "jupyter_config_dir" / "nbgpu_config.json").write_text(json.dumps(configuration))
            yield folder
        finally:
            asyncio.run(_end_agent())
            os.environ.clear()
            os.environ.update(before)


async def _end_agent() -> None:
    record = await find_agent()
    if record is None:
        return
    async with Pool(record.address, record.token) as pool:
        await pool.shut_down(close_sessions=True)
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        psutil.Process(record.pid).wait(timeout=SETTLED_WITHIN_S)


def agent_process() -> psutil.Process:
    """Returns the process of the agent that runs here."""
    record = asyncio.run(find_agent())
    if record is None:
        raise RuntimeError("no agent runs")
    return psutil.Process(record.pid)


def wait_until_settled(*, kernels: int) -> None:
    """Waits until the agent has that many kernels, and neither they nor it compute any more.

    An agent says nothing about its spare kernels, so a spare one is taken to be ready when it has stopped computing.
    """
    agent = agent_process()
    deadline = time.monotonic() + SETTLED_WITHIN_S
    before: dict[int, float] = {}
    while time.monotonic() < deadline:
        # The one that watches over the agent is no kernel.
        children = [each for each in agent.children() if not _is_guardian(each)]
        now = {process.pid: sum(process.cpu_times()[:2]) for process in [agent, *children]}
        at_rest = now.keys() == before.keys() and all(now[pid] - before[pid] < 0.03 for pid in now)
        if at_rest and len(now) == kernels + 1:
            return
        before = now
        time.sleep(0.5)
    raise RuntimeError(f"the agent has {len(before) - 1} kernels and not {kernels}, or they never came to rest")


def _is_guardian(process: psutil.Process) -> bool:
    return any(part.endswith("guardian.py") for part in process.cmdline())
