"""What Ray is told when it starts beside the driver of a call, with a Ray that only notes it."""

from __future__ import annotations

import importlib.machinery
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nbgpu.ranks import ray_driver

RANKS_VARIABLES = {
    "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "MASTER_PORT": "1234", "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip


class FakeRay(ModuleType):
    """Notes how it was started, and the environment that its processes would inherit."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.__spec__ = importlib.machinery.ModuleSpec("ray", None)
        self.failures = 0
        """So many starts fail."""
        self.starts: list[dict[str, Any]] = []
        self.environ: dict[str, str] = {}
        self.shutdowns = 0

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.starts.append(options)
        self.environ = dict(os.environ)
        assert Path(options["_temp_dir"]).is_dir()
        if len(self.starts) <= self.failures:
            raise Exception("The current node timed out during startup.")

    def shutdown(self) -> None:
        self.shutdowns += 1


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    fake = FakeRay()
    call_id = secrets.token_hex(4)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # of which things are deleted
    os.environ.update(RANKS_VARIABLES, NBGPU_CALL_ID=call_id, CUDA_VISIBLE_DEVICES="", NBGPU_ACCELERATORS="")
    yield fake
    shutil.rmtree(ray_driver.short_folder(call_id), ignore_errors=True)


def run(**variables: str) -> Any:
    os.environ.update(variables)
    return ray_driver.drive(lambda first, second: first + second, (1,), {"second": 2})


def test_runs_the_driver_between_start_and_shutdown(ray: FakeRay) -> None:
    assert run() == 3
    assert len(ray.starts) == ray.shutdowns == 1
    assert ray.starts[0]["include_dashboard"] is False


def test_does_nothing_in_the_other_ranks(ray: FakeRay) -> None:
    assert run(RANK="1") is None
    assert ray.starts == []


def test_its_processes_have_nothing_of_the_rank(ray: FakeRay) -> None:
    run()
    assert not RANKS_VARIABLES.keys() & ray.environ.keys()
    assert ray.environ["NBGPU_CALL_ID"]  # by which what is left of them is found


def test_reports_nothing_and_keeps_no_token_in_a_file(ray: FakeRay) -> None:
    run()
    assert ray.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    first = ray.environ["RAY_AUTH_TOKEN"]
    assert len(first) == 64
    run(**RANKS_VARIABLES, NBGPU_CALL_ID=os.environ["NBGPU_CALL_ID"] + "b")
    shutil.rmtree(ray_driver.short_folder(os.environ["NBGPU_CALL_ID"]))
    assert ray.environ["RAY_AUTH_TOKEN"] != first


def test_real_gpus_are_left_as_they_are(ray: FakeRay) -> None:
    run(CUDA_VISIBLE_DEVICES="GPU-1,GPU-2,GPU-3,GPU-4", NBGPU_ACCELERATORS="GPU-1,GPU-2,GPU-3,GPU-4")
    assert ray.starts[0]["num_gpus"] == 4
    assert "num_cpus" not in ray.starts[0]
    assert ray.environ["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2,GPU-3,GPU-4"


def test_simulated_accelerators_are_gpus_that_cuda_does_not_know(ray: FakeRay) -> None:
    names = "sim-h100-0,sim-h100-1,sim-h100-2,sim-h100-3"
    run(NBGPU_ACCELERATORS=names)
    assert ray.starts[0]["num_gpus"] == 4
    assert ray.starts[0]["num_cpus"] >= 8  # a worker on each, and a trainer besides
    assert ray.environ["CUDA_VISIBLE_DEVICES"] == names


def test_the_cpu_is_no_gpu(ray: FakeRay) -> None:
    run(NBGPU_ACCELERATORS="cpu")
    assert ray.starts[0]["num_gpus"] == 0
    assert ray.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_starts_again_where_it_was_not_there_in_time(ray: FakeRay) -> None:
    ray.failures = 2
    assert run() == 3
    folders = [each["_temp_dir"] for each in ray.starts]
    assert len(set(folders)) == 3


def test_says_why_it_does_not_start_at_all(ray: FakeRay) -> None:
    ray.failures = 3
    with pytest.raises(Exception, match="timed out during startup"):
        run()
    assert len(ray.starts) == ray.shutdowns == 3
