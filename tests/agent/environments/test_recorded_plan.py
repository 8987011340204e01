"""A snapshot of a Mac with CPU torch, planned for a Linux node with CUDA: both recorded, resolved by uv."""

from __future__ import annotations

import pytest

from nbgpu.plan_table import plan_table
from nbgpu_agent.environments.plan import Action, Plan
from nbgpu_agent.service.environment import plan_message
from recorded_plan import plan_recorded, recorded_snapshot


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_recorded(tmp_path_factory.mktemp("plan"))


def test_what_is_of_the_mac_alone_is_left_out_and_torch_is_swapped(plan: Plan) -> None:
    assert recorded_snapshot().platform == "darwin"
    by_action = {action: {each.name for each in plan.distributions if each.action is action} for action in Action}
    assert by_action[Action.LEAVE_OUT] == {"appnope", "pip", "pyobjc-core", "pyobjc-framework-cocoa"}
    assert by_action[Action.SWAP] == {"torch", "torchvision"}
    assert by_action[Action.IMPOSSIBLE] == set()
    assert {"torch==2.13.0+cu130", "torchvision==0.28.0+cu130"} <= set(plan.requirements)
    why = {each.name: each.why for each in plan.distributions}
    assert why["appnope"] == "for macOS only, needed by ipykernel there"
    assert why["torch"] == "the CUDA 13 build, for driver 580.65.06"


def test_what_torch_needs_there_is_added_and_all_else_keeps_its_version(plan: Plan) -> None:
    added = {each.name for each in plan.distributions if each.added}
    assert {"triton", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "cuda-toolkit"} <= added
    assert all(name.startswith(("cuda-", "nvidia-", "triton")) for name in added)
    versions = {each.name: each.version for each in recorded_snapshot().distributions}
    kept = {each.name: each.version for each in plan.distributions if each.action is Action.FETCH and not each.added}
    assert len(kept) > 100
    assert kept == {name: versions[name] for name in kept}


def test_sizes_are_the_indexs_and_the_table_says_what_they_come_to(plan: Plan) -> None:
    assert plan.estimate.unknown_sizes == 0
    assert plan.estimate.download_bytes == sum(each.size_bytes or 0 for each in plan.distributions)
    assert 2.8e9 < plan.estimate.download_bytes < 3.0e9
    lines = plan_table(plan_message(plan, built=False)).splitlines()
    rows = {line.split()[0]: line for line in lines if line}
    assert rows["torch"].split(None, 3) == ["torch", "2.13.0+cu130", "swap", rows["torch"].split(None, 3)[3]]
    assert "526.6 MB" in rows["torch"]
    assert "numpy" not in rows  # which is simply fetched
    assert "to fetch: 2.9 GB in 13" in "\n".join(lines)
    assert "at an assumed 20 MB/s" in lines[-1]
    assert max(map(len, lines)) < 120
    everything = plan_table(plan_message(plan, built=False), everything=True)
    assert len(everything.splitlines()) > len(plan.distributions)
