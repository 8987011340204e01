"""A function on every rank, in a real JupyterLab: the others' lines fold, and stay there; a failure reads well."""

import re

import pytest
from playwright.sync_api import expect

from agent_lab import run_lab_with_agent

pytestmark = pytest.mark.usefixtures("console_errors")

SETUP = """%load_ext nbgpu
from nbgpu import distributed, runtime as rt
%gpu attach H100x4"""
SPEAK = """@distributed
def speak(steps):
    for step in range(steps):
        print(f"\\r{100 * (step + 1) // steps}%", end="")
    print(f"\\nI am rank {rt.get_global_rank()}")
    print("ready")
    return rt.get_global_rank()

speak.distributed(3)"""
FAIL = """import torch, torch.distributed as dist
class Diverged(Exception):
    pass

@distributed
def train(limit):
    dist.init_process_group("gloo")
    if rt.get_global_rank() == 2:
        loss = float("nan")
        raise Diverged(f"the loss is {loss}")
    dist.all_reduce(torch.ones(1))

train.distributed(5)"""

SPMD = """%%gpu --spmd
import os, time
rank = int(os.environ["RANK"])
print(f"I am rank {rank} of {os.environ['WORLD_SIZE']}")
for step in range(3):
    print("loss", 1 / (step + 1))
rank * 10"""
SPMD_FAIL = """%%gpu --spmd
if rank == 2:
    raise ValueError(f"rank {rank} has no data")
print("ready")"""


@pytest.fixture(scope="module")
def lab(module_page, tmp_path_factory):
    with run_lab_with_agent(module_page, tmp_path_factory.mktemp("lab"), {"NBGPU_SIMULATE": "H100x4"}) as lab:
        lab.write_notebook("ranks.ipynb")
        lab.replace_cells(SETUP, SPEAK, FAIL, SPMD, SPMD_FAIL)
        lab.run_cell(0)
        yield lab


def test_rank_0_is_in_full_and_the_others_open_with_a_click(lab, screenshots):
    lab.run_cell(1)

    output = lab.output(1)
    expect(output).to_contain_text("100%")
    expect(output).not_to_contain_text("33%")
    expect(output).to_contain_text("I am rank 0")
    others = output.locator("details")
    expect(others).to_have_count(1)
    expect(others.locator("summary")).to_have_text("ranks 1-3: 5 lines")
    expect(others.get_by_text("I am rank 3")).not_to_be_visible()
    others.locator("summary").click()
    expect(others.get_by_text("I am rank 3")).to_be_visible()
    expect(others.get_by_text("ranks 1-3: ready")).to_be_visible()
    expect(output).to_contain_text("[0, 1, 2, 3]")
    line = lab.cell(1).locator(".nbgpu-CellLine-text")  # of the call, not of what is cleared up behind it
    expect(line).to_have_text(re.compile(r"^H100 ×4.* · (\d+(\.\d)? s|\d+:\d\d)\b"))
    lab.screenshot(screenshots / "rank-output.png")


def test_a_failure_is_shown_once_with_the_cells_line(lab, screenshots):
    lab.run_cell(2)

    output = lab.output(2)
    expect(output).to_contain_text(re.compile(r"Diverged\s+Traceback \(most recent call last\), rank 2 of 4 on "))
    expect(output).to_contain_text(re.compile(r"Cell In\[\d+\], line 10, in train"))
    expect(output).to_contain_text("Diverged: the loss is nan")
    expect(output).to_contain_text(re.compile("ranks? 0.* when (they were|it was) stopped"))
    expect(output.locator(".jp-OutputArea-child")).to_have_count(1)
    lab.screenshot(screenshots / "rank-failure.png")


def test_a_cell_on_every_rank_folds_the_others(lab, screenshots):
    lab.run_cell(3)

    output = lab.output(3)
    expect(output).to_contain_text("I am rank 0 of 4")
    others = output.locator("details")
    expect(others).to_have_count(1)
    expect(others.locator("summary")).to_have_text("ranks 1-3: 9 lines")
    expect(others.get_by_text("I am rank 3 of 4")).not_to_be_visible()
    others.locator("summary").click()
    expect(others.get_by_text("I am rank 3 of 4")).to_be_visible()
    expect(others.get_by_text("ranks 1-3: loss 0.5")).to_be_visible()
    lab.screenshot(screenshots / "spmd-output.png")


def test_a_cell_that_fails_on_one_rank_is_one_error(lab, screenshots):
    lab.run_cell(4)

    output = lab.output(4)
    expect(output).to_contain_text(re.compile(r"ValueError\s+Traceback \(most recent call last\), rank 2 of 4 on "))
    expect(output).to_contain_text("ranks 0-1, 3 had returned")
    expect(output.get_by_text("ValueError: rank 2 has no data")).to_have_count(1)
    lab.screenshot(screenshots / "spmd-failure.png")
