"""Before a session is closed by itself: the notification, the sidebar, and the click that keeps it."""

import time

import pytest
from playwright.sync_api import expect

from agent_lab import run_lab_without_agent
from fakes import page_feed as fake

pytestmark = pytest.mark.usefixtures("console_errors")


@pytest.fixture(scope="module")
def feed(module_page):
    feed = fake.PageFeed(pools=[fake.pool()])
    feed.serve(module_page)
    return feed


@pytest.fixture(scope="module")
def lab(feed, module_page, tmp_path_factory):
    with run_lab_without_agent(module_page, tmp_path_factory.mktemp("lab")) as lab:
        yield lab


def closing(cause, left_s, idle_s=None):
    now = time.time()
    return {
        "closing_cause": cause,
        "closes_unix_s": now + left_s,
        "closing_warn_unix_s": now - 60,
        "idle_since_unix_s": now - idle_s if idle_s else None,
    }


def test_an_idle_session_is_announced_and_kept_by_a_click(lab, feed, screenshots):
    kernel_id = lab.open_notebook("digits.ipynb")
    near = fake.session("s1", kernel_id, "digits.ipynb", **closing("idle", 8 * 60 + 59, 52 * 60 + 1))
    feed.publish(fake.pool(sessions=[near]))
    toast = lab.page.locator(".jp-Notification-Toast-warning, .Toastify__toast", has_text="digits.ipynb")
    expect(toast).to_contain_text("digits.ipynb: idle for 52 min, closes in 8 min.")
    section = lab.section("notebook")
    expect(section).to_contain_text("Idle for 52 min, closes in 8 min")
    expect(section.get_by_role("button", name="Keep")).to_be_visible()
    lab.page.wait_for_function("() => !document.querySelector('.Toastify--animate')")
    for theme in ("Dark", "Light"):
        lab.set_theme(f"JupyterLab {theme}")
        lab.screenshot(screenshots / f"closing-{theme.lower()}.png")

    toast.get_by_role("button", name="Keep").click()

    lab.wait_for(lambda: ("POST", "sessions/s1/renew") in feed.commands)
    feed.publish(fake.pool(sessions=[fake.session("s1", kernel_id, "digits.ipynb")]))
    expect(toast).to_have_count(0)
    expect(section.get_by_role("button", name="Keep")).to_have_count(0)
    expect(section.get_by_role("status")).to_have_text("Idle")

    feed.publish(fake.pool(sessions=[near | {"id": "s2"}]))
    feed.asked.clear()
    section.get_by_role("button", name="Keep").click()
    lab.wait_for(lambda: ("POST", "sessions/s2/renew") in feed.commands)


def test_what_no_click_puts_off_is_only_announced(lab, feed):
    kernel_id = lab.open_notebook("digits.ipynb")
    old = fake.session("s3", kernel_id, "digits.ipynb", **closing("lifetime", 3 * 3600 + 30))
    feed.publish(fake.pool(sessions=[old]))
    toast = lab.page.locator(".Toastify__toast", has_text="keeps none open for longer")
    expect(toast).to_contain_text("closes in 3 h")
    expect(toast.get_by_role("button", name="Keep")).to_have_count(0)
    expect(lab.section("notebook").get_by_role("button", name="Keep")).to_have_count(0)
