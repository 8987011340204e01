"""What a kernel reaches of /dev: device nodes stand in for GPUs, and Linux's own devices controller decides."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nbgpu_agent.isolation.device_cgroups import PREFIX, DeviceCgroups
from nbgpu_agent.model import Accelerator

FULL, RANDOM = os.makedev(1, 7), os.makedev(1, 8)
"""/dev/full and /dev/random, which no test and no kernel opens by another name."""
GPUS = [Accelerator(f"GPU-{number}", number, "H100", "NVIDIA H100", 80 << 30) for number in range(2)]
OPEN = """
import sys
for path in sys.argv[1:]:
    try:
        open(path, "rb").close()
        print("open")
    except OSError as error:
        print(error.errno)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two GPUs' device files below a root of their own, with the system's own groups."""
    for number, (gpu, device) in enumerate(zip(GPUS, (FULL, RANDOM), strict=True)):
        information = tmp_path / "proc/driver/nvidia/gpus" / str(number) / "information"
        information.parent.mkdir(parents=True)
        information.write_text(f"Model: NVIDIA H100\nGPU UUID: {gpu.id}\nDevice Minor: {number}\n")
        (tmp_path / "dev").mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.mknod(tmp_path / f"dev/nvidia{number}", stat.S_IFCHR | 0o666, device)
        else:
            (tmp_path / f"dev/nvidia{number}").touch()
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/cgroup").write_text(Path("/proc/self/cgroup").read_text())
    (tmp_path / "sys").symlink_to("/sys")
    return tmp_path


def reached(root: Path) -> list[str]:
    """Returns what comes of opening the device files in a process that is started now."""
    paths = [str(root / f"dev/nvidia{number}") for number in range(2)]
    done = subprocess.run([sys.executable, "-c", OPEN, *paths], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


@pytest.fixture
def groups(root: Path) -> DeviceCgroups:
    found = DeviceCgroups(root)
    if not found.is_there:
        pytest.skip("only root makes groups, and only where Linux has the devices controller of cgroup v1")
    return found


def test_a_kernel_reaches_the_gpus_of_its_session_alone(root: Path, groups: DeviceCgroups) -> None:
    assert reached(root) == ["open", "open"]
    for held, expected in (
        (GPUS[:1], ["open", "1"]),
        (GPUS[1:], ["1", "open"]),
        ([], ["1", "1"]),
        (GPUS, ["open"] * 2),
    ):
        kernel_id = f"test-{os.getpid()}-{len(held)}-{expected[0]}"
        with groups.entered(kernel_id, held):
            assert reached(root) == expected
        assert reached(root) == ["open", "open"]  # the agent itself is as it was
        groups.leave(kernel_id)
        assert not groups_named(kernel_id)


def test_a_group_is_removed_when_the_last_of_its_processes_has_ended(root: Path, groups: DeviceCgroups) -> None:
    first, second = (f"test-{os.getpid()}-{name}" for name in ("first", "second"))
    with groups.entered(first, GPUS[:1]), subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        groups.leave(first)
        assert groups_named(first)
        process.communicate()
    with groups.entered(second, GPUS[:1]):
        pass
    groups.leave(second)
    assert not groups_named(first)
    assert not groups_named(second)


def test_what_an_earlier_agent_left_is_removed_and_what_is_new_or_in_use_is_not(
    root: Path, groups: DeviceCgroups
) -> None:
    names = [f"test-{os.getpid()}-{name}" for name in ("old", "new", "used")]
    for name in names[:2]:
        with groups.entered(name, GPUS[:1]):
            pass
    with groups.entered(names[2], GPUS[:1]), subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        for name in (names[0], names[2]):
            (group,) = groups_named(name)
            os.utime(group, (1, 1))
        groups.remove_leftovers()
        assert [bool(groups_named(name)) for name in names] == [False, True, True]
        process.communicate()
    for name in names:
        groups.leave(name)
    assert not any(groups_named(name) for name in names)


def groups_named(kernel_id: str) -> list[Path]:
    return list(Path("/sys/fs/cgroup/devices").rglob(f"{PREFIX}{kernel_id}"))


def test_without_the_controller_kernels_start_all_the_same(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/user.slice\n")
    groups = DeviceCgroups(root)
    assert not groups.is_there
    with groups.entered("kernel", GPUS[:1]):
        assert reached(root) == ["open", "open"]
    groups.leave("kernel")
    groups.remove_leftovers()


def test_a_gpu_that_the_driver_does_not_tell_of_is_said(
    root: Path, groups: DeviceCgroups, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = Accelerator("GPU-unknown", 0, "H100", "NVIDIA H100", 80 << 30)
    with caplog.at_level(logging.WARNING), groups.entered("test-unknown", [unknown]):
        assert reached(root) == ["open", "open"]
    assert "kernel test-unknown reaches the device files of all GPUs" in caplog.text
    assert not groups_named("test-unknown")
