"""A page of JupyterLab as the tests use it, with waits that hold under load."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from jupyter_servers import JupyterServer

WAIT_MS = 20_000
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
EMPTY_NOTEBOOK = {
    "cells": [],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
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

    def open(self) -> None:
        """Opens JupyterLab anew, without what it remembers of an earlier visit, and returns when it can be used."""
        self.page.goto(f"{self.server.url}lab?token={self.server.token}&reset")
        self.wait_until_usable()

    def wait_until_usable(self) -> None:
        self.page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)
        self.page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)", timeout=60_000)

    def reload(self) -> None:
        self.page.reload()
        self.wait_until_usable()

    def open_panel(self) -> None:
        """Clicks on the icon in the sidebar, if the panel is not in front."""
        tab = self.page.locator('.jp-SideBar .lm-TabBar-tab[title="GPU"]')
        if "lm-mod-current" not in (tab.get_attribute("class") or ""):
            tab.click()
        expect(self.panel).to_be_visible()

    def set_theme(self, name: str) -> None:
        """`name` is "JupyterLab Light" or "JupyterLab Dark"."""
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })",
            name,
        )
        expect(self.page.locator(f'body[data-jp-theme-name="{name}"]')).to_be_attached()

    def open_notebook(self, name: str) -> str | None:
        """Opens a notebook, an empty one if there is none of that name, and returns its kernel's id once connected."""
        path = self.server.work_folder / name
        if not path.exists():
            path.write_text(json.dumps(EMPTY_NOTEBOOK))
        self.page.evaluate("path => window.jupyterapp.commands.execute('docmanager:open', { path })", name)
        expect(self.page.locator(".jp-NotebookPanel:visible")).to_have_count(1)
        kernel_id: str | None = self.page.evaluate(KERNEL_READY)
        return kernel_id

    def close_all(self) -> None:
        """Saves and closes what is open in the main area, and ends every kernel."""
        self.page.evaluate(
            """async () => {
              const { commands, serviceManager } = window.jupyterapp;
              await commands.execute('docmanager:save-all');  // or else a dialog asks
              await commands.execute('application:close-all');
              await serviceManager.sessions.shutdownAll();
            }"""
        )

    def screenshot(self, path: Path) -> None:
        self.page.screenshot(path=path, animations="disabled")
