# ruff: noqa: ASYNC220, ASYNC240 - nothing else runs on these loops
"""Starting kernels, spare ones, and leaving nothing behind, also after the agent was killed."""

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import psutil
import pytest

from nbgpu_agent.errors import KernelFailedError
from nbgpu_agent.kernel_environment import base_variables, lease_variables
from nbgpu_agent.kernel_launcher import KernelLauncher
from nbgpu_agent.kernel_records import reap_leftovers
from nbgpu_agent.model import Accelerator, Lease, SessionRequest
from nbgpu_agent.processes import MARKER_VARIABLE, marked_pids
from nbgpu_agent.sessions import Session
from session_clients import CPU_LEASE, DEADLINE_S, connect, run_service

GPU = Accelerator("GPU-1234", 0, "H100", "NVIDIA H100", 80 << 30)
SIMULATED = Accelerator("sim-h100-0", 0, "H100", "H100", 80 << 30, simulated=True)


async def wait_for(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)


def kernels() -> set[int]:
    """Returns the kernels of this process."""
    found = set()
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if MARKER_VARIABLE in process.environ():
                found.add(process.pid)
    return found


def marked(markers: list[str]) -> set[int]:
    return {pid for marker, pids in marked_pids().items() if marker in markers for pid in pids if _alive(pid)}


def test_a_kernel_gets_what_is_allowed_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").touch()
    variables = base_variables(
        {
            "PATH": "/usr/bin",
            "HOME": "/home/ada",
            "LC_ALL": "C.UTF-8",
            "NBGPU_AGENT_TOKEN": "secret",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HOME": "/models",
        },
        ["HF_HOME"],
        tmp_path / "bin" / "python",
    )
    assert variables == {
        "PATH": f"{tmp_path}/bin:/usr/bin",
        "HOME": "/home/ada",
        "LC_ALL": "C.UTF-8",
        "HF_HOME": "/models",
        "VIRTUAL_ENV": str(tmp_path),
    }


@pytest.mark.parametrize(
    ("accelerators", "visible", "named"),
    [((GPU,), "GPU-1234", "GPU-1234"), ((SIMULATED,), "", "sim-h100-0"), ((), "", "")],
)
def test_a_lease_is_told_to_cuda(accelerators: tuple[Accelerator, ...], visible: str, named: str) -> None:
    variables = lease_variables("s1", Lease("l", accelerators, 0.0))
    assert variables["CUDA_VISIBLE_DEVICES"] == visible
    assert variables["NBGPU_ACCELERATORS"] == named
    assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.asyncio
@pytest.mark.parametrize("spare_kernels", [0, 1])
async def test_a_session_finds_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare_kernels: int
) -> None:
    monkeypatch.setenv("NBGPU_AGENT_TOKEN", "secret")
    monkeypatch.setenv("HF_HOME", "/models")
    work = tmp_path / "work"
    work.mkdir()
    (work / "mine.py").write_text("value = 7")
    async with run_service(tmp_path, spare_kernels=spare_kernels, names=["HF_HOME"]) as service:
        if spare_kernels:
            await service.launcher.start_spares()
            await wait_for(lambda: service.launcher.spares_ready == 1)
        spares = kernels()
        session = await service.open(lease=Lease("l", (GPU,), 0.0), working_folder=str(work))
        assert session.info().working_folder == str(work)
        assert session.info().python_version == ".".join(map(str, sys.version_info[:3]))
        assert (session.processes()[0].pid in spares) is bool(spare_kernels)
        async with connect(service) as client:
            code = (
                "import json, os, subprocess, sys, mine\n"
                "env = json.loads(subprocess.check_output([sys.executable, '-c', "
                "'import json, os; print(json.dumps(dict(os.environ)))']))\n"
                "print(json.dumps([env, os.getcwd(), mine.value, sys.executable, _dh, 'torch' in sys.modules,"
                " [p for p in sys.path if 'nbgpu' in p], __name__, sys.stdin is None or sys.stdin.read()]))"
            )
            env, folder, value, python, visited, torch, paths, name, stdin = json.loads((await client.run(code)).text())
        assert env["CUDA_VISIBLE_DEVICES"] == "GPU-1234"
        assert env["NBGPU_SESSION_ID"] == "s1"
        assert env["HF_HOME"] == "/models"
        assert "NBGPU_AGENT_TOKEN" not in env
        assert (folder, visited, value, python) == (str(work), [str(work)], 7, sys.executable)
        assert (torch, paths, name, stdin) == (False, [], "__main__", "")
        assert Path(env["TMPDIR"]).is_dir()
        assert len(env["TMPDIR"]) <= 60
        assert stat.S_IMODE(Path(env["TMPDIR"]).parent.stat().st_mode) == 0o700
        await session.close("done")
        assert not Path(env["TMPDIR"]).parent.exists()
        assert work.is_dir()


@pytest.mark.asyncio
async def test_long_folders_get_short_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    try:
        async with run_service(folder) as service:
            await service.open()
            assert [path.name.startswith("nbgpu-") for path in short.iterdir()] == [True]
            async with connect(service) as client:
                assert (await client.run("print(1)")).text() == "1\n"
        assert list(short.iterdir()) == []
        assert list(folder.iterdir()) == []
    finally:
        short.rmdir()


@pytest.mark.asyncio
async def test_spares_are_replaced_when_taken_and_when_they_die(tmp_path: Path) -> None:
    async with run_service(tmp_path, spare_kernels=1) as service:
        await service.launcher.start_spares()
        await wait_for(lambda: service.launcher.spares_ready == 1)
        (spare,) = kernels()
        os.kill(spare, signal.SIGKILL)
        # The dead one is no spare any more once another has been started.
        await wait_for(lambda: kernels() - {spare} and service.launcher.spares_ready == 1)
        (spare,) = kernels() - {spare}
        session = await service.open()
        assert session.processes()[0].pid == spare
        await wait_for(lambda: service.launcher.spares_ready == 1)
        assert len(kernels()) == 2
    assert kernels() == set()


@pytest.mark.asyncio
async def test_an_interpreter_without_ipykernel_is_told_of(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    async with run_service(tmp_path) as service:
        with pytest.raises(KernelFailedError) as caught:
            await service.open(python=str(tmp_path / "bare" / "bin" / "python"))
        assert "No module named" in caught.value.message
        assert caught.value.hint.endswith("bare/bin/python -m pip install ipykernel")
        assert list((tmp_path / "kernels").iterdir()) == []


@pytest.mark.asyncio
@pytest.mark.parametrize("python", ["nowhere", "no-program", "crash"])
async def test_interpreters_that_do_not_work(tmp_path: Path, python: str) -> None:
    (tmp_path / "no-program").write_text("text")
    crash = tmp_path / "crash"
    crash.write_text("#!/bin/sh\necho it broke >&2\nexit 7\n")
    crash.chmod(0o755)
    async with run_service(tmp_path) as service:
        with pytest.raises(KernelFailedError) as caught:
            await service.open(python=str(tmp_path / python))
        assert str(tmp_path / python) in caught.value.message
        assert ("it broke" in caught.value.message) is (python == "crash")
        assert list((tmp_path / "kernels").iterdir()) == []


@pytest.mark.asyncio
async def test_closing_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "kernels"
    launcher = KernelLauncher(folder, environment_variables=[], spare_kernels=0, default_python=sys.executable)
    session = Session("s1", SessionRequest(spec=None), CPU_LEASE, launcher, on_change=lambda: None)
    starting = asyncio.create_task(session.start())
    await wait_for(lambda: kernels() or starting.done())
    await session.close("changed my mind")
    with pytest.raises(KernelFailedError):
        await starting
    other = Session("s2", SessionRequest(spec=None), CPU_LEASE, launcher, on_change=lambda: None)
    starting = asyncio.create_task(other.start())
    await wait_for(lambda: kernels() or starting.done())
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert kernels() == set()
    await launcher.close()
    assert not folder.exists()


OWNER = """
import asyncio, sys
from pathlib import Path
from nbgpu_agent.kernel_launcher import KernelLauncher

async def main():
    launcher = KernelLauncher(
        Path(sys.argv[1]), environment_variables=[], spare_kernels=1, default_python=sys.executable
    )
    await launcher.start_spares()
    kernel = await launcher.take("", launcher.make_folder("s1"), {})
    while not launcher.spares_ready:
        await asyncio.sleep(0.01)
    print(kernel.pid, flush=True)
    code = '''import os, subprocess
subprocess.Popen(["sleep", "600"], start_new_session=True)
print("ready", flush=True)
while True: pass
'''
    from nbgpu_agent.channels import Channel, message_parts
    kernel.channels.on_message = lambda channel, parts: b"ready" in parts[3] and print("ready", flush=True)
    content = {"code": code, "silent": True, "store_history": False, "user_expressions": {}}
    kernel.channels.send(Channel.SHELL, message_parts("execute_request", content))
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.asyncio
async def test_what_a_killed_agent_leaves_is_reaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    folder = tmp_path / ("long" * 20) / "kernels"
    folder.parent.mkdir()
    root = Path(__file__).parents[2]
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{root / 'python'}:{root / 'kernel'}", "TMPDIR": str(short)},
    )
    stranger = subprocess.Popen(["sleep", "600"], env={**os.environ, MARKER_VARIABLE: "somebody-else"})
    try:
        assert owner.stdout is not None
        loop = asyncio.get_running_loop()
        kernel_pid = int(await loop.run_in_executor(None, owner.stdout.readline))
        assert await loop.run_in_executor(None, owner.stdout.readline) == "ready\n"
        markers = [name for name in os.listdir(folder) if not name.startswith("session-")]
        assert len(markers) == 2
        owner.kill()
        owner.wait()
        # The kernels end by themselves, also one that computes; the child that left its session does not.
        await wait_for(lambda: not psutil.pid_exists(kernel_pid) or not _alive(kernel_pid))
        await wait_for(lambda: len(marked(markers)) == 1)
        done = reap_leftovers(folder)
        assert any("ended 1 processes" in line for line in done)
        assert marked(markers) == set()
        assert _alive(stranger.pid)
        assert list(folder.iterdir()) == []
        assert list(short.iterdir()) == []
        assert reap_leftovers(folder) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            owner.kill()
        owner.wait()
        if owner.stdout is not None:
            owner.stdout.close()
        stranger.kill()
        stranger.wait()
        reap_leftovers(folder)
        short.rmdir()


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_reaping_hits_no_stranger_with_a_number_of_old(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    precious = tmp_path / "precious"
    precious.mkdir()
    try:
        kernel = tmp_path / "kernels" / "abc"
        kernel.mkdir(parents=True)
        record = {"id": "abc", "pid": stranger.pid, "start_time": 1.0, "runtime_folder": str(precious)}
        (kernel / "kernel.json").write_text(json.dumps(record))
        (tmp_path / "kernels" / "damaged").mkdir()
        (tmp_path / "kernels" / "damaged" / "kernel.json").write_text("{")
        reap_leftovers(tmp_path / "kernels")
        assert stranger.poll() is None
        assert precious.is_dir()
        assert list((tmp_path / "kernels").iterdir()) == []
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.asyncio
async def test_a_log_that_grows_is_cut_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbgpu_agent.kernel_log.MAX_LOG_BYTES", 8000)
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            await client.run("import os\nfor i in range(2000): os.write(1, b'line %d\\n' % i)")
            await wait_for(lambda: "line 1999\n" in session.kernels.log_tail(0))
            assert session.kernels.kernel is not None
            session.kernels.kernel.log.trim()
            assert len(session.kernels.log_tail(0)) == 2000
            await client.run("import os; os.write(1, b'the end\\n')")
            await wait_for(lambda: session.kernels.log_tail(0).endswith("line 1999\nthe end\n"))
