"""A page of JupyterLab as the tests use it, with waits that hold under load."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from playwright.sync_api import Locator, Page, expect

from jupyter_servers import JupyterServer

WAIT_MS = 60_000
T = TypeVar("T")
LAB_ARGUMENTS = ("--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly")
KERNEL_READY = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  if (panel.sessionContext.session?.kernel) {
    await panel.sessionContext.session.kernel.info;
    return panel.sessionContext.session.kernel.id;
  }
  return null;
}"""
LAYOUT_HAS = """async name => {
  const { data } = await window.jupyterapp.serviceManager.workspaces.fetch('default');
  return JSON.stringify(data['layout-restorer:data']?.main ?? null).includes(`"${name}"`);
}"""
AWAIT_RESTART = """() => {
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
  window.restarted = new Promise(resolve => {
    let isRestarting = false;
    const look = (_, status) => {
      isRestarting ||= status === 'restarting' || status === 'autorestarting';
      if (isRestarting && status === 'idle') {
        kernel.statusChanged.disconnect(look);
        resolve();
      }
    };
    kernel.statusChanged.connect(look);
  });
}"""
EMPTY_NOTEBOOK = {
    "cells": [],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def code_cell(number: int, source: str) -> dict[str, object]:
    """Returns a code cell as a notebook's file has it."""
    return {
        "cell_type": "code",
        "id": f"cell-{number}",
        "source": source,
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }


class LabPage:
    """JupyterLab in a browser, on a server that runs."""

    def __init__(self, page: Page, server: JupyterServer) -> None:
        self.page = page
        self.server = server
        self.page_errors: list[str] = []
        page.set_default_timeout(WAIT_MS)
        expect.set_options(timeout=WAIT_MS)
        page.on("pageerror", lambda error: self.page_errors.append(str(error)))

    @property
    def panel(self) -> Locator:
        return self.page.locator("#nbgpu-panel")

    def section(self, name: str) -> Locator:
        return self.panel.locator(f"[data-section={name}]")

    @property
    def offers(self) -> Locator:
        """The rows of the picker."""
        return self.section("accelerators").locator("[data-type]")

    def attach(self, type_: str, count: int = 1) -> None:
        """Chooses an accelerator in the panel and clicks on *Attach*; does not wait."""
        picker = self.section("accelerators")
        picker.locator(f'[data-type="{type_}"]').click()
        if count > 1:
            picker.locator(".nbgpu-Count", has_text=re.compile(f"^{count}$")).click()
        picker.get_by_role("button", name="Attach").click()

    def open(self) -> None:
        """Opens JupyterLab anew, without what it remembers of an earlier visit, and returns when it can be used."""
        self.page.goto(f"{self.server.url}lab?token={self.server.token}&reset")
        self.wait_until_usable()
        # JupyterLab takes `reset` out of the address later; until then a reload would forget everything again
        self.page.wait_for_url(lambda url: "reset" not in url)

    def wait_until_usable(self) -> None:
        self.page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)
        self.page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)", timeout=60_000)

    def reload(self) -> None:
        self.page.reload()
        self.wait_until_usable()

    def wait_until_layout_has(self, name: str) -> None:
        """Waits until a widget of that name in the main area would come back after a reload.

        JupyterLab saves its layout half a second after the last change of it. A page that is left before that comes
        back without what was opened last, whichever extension's or JupyterLab's own it is.
        """
        # `wait_for_function` takes a promise, whatever comes of it, for what it waits for
        self.wait_for(lambda: self.page.evaluate(LAYOUT_HAS, name), 60_000)

    def open_panel(self) -> None:
        """Clicks on the icon in the sidebar, if the panel is not in front."""
        tab = self.page.locator('.jp-SideBar .lm-TabBar-tab[title="GPU"]')
        if "lm-mod-current" not in (tab.get_attribute("class") or ""):
            tab.click()
        expect(self.panel).to_be_visible()

    def execute(self, command: str, **arguments: str) -> None:
        """Executes one of JupyterLab's commands to its end."""
        # Not as one expression: Playwright would send what the command returns, such as a whole notebook widget.
        self.page.evaluate(
            """async ([command, args]) => {
              await window.jupyterapp.commands.execute(command, args);
            }""",
            [command, arguments],
        )

    def set_theme(self, name: str) -> None:
        """`name` is "JupyterLab Light" or "JupyterLab Dark"."""
        self.execute("apputils:change-theme", theme=name)
        expect(self.page.locator(f'body[data-jp-theme-name="{name}"]')).to_be_attached()
        # another change while this one's splash fades makes JupyterLab remove the splash twice, and throw
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")

    def open_notebook(self, name: str) -> str | None:
        """Opens a notebook, an empty one if there is none of that name, and returns its kernel's id once connected."""
        path = self.server.work_folder / name
        if not path.exists():
            path.write_text(json.dumps(EMPTY_NOTEBOOK))
        self.execute("docmanager:open", path=name)
        expect(self.page.locator(".jp-NotebookPanel:visible")).to_have_count(1)
        kernel_id: str | None = self.page.evaluate(KERNEL_READY)
        return kernel_id

    def write_notebook(self, name: str, *sources: str) -> str | None:
        """Opens a new notebook with these code cells, and returns its kernel's id once connected."""
        notebook = {**EMPTY_NOTEBOOK, "cells": [code_cell(number, source) for number, source in enumerate(sources)]}
        (self.server.work_folder / name).write_text(json.dumps(notebook))
        return self.open_notebook(name)

    def replace_cells(self, *sources: str) -> None:
        """Puts these code cells in the place of those of the notebook in front; its kernel goes on."""
        self.page.evaluate(
            """cells => {
              const { sharedModel } = window.jupyterapp.shell.currentWidget.model;
              sharedModel.transact(() => {
                sharedModel.deleteCellRange(0, sharedModel.cells.length);
                sharedModel.insertCells(0, cells);
              });
            }""",
            [code_cell(number, source) for number, source in enumerate(sources)],
        )

    def replace_source(self, index: int, source: str) -> None:
        self.page.evaluate(
            """([index, source]) => window.jupyterapp.shell.currentWidget.model.cells.get(index)
              .sharedModel.setSource(source)""",
            [index, source],
        )

    def wait_for(self, condition: Callable[[], T], timeout_ms: float = WAIT_MS) -> T:
        """Lets the page go on until something that it does to the test's own fakes has come true; returns that."""
        deadline = time.monotonic() + timeout_ms / 1000
        while not (result := condition()):
            assert time.monotonic() < deadline, "it did not come true"
            self.page.wait_for_timeout(10)
        return result

    def set_setting(self, name: str, value: bool | int) -> None:
        """Changes one of nbgpu's settings as the settings editor does, and returns when it is saved."""
        self.page.evaluate(
            """async ([name, value]) => {
              const { settings } = window.jupyterapp.serviceManager;
              const id = '@nbgpu/labextension:plugin';
              const raw = JSON.parse((await settings.fetch(id)).raw || '{}');
              await settings.save(id, JSON.stringify({ ...raw, [name]: value }));
              const registry = await window.jupyterapp.resolveOptionalService(
                [...window.jupyterapp.pluginRegistry._services.keys()].find(
                  token => token.name === '@jupyterlab/coreutils:ISettingRegistry'));
              await registry.reload(id);
            }""",
            [name, value],
        )

    def cell(self, index: int) -> Locator:
        """Returns a cell of the notebook in front; one that is far out of sight is not in the page."""
        return self.page.locator(f'.jp-NotebookPanel:visible .jp-Cell[data-windowed-list-index="{index}"]')

    def output(self, index: int) -> Locator:
        """Returns all that is below a cell."""
        return self.cell(index).locator(".jp-Cell-outputWrapper")

    def select_cell(self, index: int) -> None:
        self.page.evaluate(
            """async index => {
              const notebook = window.jupyterapp.shell.currentWidget.content;
              notebook.activeCellIndex = index;
              await notebook.scrollToItem(index);
            }""",
            index,
        )

    def start_cell(self, index: int) -> None:
        """Runs a cell as a click on the button does; does not wait."""
        self.select_cell(index)
        self.page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-cell')")

    def run_cell(self, index: int) -> None:
        """Runs a cell to its end."""
        self.start_cell(index)
        self.wait_until_run()

    def type_at_end_of(self, index: int, text: str) -> None:
        """Puts the cursor behind the last character of a cell and types."""
        self.select_cell(index)
        self.cell(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+End")
        self.page.keyboard.type(text)

    def restart_kernel(self) -> None:
        """Restarts the notebook's kernel from the menu, and returns when the new one answers."""
        self.page.evaluate(AWAIT_RESTART)
        self.choose_in_menu("Kernel", re.compile("^Restart Kernel…"))
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.page.evaluate("() => window.restarted")

    def save(self) -> None:
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")

    def choose_in_menu(self, *names: str | re.Pattern[str]) -> None:
        """Clicks on a menu and its items, one below the other."""
        for name in names:
            self.page.get_by_role("menuitem", name=name, exact=True).click()

    def wait_until_run(self, timeout_ms: float = 60_000) -> None:
        """Waits until no cell of the notebook in front runs or is to run."""
        self.page.wait_for_function(
            """() => [...window.jupyterapp.shell.currentWidget.model.cells]
              .every(cell => cell.type !== 'code' || cell.executionState !== 'running')""",
            timeout=timeout_ms,
        )

    def execution_counts(self) -> list[int | None]:
        """Returns the numbers in front of the code cells; None where a cell has not been run to its end."""
        counts: list[int | None] = self.page.evaluate(
            """() => [...window.jupyterapp.shell.currentWidget.model.cells]
              .filter(cell => cell.type === 'code').map(cell => cell.executionCount)"""
        )
        return counts

    def close_all(self) -> None:
        """Saves and closes what is open in the main area once its notebooks are connected, and ends every kernel."""
        self.page.evaluate(
            """async () => {
              const { commands, serviceManager, shell } = window.jupyterapp;
              for (const { sessionContext } of shell.widgets('main')) {
                await sessionContext?.ready;
                await sessionContext?.session?.kernel?.info;
              }
              await commands.execute('docmanager:save-all');  // or else a dialog asks
              await commands.execute('application:close-all');
              await serviceManager.sessions.shutdownAll();
            }"""
        )

    def screenshot(self, path: Path) -> None:
        self.page.screenshot(path=path, animations="disabled")
