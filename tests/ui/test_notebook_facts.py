"""How the notebook and its session stand to each other, in the sidebar of a real JupyterLab with a real agent."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from agent_lab import run_lab_with_agent

pytestmark = pytest.mark.usefixtures("console_errors")

WAIT_MS = 60_000
SETUP = "%load_ext nbgpu\n%gpu attach H100\nimport os, pathlib, time\ndata = list(range(10_000))"
USE = "%%gpu -i data\ntotal = sum(data)\nlarge = bytes(32 << 20)"
SET = "os.environ['NBGPU_TEST_MODE'] = 'fast'\n%gpu env -e NBGPU_TEST_MODE"
CHANGE = "os.environ['NBGPU_TEST_MODE'] = 'slow'"
WAIT = "while not pathlib.Path('go.txt').exists():\n    time.sleep(0.02)"


@pytest.fixture(scope="module")
def lab(module_page, tmp_path_factory):
    with run_lab_with_agent(module_page, tmp_path_factory.mktemp("lab"), {"NBGPU_SIMULATE": "H100"}) as lab:
        lab.open_panel()
        lab.write_notebook("facts.ipynb")
        lab.replace_cells(SETUP, USE, SET, CHANGE, WAIT)
        lab.run_cell(0)
        yield lab


@pytest.fixture
def rows(lab):
    return lab.section("notebook").locator(".nbgpu-Facts")


def notebook_folder(lab) -> Path:
    return Path(
        lab.page.evaluate(
            """async () => {
              const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
              const future = kernel.requestExecute(
                { code: '', silent: true, user_expressions: { folder: "str(pathlib.Path.cwd())" } });
              const reply = await future.done;
              return reply.content.user_expressions.folder.data['text/plain'].slice(1, -1);
            }"""
        )
    )


def test_variables_that_the_session_has_are_counted_and_listed(lab, rows):
    lab.run_cell(1)
    expect(rows).to_contain_text(re.compile(r"2 sent \(\d+ KiB\), 1 handle"), timeout=WAIT_MS)
    rows.get_by_text("1 handle").click()
    details = rows.locator("details[open] li")
    expect(details).to_have_text(
        [re.compile("^data, .* sent$"), re.compile(r"^total, \d+ B, sent$"), re.compile("^large, 32.* handle$")]
    )


def test_a_difference_is_said_after_a_local_cell_and_synced_by_the_button(lab, rows):
    expect(rows).to_contain_text("the notebook’s own", timeout=WAIT_MS)
    lab.run_cell(2)
    expect(rows).to_contain_text("1 environment variable set", timeout=WAIT_MS)
    counts = lab.execution_counts()

    rows.get_by_role("button", name="Sync").click()

    expect(rows).to_contain_text("the notebook’s own", timeout=WAIT_MS)
    expect(rows.get_by_role("button", name="Sync")).to_have_count(0)
    assert lab.execution_counts() == counts  # it left nothing in the notebook


def test_a_sync_waits_for_the_cell_that_runs_and_an_idle_gpu_is_pointed_out_meanwhile(lab, rows, screenshots):
    folder = notebook_folder(lab)
    lab.run_cell(3)
    expect(rows).to_contain_text("1 environment variable set", timeout=WAIT_MS)
    lab.set_setting("idleWarningSeconds", 1)
    lab.start_cell(4)

    advice = lab.cell(4).locator(".nbgpu-CellLine-advice")
    expect(advice).to_contain_text("H100 is attached and idle while this cell runs here for", timeout=WAIT_MS)
    expect(advice).to_contain_text("begin the cell with %%gpu to use it, or detach and close it to save cost.")
    button = rows.get_by_role("button", name="Sync")
    button.click()
    expect(rows.get_by_role("status")).to_have_text("Waits for the cell that runs here")
    expect(button).to_be_disabled()
    lab.screenshot(screenshots / "sync-waits.png")
    advice.get_by_role("button", name="Dismiss").click()
    expect(advice).to_be_hidden()

    (folder / "go.txt").touch()

    expect(rows).to_contain_text("the notebook’s own", timeout=WAIT_MS)
    lab.wait_until_run()


def test_a_sync_that_fails_says_why(lab, rows):
    folder = notebook_folder(lab)
    (folder / "go.txt").unlink(missing_ok=True)
    lab.replace_source(3, "os.environ['NBGPU_TEST_MODE'] = 'other'")
    lab.run_cell(3)
    expect(rows).to_contain_text("1 environment variable set", timeout=WAIT_MS)
    lab.start_cell(4)
    rows.get_by_role("button", name="Sync").click()
    expect(rows.get_by_role("status")).to_have_text("Waits for the cell that runs here")

    lab.restart_kernel()

    alert = lab.panel.get_by_role("alert")
    expect(alert).to_contain_text("The notebook’s kernel ended or restarted before the sync was done.", timeout=WAIT_MS)
    alert.get_by_role("button", name="Dismiss").click()
    rows.get_by_role("button", name="Sync").click()  # which the fresh kernel knows how to do
    expect(alert).to_have_count(0)
    expect(rows.get_by_role("status")).to_have_text("")
