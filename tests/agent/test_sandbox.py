"""What sandboxes show and hide, and where there can be none."""

from __future__ import annotations

import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agent_processes import DEADLINE_S, until, workplace
from nbgpu_agent.app import EXIT_REFUSED
from nbgpu_agent.environments.building import refuse_links_out
from nbgpu_agent.environments.uv import Uv
from nbgpu_agent.errors import BuildFailedError
from nbgpu_agent.isolation import bubblewrap
from nbgpu_agent.isolation.bubblewrap import Bubblewrap, UserFolders, problem_of_bubblewrap
from nbgpu_agent.isolation.confined import folder_beneath, open_as_seen_by
from nbgpu_agent.isolation.device_files import device_files
from nbgpu_agent.isolation.os_user import IsolationError
from nbgpu_agent.isolation.sandbox import Sandbox
from nbgpu_agent.isolation.sandboxed_process import SandboxedProcess, outside_numbers
from nbgpu_agent.model import Accelerator
from secured_agents import start_secured

NOBODY = pwd.getpwnam("nobody")
AS_ANOTHER = {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
"""bwrap is for users other than root."""
GPU = Accelerator("GPU-a", 0, "H100", "NVIDIA H100", 80 << 30)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of the user's who runs bwrap."""
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        if AS_ANOTHER:
            os.chown(name, NOBODY.pw_uid, NOBODY.pw_gid)
        yield Path(name)


def folder(path: Path) -> Path:
    path.mkdir()
    if AS_ANOTHER:
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    return path


def run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=DEADLINE_S,
        cwd="/", env={"PATH": os.environ["PATH"]}, **AS_ANOTHER,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_home_is_seen_without_the_agents_folder_in_it(place: Path) -> None:
    home = folder(place / "home")
    agent = folder(home / "agent")
    own, other, shared = (folder(agent / name) for name in ("own", "other", "shared"))
    for each in (home, agent, own, other, shared):
        (each / "file").write_text(f"of {each.name}")
        (each / "file").chmod(0o666)
    (place / "link").symlink_to(home)
    sandbox = Sandbox("bwrap", None, (place,), (), (agent,), (shared,), (home, place / "link"))
    script = f"""
    cd {place}; ls; cat link/file; ls home/agent; cat home/agent/own/file home/agent/shared/file; pwd
    echo changed > home/agent/own/file; echo no > home/agent/shared/file; echo no > home/agent/new; echo no > new
    touch home/made /tmp/made; true
    """
    said = run(sandbox.command(["sh", "-c", script], folder=own, writable=[own]))
    assert said == f"home\nlink\nof homeown\nshared\nof ownof shared{place}\n"
    assert (own / "file").read_text() == "changed\n"
    assert (shared / "file").read_text() == "of shared"
    assert (home / "made").exists()
    assert not (agent / "new").exists()


def test_secrets_in_files_of_their_own_are_not_seen(place: Path) -> None:
    token, other = place / "token", place / "other"
    for each in (token, other):
        each.write_text("of the agent")
        each.chmod(0o644)
    sandbox = Sandbox("bwrap", None, (), (), (token, place / "none"), (), (place,))
    script = f"cat {token} {other}; rm {token} 2>&1; mv {token} {token}-2 2>&1; true"
    said = run(sandbox.command(["sh", "-c", script], folder=place))
    assert said.startswith("of the agent")
    assert said.count("of the agent") == 1
    assert token.read_text() == "of the agent"


def test_what_is_built_leads_the_agent_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    for name, target in (("lib64", "lib"), ("bin/python", sys.executable), ("lib/x", "../bin")):
        path = tmp_path / "environment" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
        (tmp_path / "environment" / "lib").mkdir(exist_ok=True)
    refuse_links_out(tmp_path / "environment")
    link = tmp_path / "environment" / "nbgpu-environment.json"
    link.symlink_to(tmp_path / "secret")
    with pytest.raises(BuildFailedError, match=r"puts a link into the environment, nbgpu-environment\.json"):
        refuse_links_out(tmp_path / "environment")
    link.unlink()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "environment")
    with pytest.raises(BuildFailedError, match="in the place of the environment"):
        refuse_links_out(tmp_path / "elsewhere")
    (tmp_path / "pins.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        Uv({}).write(tmp_path / "pins.txt", "a==1")


def test_processes_and_shared_memory_are_its_own(place: Path) -> None:
    sandbox = Sandbox("bwrap", None, (), (), (), (), ())
    script = "ls /dev/shm; touch /dev/shm/x; ls /dev/shm; echo /proc/[0-9]*"
    shown, *processes = run(sandbox.command(["sh", "-c", script], folder=Path("/"))).split()
    assert (shown, processes) == ("x", ["/proc/1", "/proc/2"])
    assert not os.path.lexists("/dev/shm/x")


def make_devices(root: Path) -> None:
    """Makes what the driver has for two GPUs, with the devices of /dev/null."""
    (root / "dev").mkdir()
    for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1"):
        if os.geteuid() == 0:
            os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            os.chmod(root / "dev" / name, 0o666)
        else:
            (root / "dev" / name).touch()
    for minor, uuid in enumerate(("GPU-b", "GPU-a")):
        gpu = root / "proc/driver/nvidia/gpus" / f"0000:0{minor}:00.0"
        gpu.mkdir(parents=True)
        text = f"Model: \t\t NVIDIA H100\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n"
        (gpu / "information").write_text(text)


def test_of_the_gpus_a_sandbox_has_those_that_are_held(place: Path) -> None:
    make_devices(place)
    assert device_files([], place) == []
    assert device_files([replace(GPU, simulated=True), replace(GPU, id="cpu", shared=True)], place) == []
    found = device_files([GPU], place)
    assert [each.name for each in found] == ["nvidiactl", "nvidia-uvm", "nvidia1"]
    (place / "dev" / "nvidia-caps").mkdir()
    slices = device_files([replace(GPU, id="MIG-1", parent_id="GPU-b")], place)
    assert [each.name for each in slices] == ["nvidiactl", "nvidia-uvm", "nvidia0", "nvidia-caps"]
    with pytest.raises(IsolationError, match=r"does not tell which device file is that of H100 \(GPU-c\)"):
        device_files([replace(GPU, id="GPU-c")], place)
    sandbox = Sandbox("bwrap", None, (), (), (), (), ())
    script = f"cd {place}/dev && ls && for each in *; do echo x > $each || exit 1; done"
    assert run(sandbox.command(["sh", "-c", script], folder=Path("/"), devices=found)).split() == [
        "nvidia-uvm", "nvidia1", "nvidiactl"
    ]  # fmt: skip


def test_a_kernel_is_signalled_itself_and_its_end_is_told_as_it_was(place: Path) -> None:
    sandbox = Sandbox("bwrap", None, (), (), (), (), (place,))
    for ends, code in (("kill -9 $$", -signal.SIGKILL), ("exit 3", 3), ("kill -6 $$", -signal.SIGABRT), ("true", 0)):
        command = sandbox.command(["sh", "-c", f"sleep 600 & read line; {ends}"], folder=place)
        with subprocess.Popen(command, stdin=subprocess.PIPE, cwd="/", start_new_session=True, **AS_ANOTHER) as bwrap:
            process = SandboxedProcess(bwrap)
            until(process.find)
            assert process.pid != bwrap.pid
            below = until(lambda process=process: [each.pid for each in psutil.Process(process.pid).children()])
            assert outside_numbers(process.pid, [bwrap.pid, process.pid, *below]) == {2: process.pid, 3: below[0]}
            assert process.returncode is None
            assert bwrap.stdin is not None
            bwrap.stdin.write(b"\n")
            bwrap.stdin.flush()
            assert process.wait() == process.returncode == code
            os.kill(below[0], signal.SIGKILL)


def test_files_are_opened_as_a_process_has_them(place: Path) -> None:
    secret = place / "secret"
    secret.write_text("of the agent")
    own = folder(place / "own")
    (own / "file").write_text("of the session")
    (own / "out").symlink_to(secret)
    sandbox = Sandbox("bwrap", None, (place,), (), (), (), (own,))
    command = sandbox.command(["sh", "-c", "echo; read line"], folder=own)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", **AS_ANOTHER) as bwrap:
        assert bwrap.stdout is not None
        bwrap.stdout.readline()
        process = SandboxedProcess(bwrap)
        until(process.find)
        with open(open_as_seen_by(process.pid, own / "file")) as file:
            assert file.read() == "of the session"
        for path in (own / "out", secret, Path(f"/proc/{os.getpid()}/root{secret}")):
            with pytest.raises(FileNotFoundError):
                open_as_seen_by(process.pid, path)
        with pytest.raises(OSError, match="symbolic links"):
            open_as_seen_by(process.pid, Path("/proc/1/root/etc"))
        bwrap.communicate(b"\n")


def test_no_link_leads_out_of_a_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for each in (root / "real", outside):
        each.mkdir(parents=True)
    (root / "in").symlink_to("real")
    (root / "out").symlink_to(outside)
    (root / "up").symlink_to("../outside")
    with folder_beneath(root, "in/deep/er", make=True) as beneath:
        (beneath / "file").write_text("x")
    assert (root / "real/deep/er/file").read_text() == "x"
    with folder_beneath(root, ".") as beneath:
        assert sorted(os.listdir(beneath)) == ["in", "out", "real", "up"]
    for path in ("out", "up", "out/new", "..", "in/../../outside"):
        with pytest.raises(OSError, match="device"), folder_beneath(root, path, make=True):
            pass
    assert os.listdir(outside) == []


def some_bubblewrap(root: Path, program: str = "bwrap") -> Bubblewrap:
    folders = UserFolders(root / "own", root / "of-users")
    return Bubblewrap(program, folders, folders, root / "homes", (root,))


def test_where_there_can_be_no_sandboxes_it_is_said_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert problem_of_bubblewrap(some_bubblewrap(tmp_path))[0] == "the agent runs as root"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert problem_of_bubblewrap(some_bubblewrap(tmp_path, "")) == (
        "there is no bwrap here",
        "apt-get install bubblewrap",
    )
    visible = replace(some_bubblewrap(tmp_path), visible=(tmp_path / "data",))
    assert (
        problem_of_bubblewrap(visible)[0] == f"the folder {tmp_path / 'data'}, which sessions are to see, is not there"
    )
    refuses = tmp_path / "bwrap"
    refuses.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    refuses.chmod(0o755)
    problem, hint = problem_of_bubblewrap(some_bubblewrap(tmp_path, str(refuses)))
    assert problem == f"{refuses} makes no sandbox: bwrap: No permissions to create new namespace"
    assert hint
    assert problem_of_bubblewrap(some_bubblewrap(tmp_path, "/nowhere/bwrap"))[0].startswith(
        "/nowhere/bwrap cannot be run"
    )


def test_what_keeps_users_from_making_namespaces_is_named(tmp_path: Path) -> None:
    assert "security-opt" in bubblewrap._hint(tmp_path)
    file = tmp_path / "proc/sys/kernel/apparmor_restrict_unprivileged_userns"
    file.parent.mkdir(parents=True)
    file.write_text("1\n")
    assert "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in bubblewrap._hint(tmp_path)


def test_an_agent_that_must_and_cannot_refuses_to_start() -> None:
    with workplace() as place:
        secured = start_secured(place, "--isolation=none", "--AgentApp.spare_kernels=0")
        folders = (f"--folder={place.root / 'other'}", f"--identity-folder={place.root / 'identity'}")
        (place.root / "empty").mkdir()
        for options, why in (
            (("--isolation=bubblewrap", "--tls"), "sessions cannot be put into sandboxes: "),
            (("--isolation=bubblewrap",), "there are no users to isolate from each other without TLS"),
        ):
            process = place.start("--listen=127.0.0.1:0", *folders, *options, PATH=str(place.root / "empty"))
            assert process.wait(DEADLINE_S) == EXIT_REFUSED
            assert why in place.log()
        assert place.end(secured.process) == 0
