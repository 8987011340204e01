"""The panel in a real JupyterLab, on a pool that says what the test tells it to."""

import re
import time

import pytest
from playwright.sync_api import expect

from fakes import pool as fake
from jupyter_servers import run_jupyter_server
from lab_page import LAB_ARGUMENTS, LabPage
from nbgpu_protocol.v1 import pool_pb2

pytestmark = pytest.mark.usefixtures("console_errors")

OFFERS = [
    fake.offer("H100", 8, 6, memory_bytes=80 * fake.GB, simulated=True),
    fake.offer("A10", 2, 0, memory_bytes=24 * fake.GB, queued=3),
    fake.offer("CPU", 1, 1, shared=True),
]
NODE = pool_pb2.Node(id="n", hostname="lab-1", platform="linux", cpu_count=2)


def pool_state(*sessions):
    return pool_pb2.PoolState(offers=OFFERS, sessions=sessions, node=NODE)


@pytest.fixture(scope="module")
def pool():
    with fake.run_fake_pool() as pool:
        pool.publish(pool_state())
        yield pool


@pytest.fixture(scope="module")
def lab(pool, module_page, tmp_path_factory):
    environ = {"NBGPU_AGENT_ADDRESS": pool.address, "NBGPU_AGENT_TOKEN": pool.token}
    with run_jupyter_server(
        tmp_path_factory.mktemp("lab"), environ, module="jupyterlab", arguments=LAB_ARGUMENTS
    ) as server:
        lab = LabPage(module_page, server)
        lab.open()
        yield lab
        lab.close_all()


def test_nothing_is_watched_until_the_panel_is_opened(lab, pool):
    assert pool.watches_begun == 0
    lab.open_panel()
    expect(lab.section("accelerators")).to_be_visible()
    assert pool.watching == 1

    lab.page.locator('.jp-SideBar .lm-TabBar-tab[title="GPU"]').click()  # folds the sidebar

    expect(lab.panel).to_be_hidden()
    pool.wait_for_watching(lambda count: count == 0)


def test_the_view_menu_opens_the_panel(lab):
    expect(lab.panel).to_be_hidden()
    lab.page.get_by_role("menuitem", name="View", exact=True).click()
    lab.page.get_by_role("menuitem", name="GPU Panel").click()
    expect(lab.section("accelerators")).to_be_visible()


def test_offers_are_listed_with_memory_availability_and_simulation(lab):
    expect(lab.offers).to_have_text(
        ["H100 80 GB simulated 6 of 8 free", "A10 24 GB busy, 3 waiting", re.compile("^CPU .* free")]
    )
    expect(lab.section("accelerators")).to_contain_text("lab-1")


def test_without_a_notebook_it_says_so(lab):
    expect(lab.section("notebook")).to_contain_text("No notebook is open")
    expect(lab.section("sessions")).to_contain_text("None is open")


def test_the_notebooks_session_is_found_by_its_kernel_and_followed(lab, pool, screenshots):
    kernel_id = lab.open_notebook("digits.ipynb")
    notebook = lab.section("notebook")
    expect(notebook).to_contain_text("digits.ipynb")
    expect(notebook).to_contain_text("No session: choose an accelerator below, or run a %%gpu cell")

    now = time.time()
    other = fake.session("s2", "elsewhere", "embeddings.ipynb", last_active_unix_s=now - 750)
    mine = fake.session(
        "s1",
        kernel_id,
        "digits.ipynb",
        kernel_state=pool_pb2.KERNEL_EXECUTING,
        executing=pool_pb2.Execution(execution_count=7, started_unix_s=now - 92),
    )
    pool.publish(pool_state(mine, other))

    expect(notebook).to_contain_text(re.compile(r"Running cell \[7\] for [12]:\d\d"))
    expect(notebook).to_contain_text("H100 ×2 on lab-1")
    expect(notebook).to_contain_text("simulated")
    expect(notebook.get_by_role("status")).to_have_text("Running cell [7]")
    sessions = lab.section("sessions").get_by_role("listitem")
    expect(sessions).to_have_count(2)
    expect(sessions.nth(1)).to_contain_text("embeddings.ipynb")
    expect(sessions.nth(1).get_by_role("button")).to_have_accessible_name(re.compile("^embeddings.ipynb, .*: Idle$"))
    for theme in ("Light", "Dark"):
        lab.set_theme(f"JupyterLab {theme}")
        lab.screenshot(screenshots / f"panel-{theme.lower()}.png")

    pool.publish(pool_state(fake.session("s1", kernel_id, "digits.ipynb", last_active_unix_s=time.time())))

    expect(notebook).to_contain_text("Idle")
    expect(sessions).to_have_count(1)

    dead = {"kernel_state": pool_pb2.KERNEL_DEAD, "kernel_exit": pool_pb2.KernelExit(signal=9)}
    pool.publish(pool_state(fake.session("s1", kernel_id, "digits.ipynb", **dead)))

    expect(notebook).to_contain_text("The kernel was killed by SIGKILL")
    expect(notebook).to_contain_text("The next %%gpu cell starts a fresh kernel.")


def test_the_duration_goes_on_counting(lab, pool):
    kernel_id = lab.open_notebook("digits.ipynb")
    executing = pool_pb2.Execution(execution_count=1, started_unix_s=time.time())
    pool.publish(
        pool_state(
            fake.session("s1", kernel_id, "digits.ipynb", kernel_state=pool_pb2.KERNEL_EXECUTING, executing=executing)
        )
    )
    notebook = lab.section("notebook")
    expect(notebook).to_contain_text(re.compile(r"Running cell \[1\] for 0:\d\d"))
    shown = notebook.inner_text()
    expect(notebook).not_to_have_text(shown, use_inner_text=True)
    expect(notebook).to_contain_text(re.compile(r"Running cell \[1\] for 0:\d\d"))


def test_it_follows_the_notebook_in_front(lab, pool):
    first = lab.open_notebook("digits.ipynb")
    pool.publish(pool_state(fake.session("s1", first, "digits.ipynb")))
    expect(lab.section("notebook")).to_contain_text("H100 ×2")

    second = lab.open_notebook("second.ipynb")

    assert second != first
    expect(lab.section("notebook")).to_contain_text("second.ipynb")
    expect(lab.section("notebook")).to_contain_text("No session")
    lab.open_notebook("digits.ipynb")
    expect(lab.section("notebook")).to_contain_text("H100 ×2")


def test_a_notebook_without_a_kernel_says_so(lab):
    lab.open_notebook("second.ipynb")
    lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    expect(lab.section("notebook")).to_contain_text("No kernel: choose one for the notebook first")
    lab.close_all()
    expect(lab.section("notebook")).to_contain_text("No notebook is open")


def test_a_reload_shows_the_same(lab, pool):
    pool.publish(pool_state())
    lab.open_panel()
    lab.reload()
    lab.open_panel()
    expect(lab.offers).to_have_count(3)
    pool.wait_for_watching(lambda count: count == 1)


def test_a_pool_that_is_lost_is_said_in_words_and_tried_again_on_demand(lab, pool, screenshots):
    lab.open_panel()
    expect(lab.section("accelerators")).to_be_visible()
    pool.protocol_version = 999

    pool.end_watches()

    alert = lab.panel.get_by_role("alert")
    expect(alert).to_contain_text("The agent ended")
    alert.get_by_role("button", name="Try again").click()
    expect(alert).to_contain_text("The agent speaks protocol 999, the client 1")
    expect(alert).to_contain_text("Update nbgpu on both sides.")
    for theme in ("Dark", "Light"):
        lab.set_theme(f"JupyterLab {theme}")
        lab.screenshot(screenshots / f"unreachable-{theme.lower()}.png")

    alert.get_by_role("button", name="Try again").focus()
    pool.protocol_version = 1
    lab.page.keyboard.press("Enter")  # on no element in particular: the panel may have recovered by itself just now

    expect(lab.section("accelerators")).to_be_visible()
    expect(alert).to_have_count(0)
