"""Cells in a real JupyterLab: what only a browser shows works in `%%gpu` cells as it does in local ones."""

import re

import pytest
from playwright.sync_api import expect

from agent_lab import run_lab_with_agent

pytestmark = pytest.mark.usefixtures("console_errors")

on_both_sides = pytest.mark.parametrize("magic", ["", "%%gpu"], ids=["here", "there"])
SLIDER = "import ipywidgets\nslider = ipywidgets.IntSlider(value=3, description='count')\nslider"


@pytest.fixture(scope="module")
def lab(module_page, tmp_path_factory):
    with run_lab_with_agent(module_page, tmp_path_factory.mktemp("lab"), {"NBGPU_SIMULATE": "H100"}) as lab:
        lab.write_notebook("cells.ipynb")
        yield lab


@pytest.fixture
def notebook(lab):
    """Gives the notebook in front other cells, which are numbered from 1: nbgpu is loaded by cell 0."""

    def put(*sources):
        lab.replace_cells("%load_ext nbgpu", *sources)
        lab.run_cell(0)

    return put


@on_both_sides
def test_a_slider_is_shown_and_moves_both_ways(lab, notebook, magic):
    notebook(f"{magic}\n{SLIDER}", f"{magic}\nprint('it is', slider.value)", f"{magic}\nslider.value = 7")
    lab.run_cell(1)

    expect(lab.output(1)).to_contain_text("count")
    lab.output(1).get_by_role("slider").press("ArrowRight")

    expect(lab.output(1).locator(".widget-readout")).to_have_text("4")
    lab.run_cell(2)
    expect(lab.output(2)).to_have_text("it is 4")
    lab.run_cell(3)
    expect(lab.output(1).locator(".widget-readout")).to_have_text("7")


@on_both_sides
def test_widgets_are_back_after_a_reload_and_still_live(lab, notebook, magic):
    notebook(f"{magic}\n{SLIDER}", f"{magic}\nprint('it is', slider.value)")
    lab.run_cell(1)
    lab.output(1).get_by_role("slider").press("ArrowRight")
    expect(lab.output(1).locator(".widget-readout")).to_have_text("4")
    lab.save()

    lab.reload()

    expect(lab.output(1).locator(".widget-readout")).to_have_text("4")
    lab.output(1).get_by_role("slider").press("ArrowRight")
    expect(lab.output(1).locator(".widget-readout")).to_have_text("5")
    lab.run_cell(2)
    expect(lab.output(2)).to_have_text("it is 5")


@on_both_sides
def test_interact_shows_what_its_function_prints_below_its_slider(lab, notebook, magic):
    notebook(
        f"{magic}\nfrom ipywidgets import interact\n"
        "@interact(side=(0, 9))\ndef show(side=3):\n    print('area', side * side)"
    )
    lab.run_cell(1)

    expect(lab.output(1).locator(".widget-interact")).to_contain_text("area 9")
    lab.output(1).get_by_role("slider").press("ArrowRight")

    expect(lab.output(1).locator(".widget-interact")).to_contain_text("area 16")
    expect(lab.output(1).locator(".widget-interact")).not_to_contain_text("area 9")


@on_both_sides
def test_a_button_writes_to_its_output_widget(lab, notebook, magic):
    notebook(
        f"{magic}\nimport ipywidgets\nfrom IPython.display import display\n"
        "button, output = ipywidgets.Button(description='press'), ipywidgets.Output()\n"
        "def say(_):\n    with output:\n        print('pressed')\n        display({'text/plain': 'shown'}, raw=True)\n"
        "        1 / 0\n"
        "button.on_click(say)\ndisplay(button, output)",
        f"{magic}\nwith output:\n    print('from a later cell')\nlen(output.outputs)",
    )
    lab.run_cell(1)
    lab.output(1).get_by_role("button", name="press").click()

    inside = lab.output(1).locator(".widget-output, .jupyter-widget-output").first
    expect(inside).to_contain_text("pressed")
    expect(inside).to_contain_text("shown")
    expect(inside).to_contain_text("ZeroDivisionError")
    lab.run_cell(2)
    expect(inside).to_contain_text("from a later cell")
    expect(lab.output(2)).not_to_contain_text("from a later cell")


@on_both_sides
def test_a_notebook_progress_bar_is_a_widget_that_fills(lab, notebook, magic):
    notebook(
        f"{magic}\nfrom tqdm.notebook import tqdm\nfor _ in tqdm(range(20), desc='steps'):\n    pass\nprint('end')"
    )
    lab.run_cell(1)

    expect(lab.output(1).locator(".progress-bar")).to_have_class(re.compile(r"\bprogress-bar-success\b"))
    expect(lab.output(1)).to_contain_text("steps: 100%")
    expect(lab.output(1)).to_contain_text("20/20")
    expect(lab.output(1)).to_contain_text("end")


@on_both_sides
def test_output_appears_while_the_cell_runs(lab, notebook, magic):
    notebook(
        f"{magic}\nimport pathlib, time\nprint('first')\n"
        "while not pathlib.Path('go-on').exists():\n    time.sleep(0.01)\nprint('second')"
    )
    lab.start_cell(1)

    expect(lab.output(1)).to_have_text("first")
    expect(lab.cell(1)).to_contain_text("[*]")
    go_on = lab.server.work_folder / "go-on"
    go_on.touch()

    lab.wait_until_run()
    expect(lab.output(1)).to_have_text("first\nsecond")
    go_on.unlink()


@on_both_sides
def test_the_stop_button_interrupts(lab, notebook, magic):
    name = "kept_there" if magic else "kept_here"  # one notebook for both, whose own value would be the one that counts
    notebook(f"{magic}\nimport time\n{name} = 5\nprint('begun')\ntime.sleep(3600)", f"{magic}\nprint('kept', {name})")
    lab.start_cell(1)
    expect(lab.output(1)).to_contain_text("begun")

    lab.page.locator('.jp-NotebookPanel:visible [data-command="notebook:interrupt-kernel"]').click()

    lab.wait_until_run()
    expect(lab.output(1)).to_contain_text("KeyboardInterrupt")
    lab.run_cell(2)
    expect(lab.output(2)).to_have_text("kept 5")


def test_the_keyboard_interrupts(lab, notebook):
    notebook("%%gpu\nimport time\nprint('begun')\ntime.sleep(3600)")
    lab.start_cell(1)
    expect(lab.output(1)).to_contain_text("begun")

    lab.cell(1).locator(".jp-InputPrompt").click()  # command mode
    lab.page.keyboard.press("i")
    lab.page.keyboard.press("i")

    lab.wait_until_run()
    expect(lab.output(1)).to_contain_text("KeyboardInterrupt")


@on_both_sides
def test_run_all_stops_at_an_error(lab, notebook, magic):
    failing = f"{magic}\nprint('so far')\ninput()\n1 / 0"
    notebook(f"{magic}\nprint('before')", failing, f"{magic}\nprint('after')")
    lab.choose_in_menu("Run", "Run All Cells")
    # A kernel drops what has arrived by the time of the error; the page sends each cell by itself, and may be slower.
    expect(lab.cell(3).locator(".jp-InputPrompt")).to_have_text("[*]:")
    lab.output(2).locator("input").press("Enter")
    expect(lab.output(2)).to_contain_text("ZeroDivisionError: division by zero")

    lab.wait_until_run()
    expect(lab.output(1)).to_have_text("before")
    expect(lab.output(2)).to_contain_text("so far")
    expect(lab.output(2).get_by_text("Traceback (most recent call last)")).to_have_count(1)
    expect(lab.output(3)).to_have_text("")
    assert lab.execution_counts()[3] is None


def test_a_restarted_kernel_finds_its_session_and_the_variables(lab, notebook):
    notebook("%%gpu\nkept = 5", "%%gpu\nprint('kept', kept)")
    lab.run_cell(1)

    lab.restart_kernel()

    lab.run_cell(0)
    lab.run_cell(2)
    expect(lab.output(2)).to_have_text("kept 5")


def test_switched_on_every_cell_says_where_it_ran(lab, notebook):
    notebook("%gpu on", "import os; os.environ['CUDA_VISIBLE_DEVICES']", "%gpu off", "print('back')")
    lab.run_cell(1)
    expect(lab.output(1)).to_contain_text("every cell now runs on H100 (simulated)")

    lab.run_cell(2)
    expect(lab.output(2)).to_contain_text("▸ on H100 (simulated)")
    lab.run_cell(3)
    lab.run_cell(4)

    expect(lab.output(4)).to_have_text("back")


@on_both_sides
def test_tab_completes_and_shift_tab_explains_what_the_kernel_knows(lab, notebook, magic):
    notebook(
        f"{magic}\ndef known_over_there(x):\n    '''Says what it is for.'''\n    return x\n"
        "get_ipython().complete('known')",  # the first one takes long, since it loads a parser
        f"{magic}\nknown_over",
    )
    lab.run_cell(1)
    lab.type_at_end_of(2, "")
    lab.page.keyboard.press("Tab")

    expect(lab.page.locator(".jp-Completer:visible")).to_contain_text("known_over_there")
    lab.page.keyboard.press("Enter")
    expect(lab.cell(2).locator(".cm-content")).to_contain_text("known_over_there")
    lab.page.keyboard.press("Shift+Tab")

    expect(lab.page.locator(".jp-Tooltip")).to_contain_text("Says what it is for.")
    lab.page.keyboard.press("Escape")


@on_both_sides
def test_input_asks_below_the_cell(lab, notebook, magic):
    notebook(f"{magic}\nname = input('who? ')\nprint('hello', name)")
    lab.start_cell(1)
    lab.output(1).locator("input").fill("Ada")
    lab.output(1).locator("input").press("Enter")

    lab.wait_until_run()
    expect(lab.output(1)).to_contain_text("who?  Ada")
    expect(lab.output(1)).to_contain_text("hello Ada")
