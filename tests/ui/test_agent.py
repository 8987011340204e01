"""The panel on this machine's own agent, which it starts, loses, and gets back."""

import os
import signal

import pytest
from playwright.sync_api import expect

from agent_lab import agent_pool, run_async, run_lab_with_agent
from nbgpu_protocol.discovery import read_record
from nbgpu_protocol.v1 import pool_pb2

pytestmark = pytest.mark.usefixtures("console_errors")

FIRST_ALERT = """() => {
  const panel = document.querySelector('#nbgpu-panel');
  window.firstAlert = new Promise(resolve => {
    const look = () => {
      const alert = panel.querySelector('[role=alert]');
      if (alert !== null) {
        observer.disconnect();
        resolve(alert.textContent);
      }
    };
    const observer = new MutationObserver(look);
    observer.observe(panel, { childList: true, subtree: true });
  });
}"""


async def open_session(folder, spec, **fields):
    async with agent_pool(folder) as pool:
        request = pool_pb2.OpenSessionRequest(spec=spec, **fields)
        async for update in pool.open_session(request):
            last = update
        assert last.phase == pool_pb2.READY
        return last.session.id


async def close_session(folder, session_id):
    async with agent_pool(folder) as pool:
        await pool.close_session(session_id)


@pytest.fixture(scope="module")
def lab(module_page, tmp_path_factory):
    environ = {"NBGPU_SIMULATE": "H100x8,A10x2"}
    with run_lab_with_agent(module_page, tmp_path_factory.mktemp("lab"), environ) as lab:
        yield lab


def offer(lab, type):
    return lab.section("accelerators").locator(f'[data-type="{type}"]')


def test_opening_the_panel_starts_the_agent_and_lists_its_offers(lab):
    assert read_record(lab.server.agent_folder) is None

    lab.open_panel()

    expect(offer(lab, "H100")).to_contain_text("8 of 8 free")
    expect(offer(lab, "H100")).to_contain_text("simulated")
    expect(offer(lab, "A10")).to_contain_text("2 of 2 free")
    expect(offer(lab, "CPU")).to_contain_text("free")
    assert read_record(lab.server.agent_folder) is not None


def test_a_session_that_another_client_opens_appears_and_goes(lab, screenshots):
    kernel_id = lab.open_notebook("digits.ipynb")
    spec = pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="H100", count=6)], text="H100x6")
    folder = lab.server.agent_folder

    session_id = run_async(open_session(folder, spec, notebook_id=kernel_id, notebook_name="digits.ipynb"))

    expect(offer(lab, "H100")).to_contain_text("2 of 8 free")
    expect(lab.section("notebook")).to_contain_text("H100 ×6")
    expect(lab.section("notebook").get_by_role("status")).to_have_text("Idle")
    expect(lab.section("sessions").get_by_role("listitem")).to_have_count(1)
    lab.screenshot(screenshots / "session.png")

    run_async(close_session(folder, session_id))

    expect(lab.section("sessions")).to_contain_text("None is open")
    expect(lab.section("notebook")).to_contain_text("No session")
    expect(offer(lab, "H100")).to_contain_text("8 of 8 free")


def test_an_agent_that_is_killed_is_said_and_comes_back(lab):
    lab.open_panel()
    expect(offer(lab, "H100")).to_be_visible()
    killed = read_record(lab.server.agent_folder)
    assert killed is not None

    lab.page.evaluate(FIRST_ALERT)  # it may go again before a look from outside

    os.kill(killed.pid, signal.SIGKILL)

    alert = lab.page.evaluate("() => window.firstAlert")
    assert "agent" in alert
    assert "Try again" in alert
    expect(offer(lab, "H100")).to_contain_text("8 of 8 free")  # by itself
    expect(lab.panel.get_by_role("alert")).to_have_count(0)
    started = read_record(lab.server.agent_folder)
    assert started is not None
    assert started.pid != killed.pid


def test_a_reload_finds_the_same_agent(lab):
    before = read_record(lab.server.agent_folder)
    lab.reload()
    lab.open_panel()
    expect(offer(lab, "H100")).to_contain_text("8 of 8 free")
    assert read_record(lab.server.agent_folder) == before
