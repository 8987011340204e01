"""From the click on *Attach* to the line under the finished cell, on this machine's own agent."""

import re

import pytest
from playwright.sync_api import expect

from agent_lab import agent_pool, run_async, run_lab_with_agent
from lab_page import LabPage

pytestmark = pytest.mark.usefixtures("console_errors")

BUSY_UNTIL = """%%gpu
import os
while not os.path.exists({path!r}):
    pass
print("seen")"""
METADATA = "index => window.jupyterapp.shell.currentWidget.model.cells.get(index).getMetadata('nbgpu') ?? null"
SHORTCUT = "Control+Shift+Enter"


@pytest.fixture(scope="module")
def lab(module_page, tmp_path_factory):
    environ = {"NBGPU_SIMULATE": "H100x8,A10x2", "NBGPU_PRICES": "H100=2.10,A10=0.75"}
    with run_lab_with_agent(module_page, tmp_path_factory.mktemp("lab"), environ) as lab:
        lab.write_notebook("attach.ipynb")
        lab.open_panel()
        expect(lab.offers).to_have_count(3)
        yield lab


@pytest.fixture
def notebook(lab):
    """Gives the notebook in front other cells, with nbgpu loaded by cell 0, and no session."""

    def put(*sources):
        lab.replace_cells("%load_ext nbgpu", *sources)
        lab.run_cell(0)

    yield put
    run_async(close_sessions(lab.server.agent_folder))
    expect(lab.section("sessions")).to_contain_text("None is open")


async def close_sessions(folder):
    async with agent_pool(folder) as pool:
        for session in await pool.list_sessions():
            await pool.close_session(session.id)


def offer(lab, type_):
    return lab.section("accelerators").locator(f'[data-type="{type_}"]')


def test_a_session_attached_by_click_is_the_one_that_gpu_cells_run_in(lab, notebook, screenshots, tmp_path):
    path = tmp_path / "go-on"
    notebook(BUSY_UNTIL.format(path=str(path)))
    lab.attach("H100", 4)

    expect(lab.section("notebook").get_by_role("status")).to_have_text("Idle")
    expect(lab.section("notebook")).to_contain_text("H100 ×4 on")
    expect(offer(lab, "H100")).to_contain_text("4 of 8 free")
    expect(offer(lab, "H100")).to_contain_text("$2.10/h")

    lab.start_cell(1)

    expect(lab.section("notebook").get_by_role("status")).to_have_text("Running cell [2]")
    line = lab.cell(1).locator(".nbgpu-CellLine")
    expect(line).to_contain_text(re.compile(r"running on H100 ×4 \(simulated\) for 0:\d\d"))
    expect(lab.cell(1)).to_have_class(re.compile("nbgpu-mod-running"))
    # the readings move while the notebook's own kernel is busy
    expect(lab.section("gpus").get_by_role("button", name=re.compile(r"^GPU 0, .*: [1-9]\d*% busy"))).to_be_visible()
    expect(line).to_contain_text(re.compile(r"GPU [1-9]\d*%"))
    expect(lab.page.locator(".nbgpu-StatusBarItem")).to_contain_text(re.compile(r"H100 ×4 · [1-9]\d*%"))
    expect(lab.page.locator(".nbgpu-ToolbarItem:visible")).to_have_text("H100 ×4 · running")
    lab.screenshot(screenshots / "running.png")
    path.touch()
    lab.wait_until_run()

    expect(lab.output(1)).to_have_text("seen")
    finished = re.compile(r"^H100 ×4 \(simulated\) · .+ · mean \d+% · peak \d+ MiB · \$0\.\d+$")
    expect(line).to_have_text(finished)
    expect(lab.cell(1)).to_have_class(re.compile("nbgpu-mod-ran"))
    expect(lab.section("sessions").locator("[data-session]")).to_have_count(1)
    assert lab.page.evaluate(METADATA, 1)["succeeded"] is True
    lab.screenshot(screenshots / "finished.png")
    lab.save()

    lab.reload()

    expect(lab.cell(1).locator(".nbgpu-CellLine")).to_have_text(finished)
    lab.open_panel()
    expect(lab.section("notebook").get_by_role("status")).to_have_text("Idle")
    expect(lab.section("notebook")).to_contain_text("H100 ×4 on")


def test_a_session_attached_by_a_magic_appears_and_is_closed_by_click(lab, notebook):
    notebook("%gpu attach A10")
    lab.run_cell(1)
    expect(lab.section("notebook")).to_contain_text("A10 on")
    expect(lab.section("notebook")).to_contain_text("none sent")  # the last of what moves the buttons down
    expect(offer(lab, "A10")).to_contain_text("1 of 2 free")

    lab.section("notebook").get_by_role("button", name="Close").click()  # nothing is lost: no question

    expect(lab.section("notebook")).to_contain_text("No session")
    expect(offer(lab, "A10")).to_contain_text("2 of 2 free")


def test_a_cell_is_interrupted_by_click_and_marked_as_failed(lab, notebook, tmp_path):
    notebook(BUSY_UNTIL.format(path=str(tmp_path / "never")))
    lab.attach("A10")
    expect(lab.section("notebook").get_by_role("status")).to_have_text("Idle")
    lab.start_cell(1)
    expect(lab.section("notebook").get_by_role("status")).to_have_text(re.compile(r"Running cell \[\d+\]"))

    lab.section("notebook").get_by_role("button", name="Interrupt").click()

    lab.wait_until_run()
    expect(lab.output(1)).to_contain_text("KeyboardInterrupt")
    expect(lab.cell(1)).to_have_class(re.compile("nbgpu-mod-failed"))
    expect(lab.cell(1).locator(".nbgpu-CellLine")).to_contain_text("failed")


def test_a_detached_session_goes_on_and_is_attached_again(lab, notebook):
    notebook("%%gpu\nkept = 3", "%%gpu\nprint(kept)")
    lab.attach("A10")
    expect(lab.section("notebook").get_by_role("status")).to_have_text("Idle")
    lab.run_cell(1)

    lab.section("notebook").get_by_role("button", name="Detach").click()

    expect(lab.section("notebook")).to_contain_text("No session")
    row = lab.section("sessions").locator("[data-session]")
    row.get_by_role("button").first.click()
    row.get_by_role("button", name="Attach here").click()
    expect(lab.section("notebook")).to_contain_text("A10 on")
    lab.run_cell(2)
    expect(lab.output(2)).to_have_text("3")


def test_more_than_there_are_waits_and_can_be_withdrawn(lab, notebook):
    notebook()
    lab.attach("H100", 8)
    expect(lab.section("notebook")).to_contain_text("H100 ×8 on")
    second = lab.open_notebook("second.ipynb")
    assert second is not None
    lab.attach("H100", 2)
    expect(lab.section("notebook").get_by_role("status")).to_have_text(re.compile("^Queued, 1st"))
    expect(offer(lab, "H100")).to_contain_text("busy, 1 waiting")

    lab.section("notebook").get_by_role("button", name="Withdraw").click()

    expect(lab.section("notebook")).to_contain_text("No session")
    expect(offer(lab, "H100")).not_to_contain_text("waiting")
    row = lab.section("sessions").locator("[data-session]")
    row.get_by_role("button").first.click()
    row.get_by_role("button", name="Open notebook").click()
    expect(lab.section("notebook")).to_contain_text("H100 ×8 on")


def test_the_shortcut_makes_a_cell_one_that_runs_on_a_gpu(lab):
    lab.write_notebook("plain.ipynb", "import os\nprint('ran there')")
    lab.select_cell(0)
    lab.cell(0).locator(".cm-content").click()

    lab.page.keyboard.press(SHORTCUT)

    expect(lab.output(1)).to_have_text("ran there")
    lab.wait_until_run()
    sources = lab.page.evaluate(
        "() => [...window.jupyterapp.shell.currentWidget.model.cells].map(cell => cell.sharedModel.getSource())"
    )
    assert sources == ["%load_ext nbgpu", "%%gpu\nimport os\nprint('ran there')"]
    expect(lab.cell(1).locator(".nbgpu-CellLine")).to_contain_text("simulated")
    lab.section("notebook").get_by_role("button", name="Close").click()
    lab.page.locator(".jp-Dialog").get_by_role("button", name="Close").click()
    expect(lab.section("notebook")).to_contain_text("No session")
    lab.open_notebook("attach.ipynb")


def test_a_local_cell_forgets_where_it_ran_before(lab, notebook):
    notebook("%%gpu CPU\nprint(1)")
    lab.run_cell(1)
    expect(lab.cell(1).locator(".nbgpu-CellLine")).to_contain_text("CPU")
    lab.replace_source(1, "print(2)")
    lab.run_cell(1)
    expect(lab.output(1)).to_have_text("2")
    expect(lab.cell(1).locator(".nbgpu-CellLine")).to_be_hidden()
    assert lab.page.evaluate(METADATA, 1) is None


def test_two_windows_on_one_notebook_show_the_same(lab, notebook, browser):
    notebook()
    lab.save()
    context = browser.new_context(viewport={"width": 1200, "height": 760})
    try:
        other = LabPage(context.new_page(), lab.server)
        other.open()
        assert other.open_notebook("attach.ipynb") == lab.open_notebook("attach.ipynb")
        other.open_panel()
        lab.attach("A10", 2)
        for window in (lab, other):
            expect(window.section("notebook")).to_contain_text("A10 ×2 on")
            expect(window.page.locator(".nbgpu-ToolbarItem:visible")).to_have_text("A10 ×2 · idle")
        other.section("notebook").get_by_role("button", name="Close").click()
        for window in (lab, other):
            expect(window.section("notebook")).to_contain_text("No session")
        assert other.page_errors == []
    finally:
        context.close()


def test_notebook_7_has_the_same(lab, notebook, browser, screenshots):
    notebook("%%gpu\nprint('ran there')")
    lab.save()
    context = browser.new_context(viewport={"width": 1200, "height": 760})
    try:
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(error.stack or str(error)))
        page.goto(f"{lab.server.url}notebooks/attach.ipynb?token={lab.server.token}")
        # The menus are made anew for the notebook's kernel; a menu that is open then is gone.
        expect(page.locator(".jp-NotebookKernelStatus")).to_have_class(re.compile("-fade"))  # it is idle
        page.get_by_role("menuitem", name="View", exact=True).click()
        page.get_by_role("menuitem", name="GPU Panel").click()
        panel = page.locator("#nbgpu-panel")
        expect(panel.locator("[data-section=notebook]")).to_contain_text("No session")
        panel.locator('[data-type="A10"]').click()
        panel.get_by_role("button", name="Attach").click()
        expect(page.locator(".nbgpu-ToolbarItem")).to_have_text("A10 · idle")
        page.locator(".jp-CodeCell").nth(1).locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        line = page.locator(".jp-CodeCell").nth(1).locator(".nbgpu-CellLine")
        expect(line).to_contain_text("A10 (simulated) · ")
        page.screenshot(path=screenshots / "notebook-7.png")
        panel.get_by_role("button", name="Open charts of all GPUs").click()
        expect(page.locator(".nbgpu-Charts:visible canvas").first).to_be_visible()
        page.screenshot(path=screenshots / "notebook-7-charts.png")
        assert [error for error in errors if "nbgpu" in error] == []  # Notebook 7 has one of its own
    finally:
        context.close()
