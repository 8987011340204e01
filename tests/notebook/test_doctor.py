"""The doctor: each fault is injected, and found."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent_processes import DEADLINE_S, Workplace
from fakes.nvml.library import FakeGpu, build_library, with_library, write_state
from fakes.pool import offer, run_fake_pool
from nbgpu.client.discovery import PoolAddress
from nbgpu.doctor import client, node
from nbgpu.doctor.client import LABEXTENSION, judge_labextension, judge_package, judge_python, judge_server_extension
from nbgpu.doctor.findings import Finding, Level, as_text, fail, has_failed, ok, warn
from nbgpu.doctor.node import judge_disk, judge_files, judge_nvml_failure, judge_shm, look_at_folder, look_at_port
from nbgpu.doctor.pools import look_at_pool
from nbgpu_protocol import VERSION
from nbgpu_protocol.v1 import pool_pb2

GIB = 1 << 30
HERE = Path("/here")


@dataclass
class Examined:
    code: int
    findings: dict[str, Finding]
    text: str


@pytest.fixture
def examine(place: Workplace) -> Callable[..., Examined]:
    """Runs `nbgpu doctor --json` as a program, with variables and perhaps few files that it may open."""

    def run(*, limit: int | None = None, **variables: str) -> Examined:
        (place.root / "tmp").mkdir(exist_ok=True)
        command = [sys.executable, "-m", "nbgpu", "doctor", "--json"]
        if limit is not None:
            command = ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", *command]
        environ = {**place.environ(NBGPU_AGENT_DIR=str(place.folder)), **variables}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.stderr == ""
        found = [
            Finding(each["about"], Level(each["level"]), each["text"], each["hint"]) for each in json.loads(done.stdout)
        ]
        return Examined(done.returncode, {each.about: each for each in found}, done.stdout)

    return run


def test_a_machine_on_which_all_is_well(examine: Callable[..., Examined], tmp_path: Path) -> None:
    write_state(tmp_path / "state", [FakeGpu("GPU-0"), FakeGpu("GPU-1")])
    examined = examine(**with_library({}, build_library(tmp_path), tmp_path / "state"))
    assert examined.findings["gpu"].text.startswith("2 GPUs, NVIDIA's driver ")
    assert {each.about for each in examined.findings.values() if each.level is Level.FAIL} == set()
    assert examined.code == 0
    assert {"python", "ipykernel", "jupyterlab", "panel", "server", "uv", "disk", "files", "folder"} <= set(
        examined.findings
    )
    assert "no agent runs" in examined.findings["pool"].text


def test_many_faults_at_once_are_all_found(examine: Callable[..., Examined], place: Workplace, tmp_path: Path) -> None:
    place.folder.mkdir(mode=0o755)
    place.folder.chmod(0o755)
    page_config = place.root / "config/labconfig/page_config.json"
    page_config.parent.mkdir(parents=True)
    page_config.write_text(json.dumps({"disabledExtensions": {LABEXTENSION: True}}))
    server_config = place.root / "config/jupyter_server_config.json"
    server_config.write_text(json.dumps({"ServerApp": {"jpserver_extensions": {"nbgpu.server": False}}}))
    write_state(tmp_path / "state", [])
    variables = with_library({}, build_library(tmp_path), tmp_path / "state")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        examined = examine(
            limit=256,
            **{
                **variables,
                "NBGPU_FAKE_NVML_INIT": "18",
                "JUPYTER_PREFER_ENV_PATH": "0",
                "NBGPU_AGENT_ADDRESS": address,
                "NBGPU_AGENT_TOKEN": "a-token-of-some-length",
            },
        )
    assert examined.code == 1
    failed = {each.about: each for each in examined.findings.values() if each.level is Level.FAIL}
    assert set(failed) == {"gpu", "panel", "server", "files", "folder", "pool"}
    assert "of different versions" in failed["gpu"].text
    assert "restart the machine" in failed["gpu"].hint
    assert str(page_config) in failed["panel"].text
    assert str(server_config) in failed["server"].text
    assert failed["files"].text == "only 256 files may be open in a process"
    assert failed["folder"].hint == f"`chmod 700 {place.folder}`"
    assert address in failed["pool"].text
    assert all(each.hint for each in failed.values())
    assert "a-token-of-some-length" not in examined.text


def test_a_pool_that_answers_speaks_this_version_and_has_this_clock() -> None:
    with run_fake_pool() as pool:
        pool.publish(pool_pb2.PoolState(offers=[offer("H100", 8, 3)], time_unix_s=time.time()))
        found = asyncio.run(look_at_pool("lab", PoolAddress(pool.address, pool.token)))
        assert found == ok("pool", "lab answers, on lab-1 with nbgpu 0: H100 3 of 8 free")

        pool.publish(pool_pb2.PoolState(time_unix_s=time.time() - 3600))
        found = asyncio.run(look_at_pool("lab", PoolAddress(pool.address, pool.token)))
        assert found.level is Level.WARN
        assert "s behind this machine's" in found.text

        found = asyncio.run(look_at_pool("lab", PoolAddress(pool.address, "a-wrong-token")))
        assert found.level is Level.FAIL

        pool.protocol_version = VERSION + 1
        found = asyncio.run(look_at_pool("lab", PoolAddress(pool.address, pool.token)))
        assert found.level is Level.FAIL
        assert f"speaks protocol {VERSION + 1}" in found.text
        assert found.hint == "update nbgpu on both sides"


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (judge_python((3, 9, 1)), Level.FAIL),
        (judge_python((3, 14, 0)), Level.OK),
        (judge_package("ipykernel", "5.1", "6.29"), Level.FAIL),
        (judge_package("ipykernel", None, "6.29"), Level.FAIL),
        (judge_package("jupyterlab", None, "4.4"), Level.WARN),
        (judge_labextension(None, None), Level.FAIL),
        (judge_labextension("1.0", HERE), Level.FAIL),
        (judge_labextension("1.0", None), Level.OK),
        (judge_server_extension(None), Level.FAIL),
        (judge_server_extension((False, HERE)), Level.FAIL),
        (judge_server_extension((True, HERE)), Level.OK),
        (judge_disk(GIB, HERE, "temporary files"), Level.FAIL),
        (judge_disk(10 * GIB, HERE, "temporary files"), Level.WARN),
        (judge_disk(100 * GIB, HERE, "temporary files"), Level.OK),
        (judge_shm(64 << 20), Level.WARN),
        (judge_shm(8 * GIB), Level.OK),
        (judge_files(256), Level.FAIL),
        (judge_files(800), Level.WARN),
        (judge_files(-1), Level.OK),
    ],
)
def test_what_is_found_is_judged(found: Finding, level: Level) -> None:
    assert found.level is level
    assert bool(found.hint) is (level is not Level.OK)
    assert not found.text.endswith(".")


@pytest.mark.parametrize(
    ("code", "has_gpu", "kernel_driver", "level", "text"),
    [
        (18, True, "535.1", Level.FAIL, "of different versions (535.1 is loaded)"),
        (12, True, "535.1", Level.FAIL, "535.1 is loaded, but libnvidia-ml.so.1 is not found"),
        (12, True, None, Level.FAIL, "there is an NVIDIA device, but no driver that works: Not Found"),
        (9, False, None, Level.OK, "no NVIDIA GPU here, so this machine offers its CPU"),
    ],
)
def test_why_nvml_does_not_load_is_told_apart(
    code: int, has_gpu: bool, kernel_driver: str | None, level: Level, text: str
) -> None:
    found = judge_nvml_failure(code, "Not Found", has_gpu=has_gpu, kernel_driver=kernel_driver)
    assert found.level is level
    assert text in found.text


def test_an_nvidia_device_is_seen_on_the_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_PCI", tmp_path)
    for name, vendor, kind in (("a", "0x10de", "0x040300"), ("b", "0x8086", "0x030000")):  # sound; another's
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert not node._has_gpu()
    (tmp_path / "a/class").write_text("0x030200\n")
    assert node._has_gpu()


def test_the_agents_folder_is_the_persons_alone(tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    assert look_at_folder(folder).level is Level.OK
    folder.mkdir(mode=0o700)
    assert look_at_folder(folder).level is Level.OK
    folder.chmod(0o750)
    assert "(mode 0750)" in look_at_folder(folder).text
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750  # it looks, and mends nothing
    folder.rmdir()
    folder.write_text("")
    assert look_at_folder(folder).level is Level.FAIL
    if os.getuid() == 0:
        folder.unlink()
        folder.mkdir(mode=0o700)
        os.chown(folder, 12345, -1)
        assert "belongs to user 12345" in look_at_folder(folder).text


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        found = look_at_port(other.getsockname()[1])
    assert found.level is Level.WARN


def test_an_environment_without_uv_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    assert client.look_at_uv().level is Level.FAIL


def test_a_line_each_and_what_to_do_below() -> None:
    findings = [ok("python", "Python 3.12"), warn("shm", "small", "`mount …`"), fail("gpu", "none", "`nvidia-smi`")]
    assert as_text(findings).splitlines() == [
        "ok    python  Python 3.12",
        "warn  shm     small",
        "              hint: `mount …`",
        "fail  gpu     none",
        "              hint: `nvidia-smi`",
        "",
        "3 looked at: 1 to mend, 1 to look at",
    ]
    assert has_failed(findings)
    assert not has_failed(findings[:2])
