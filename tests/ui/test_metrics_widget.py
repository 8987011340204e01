"""`nbgpu.metrics()` in a real JupyterLab: it draws, moves while the kernel computes, and asks nobody else."""

import re

import pytest
from playwright.sync_api import expect

from agent_lab import run_lab_with_agent

pytestmark = pytest.mark.usefixtures("console_errors")

BUSY_UNTIL = "import os\nwhile not os.path.exists({path!r}): pass"


@pytest.fixture(scope="module")
def requested():
    return []


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A file, until which the busy cell is busy."""
    return tmp_path_factory.mktemp("seen") / "seen"


@pytest.fixture(scope="module")
def lab(module_page, tmp_path_factory, requested, seen):
    module_page.on("request", lambda request: requested.append(request.url))
    with run_lab_with_agent(module_page, tmp_path_factory.mktemp("lab"), {"NBGPU_SIMULATE": "H100x8"}) as lab:
        lab.write_notebook(
            "charts.ipynb", "%load_ext nbgpu", "import nbgpu\nnbgpu.metrics()", BUSY_UNTIL.format(path=str(seen))
        )
        lab.run_cell(0)
        yield lab


def test_charts_move_while_the_kernel_computes(lab, screenshots, requested, seen):
    lab.run_cell(1)
    rows = lab.output(1).locator(".nbgpu-row")
    expect(rows).to_have_count(8)
    expect(rows.first).to_contain_text("H100 0 (simulated)")
    expect(rows.first.locator(".nbgpu-number").first).to_have_text(re.compile(r"\d+%"))
    line = rows.first.locator("svg path").first
    expect(line).to_have_attribute("d", re.compile("L"))
    before = line.get_attribute("d")

    lab.start_cell(2)  # in the notebook's own kernel
    expect(lab.cell(2).locator(".jp-InputPrompt")).to_have_text("[*]:")
    expect(line).not_to_have_attribute("d", before)
    expect(lab.cell(2).locator(".jp-InputPrompt")).to_have_text("[*]:")  # still
    seen.touch()
    lab.wait_until_run()

    lab.output(1).screenshot(path=screenshots / "metrics-widget.png")
    own = lab.server.url
    assert [url for url in requested if not url.startswith((own, own.replace("http", "ws"), "data:", "blob:"))] == []


def test_after_a_reload_it_goes_on(lab):
    lab.save()
    lab.reload()
    rows = lab.output(1).locator(".nbgpu-row")
    expect(rows).to_have_count(8)
    line = rows.first.locator("svg path").first
    expect(line).to_have_attribute("d", re.compile("L"))
    before = line.get_attribute("d")
    expect(line).not_to_have_attribute("d", before)
