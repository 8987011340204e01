"""Ranks that hang, in a real JupyterLab: what is said under the cell, and the stacks of a session that is busy."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from agent_lab import run_lab_with_agent
from lab_page import LabPage

pytestmark = pytest.mark.usefixtures("console_errors")

SETUP = """%load_ext nbgpu
import os, time
import torch, torch.distributed as dist
from nbgpu import distributed, runtime as rt
%gpu attach H100x4"""
TRAIN = """def load_batch(path):
    while not os.path.exists(path):
        time.sleep(0.02)

@distributed(hang_after_s=0.5)
def train(gate):
    dist.init_process_group("gloo")
    if rt.get_global_rank() == 2:
        load_batch(gate)
    dist.all_reduce(torch.ones(1))
    return rt.get_global_rank()

train.distributed("gate")"""


@pytest.fixture(scope="module")
def lab(module_page, tmp_path_factory) -> Iterator[LabPage]:
    with run_lab_with_agent(module_page, tmp_path_factory.mktemp("lab"), {"NBGPU_SIMULATE": "H100x4"}) as lab:
        lab.write_notebook("hangs.ipynb")
        gate = str(lab.server.work_folder / "gate")
        lab.replace_cells(SETUP, TRAIN.replace('"gate")', f'"{gate}")'))
        lab.run_cell(0)
        yield lab


def test_a_hang_and_the_stacks_while_it_lasts(lab, screenshots):
    lab.start_cell(1)
    output = lab.output(1)
    report = output.locator(".nbgpu-Hang").last
    expect(report).to_contain_text("rank 2 of 4 has not come to all_reduce", timeout=60_000)
    expect(report).to_contain_text(re.compile(r"ranks 0-1, 3 wait in all_reduce, in train, line 10 of Cell In\[2\]"))
    missing = report.locator("details", has_text="rank 2 is in load_batch")
    expect(missing).to_have_count(1)
    expect(missing.locator("pre")).not_to_be_visible()
    for theme in ("Light", "Dark"):
        lab.set_theme(f"JupyterLab {theme}")
        expect(report).to_be_visible()
        lab.screenshot(screenshots / f"hang-{theme.lower()}.png")

    lab.page.locator(".jp-NotebookPanel:visible .nbgpu-ToolbarItem-button").click()
    lab.page.get_by_role("menuitem", name="Show Stacks of GPU Session").click()
    dialog = lab.page.locator(".jp-Dialog")
    expect(dialog).to_contain_text("Stacks of the session of hangs.ipynb")
    expect(dialog).to_contain_text("the kernel waits for the ranks of its call")
    expect(dialog).to_contain_text("ranks 0-1, 3 of 4 wait in all_reduce")
    expect(dialog).to_contain_text(re.compile(r"rank 2 of 4 is in load_batch\s+Cell In\[2\], line 9, in train"))
    lab.screenshot(screenshots / "stacks-dark.png")
    lab.set_theme("JupyterLab Light")
    lab.screenshot(screenshots / "stacks-light.png")
    (lab.server.work_folder / "gate").touch()
    dialog.get_by_role("button", name="Look Again").click()
    expect(lab.page.locator(".jp-Dialog")).to_contain_text("the kernel")
    lab.page.locator(".jp-Dialog").get_by_role("button", name="Close").click()
    expect(lab.page.locator(".jp-Dialog")).to_have_count(0)

    lab.wait_until_run()
    expect(report).to_contain_text(re.compile(r"Went on after .* without progress: rank 2 of 4 had not come"))
    expect(output).to_contain_text("[0, 1, 2, 3]")
    lab.screenshot(screenshots / "hang-over.png")
