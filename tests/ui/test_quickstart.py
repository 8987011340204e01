"""The quickstart in a real JupyterLab, on a simulated accelerator: *Run All*, with the panel beside it."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from agent_lab import run_lab_with_agent

pytestmark = pytest.mark.usefixtures("console_errors")

QUICKSTART = Path(__file__).parents[2] / "binder/quickstart.ipynb"
RUN_ALL_MS = 150_000
OBSERVE_PANEL = """() => {
  const text = selector => document.querySelector(`#nbgpu-panel ${selector}`)?.textContent ?? '';
  const note = () => seen.push({
    status: text('[data-section=notebook] [role=status]'),
    notebook: text('[data-section=notebook]'),
    offer: text('[data-type=H100]')
  });
  const seen = (window.seenInPanel = []);
  new MutationObserver(note).observe(document.querySelector('#nbgpu-panel'), {
    childList: true, subtree: true, characterData: true
  });
}"""


@pytest.fixture(scope="module")
def lab(module_page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    with run_lab_with_agent(module_page, folder, {"NBGPU_SIMULATE": "H100"}) as lab:
        shutil.copy(QUICKSTART, lab.server.work_folder)
        lab.open_panel()
        lab.open_notebook(QUICKSTART.name)
        yield lab


@pytest.fixture(scope="module")
def after_run_all(lab):
    """Runs all cells from the menu; returns what the panel showed meanwhile."""
    lab.page.evaluate(OBSERVE_PANEL)
    lab.choose_in_menu("Run", "Run All Cells")
    lab.wait_until_run(RUN_ALL_MS)
    return lab.page.evaluate("() => window.seenInPanel")


def index_of(source):
    """Returns the place of the one code cell that has this in it."""
    cells = json.loads(QUICKSTART.read_text())["cells"]
    code = {index: "".join(cell["source"]) for index, cell in enumerate(cells) if cell["cell_type"] == "code"}
    (index,) = (index for index, text in code.items() if source in text)
    return index


def shown_output(lab, source):
    index = index_of(source)
    lab.select_cell(index)
    return lab.output(index)


def test_every_cell_runs_to_its_end(lab, after_run_all):
    cells = json.loads(QUICKSTART.read_text())["cells"]
    count = sum(cell["cell_type"] == "code" for cell in cells)
    assert lab.execution_counts() == list(range(1, count + 1))
    assert lab.page.evaluate(
        """() => [...window.jupyterapp.shell.currentWidget.model.cells]
          .filter(cell => cell.type === 'code')
          .flatMap(cell => cell.outputs.toJSON())
          .filter(output => output.output_type === 'error' || output.name === 'stderr')"""
    ) == []  # fmt: skip


@pytest.mark.usefixtures("after_run_all")
def test_the_outputs_are_below_their_cells(lab, screenshots):
    expect(shown_output(lab, "%gpu offers")).to_contain_text("1 of 1 free  simulated")
    expect(shown_output(lab, "train_test_split(")).to_contain_text("digits to learn from")
    training = shown_output(lab, "tqdm(")
    expect(training.locator(".progress-bar-success")).to_be_visible()
    expect(training).to_contain_text("20/20")
    expect(training).to_contain_text("trained on cpu")
    lab.screenshot(screenshots / "quickstart-training.png")
    expect(shown_output(lab, "%gpu status")).to_contain_text("H100 (simulated)")
    expect(shown_output(lab, "axis.plot(")).to_contain_text("loss after the first epoch")
    expect(shown_output(lab, "axis.plot(").locator("img")).to_be_visible()
    expect(shown_output(lab, "accuracy_score(").locator("img")).to_be_visible()
    expect(shown_output(lab, "accuracy_score(")).to_contain_text("test accuracy: 9")
    for theme in ("Dark", "Light"):
        lab.set_theme(f"JupyterLab {theme}")
        lab.screenshot(screenshots / f"quickstart-{theme.lower()}.png")


@pytest.mark.usefixtures("after_run_all")
def test_the_panel_followed_the_session(lab, after_run_all):
    busy = [state for state in after_run_all if re.fullmatch(r"Running cell \[\d+\]", state["status"])]
    assert busy, f"the panel never said that a cell runs: {[state['status'] for state in after_run_all]}"
    assert all("H100 on" in state["notebook"] and "simulated" in state["notebook"] for state in busy)
    assert all("busy" in state["offer"] and "simulated" in state["offer"] for state in busy)
    expect(lab.section("notebook")).to_contain_text("No session")  # the last cell closes it
    expect(lab.section("accelerators").locator("[data-type=H100]")).to_contain_text("1 of 1 free")
