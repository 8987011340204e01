"""Output that nobody was there to see: it is under the cell when the notebook is opened again."""

import json
import os
import signal
from contextlib import ExitStack

import pytest
from playwright.sync_api import expect

from agent_lab import end_agent, run_async, wait_until_gone
from jupyter_servers import run_jupyter_server
from lab_page import LAB_ARGUMENTS, LabPage
from nbgpu_protocol.discovery import read_record

WAIT_MS = 90_000
CELL = """%%gpu CPU
import sys, time
from pathlib import Path
from IPython.display import HTML, clear_output, display
print("gone", flush=True)
clear_output()
bar = display(HTML("<b>0 of 2</b>"), display_id=True)
for step in range(3):
    print(f"step {step}", end="\\r", flush=True)
print("\\nwaiting", flush=True)
while not Path("GATE").exists():
    time.sleep(0.02)
bar.update(HTML("<b>2 of 2</b>"))
print("late", flush=True)
print("to stderr", file=sys.stderr, flush=True)
display({"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg' height='9'/>"}, raw=True)
1 / 0
"""
SHOWN = """index => window.jupyterapp.shell.currentWidget.model.cells.get(index).outputs.toJSON()"""
STATE = """index => {
  const { executionState, trusted } = window.jupyterapp.shell.currentWidget.model.cells.get(index);
  return [executionState, trusted];
}"""


class Workplace:
    """A folder that one Jupyter server after another serves to the same page, and the agent that outlives them."""

    def __init__(self, page, folder):
        self._page = page
        self._folder = folder
        self._stack = ExitStack()

    def serve(self):
        """Starts a server, in the place of the last one, and opens JupyterLab."""
        self._page.goto("about:blank")
        self._stack.close()
        serving = run_jupyter_server(self._folder, {}, module="jupyterlab", arguments=LAB_ARGUMENTS)
        self.lab = LabPage(self._page, self._stack.enter_context(serving))
        self.lab.open()
        return self.lab

    def kill_server(self):
        """Ends the server as if the machine had: nobody saves anything, or says goodbye."""
        self._page.goto("about:blank")
        os.kill(self.lab.server.process.pid, signal.SIGKILL)
        self.lab.server.process.wait()

    def close(self):
        record = read_record(self.lab.server.agent_folder)
        run_async(end_agent(self.lab.server.agent_folder))
        if record is not None:
            wait_until_gone(record.pid)
        self._stack.close()


@pytest.fixture(scope="module")
def workplace(module_page, tmp_path_factory):
    workplace = Workplace(module_page, tmp_path_factory.mktemp("replay"))
    workplace.serve()
    yield workplace
    workplace.lab.close_all()
    workplace.close()


def gated(workplace, name):
    """Returns a cell that waits for a file, and that file."""
    gate = workplace.lab.server.work_folder / f"{name}.gate"
    return CELL.replace("GATE", str(gate)), gate


def start(lab, name, source):
    """Runs the cell until it waits, and saves the notebook."""
    lab.write_notebook(name, "%load_ext nbgpu", source)
    lab.run_cell(0)
    lab.start_cell(1)
    expect(lab.output(1)).to_contain_text("waiting", timeout=WAIT_MS)
    lab.save()


def saved_cell(lab, name, index=1):
    lab.save()
    return json.loads((lab.server.work_folder / name).read_text())["cells"][index]


@pytest.fixture(scope="module")
def undisturbed(workplace):
    """The cell as its notebook's file has it when somebody was there from its beginning to its end."""
    source, gate = gated(workplace, "undisturbed")
    gate.touch()
    start(workplace.lab, "undisturbed.ipynb", source)
    workplace.lab.wait_until_run()
    cell = saved_cell(workplace.lab, "undisturbed.ipynb")
    assert [each["output_type"] for each in cell["outputs"]] == [
        "display_data",
        "stream",
        "stream",
        "display_data",
        "error",
    ]
    workplace.lab.close_all()
    return cell


def alike(cell, gate):
    """Returns what is to be equal in cells that differ in the file that they waited for."""
    outputs = json.dumps(cell["outputs"]).replace(str(gate.parent / "undisturbed.gate"), str(gate))
    return outputs, cell["execution_count"]


def test_a_cell_goes_on_under_another_server_and_kernel(workplace, undisturbed, screenshots):
    source, gate = gated(workplace, "killed")
    start(workplace.lab, "killed.ipynb", source)
    workplace.kill_server()

    lab = workplace.serve()
    lab.open_notebook("killed.ipynb")
    expect(lab.output(1)).to_contain_text("waiting", timeout=WAIT_MS)
    expect(lab.cell(1).locator(".jp-InputPrompt")).to_have_text("[*]:")
    expect(lab.cell(1)).to_contain_text("running on", timeout=WAIT_MS)
    assert lab.page.evaluate(STATE, 1) == ["running", True]
    lab.screenshot(screenshots / "replay-running.png")

    gate.touch()
    expect(lab.output(1)).to_contain_text("ZeroDivisionError", timeout=WAIT_MS)
    lab.wait_until_run()
    assert alike(saved_cell(lab, "killed.ipynb"), gate) == alike(undisturbed, gate)
    lab.screenshot(screenshots / "replay-over.png")

    # the session is the notebook's again, with what the cell has made
    lab.replace_source(0, "%load_ext nbgpu\n%gpu pull step\nprint(f'{step=}')")
    lab.run_cell(0)
    expect(lab.output(0)).to_contain_text("step=2", timeout=WAIT_MS)


def test_a_page_that_is_loaded_anew_shows_what_was_said_meanwhile_until_it_is_put_away(workplace, undisturbed):
    lab = workplace.lab
    source, gate = gated(workplace, "reloaded")
    start(lab, "reloaded.ipynb", source)
    lab.wait_until_layout_has("notebook:reloaded.ipynb")
    lab.page.goto("about:blank")
    gate.touch()
    load_again(lab)
    expect(lab.output(1)).to_contain_text("ZeroDivisionError", timeout=WAIT_MS)
    lab.wait_until_run()
    assert alike(saved_cell(lab, "reloaded.ipynb"), gate) == alike(undisturbed, gate)

    with lab.page.expect_response(lambda response: "/saved" in response.url) as answer:
        lab.select_cell(1)
        lab.execute("notebook:clear-cell-output")
    assert answer.value.status == 204
    lab.save()
    lab.page.goto("about:blank")
    answered = []
    lab.page.on("websocket", lambda socket: "/replay" in socket.url and note_answer(socket, answered))
    load_again(lab)
    lab.wait_for(lambda: answered)
    assert lab.page.evaluate(SHOWN, 1) == []


def load_again(lab):
    lab.page.goto(f"{lab.server.url}lab")
    lab.wait_until_usable()


def note_answer(socket, answered):
    """Has the socket put itself into the list when it was asked, and is closed since."""
    asked = []
    socket.on("framesent", lambda _: asked.append(socket))
    socket.on("close", lambda _: answered.extend(asked))
