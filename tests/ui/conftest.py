"""Fixtures of the browser tests: JupyterLab of the installed package, and the system's Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from lab_page import LabPage

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OUTPUT_FOLDER = Path(__file__).parents[1] / "output/ui"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")  # Playwright's loop runs in this thread, and would be in the way of asyncio's tests
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if executable is None:
        pytest.fail(f"no Chromium here: none of {', '.join(CHROMIUM_NAMES)} is on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def module_page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 760})
    page = context.new_page()
    yield page
    context.close()


@pytest.fixture(scope="module")
def screenshots() -> Path:
    OUTPUT_FOLDER.mkdir(parents=True, exist_ok=True)
    return OUTPUT_FOLDER


@pytest.fixture
def console_errors(lab: LabPage) -> Iterator[None]:
    """Fails a test during which the page threw an exception."""
    before = len(lab.page_errors)
    yield
    assert lab.page_errors[before:] == []
