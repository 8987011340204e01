"""Every state of the page in a real JupyterLab, from a server whose answers the test writes."""

import json
import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from agent_lab import run_lab_without_agent
from fakes import page_feed as fake

pytestmark = pytest.mark.usefixtures("console_errors")

AXE = Path(__file__).parents[2] / "js/node_modules/axe-core/axe.min.js"
LONG_NAME = "a-notebook-whose-name-is-longer-than-any-sidebar-is-wide-second-try-final.ipynb"
MARKUP = '<img src=x onerror="window.hacked = true">'
OVERFLOWING = """selector => [...document.querySelectorAll(selector + ' *')]
  .filter(node => node.checkVisibility() && node.getBoundingClientRect().width > 1)
  .filter(node => {
    const panel = document.querySelector(selector).getBoundingClientRect();
    const own = node.getBoundingClientRect();
    return own.right > panel.right + 0.5 || own.left < panel.left - 0.5;
  })
  .map(node => `${node.className}: ${node.textContent.slice(0, 40)}`)"""
CUT_CHOICES = """selector => [...document.querySelectorAll(selector + ' select')]
  .filter(select => {
    const whole = select.cloneNode(true);
    whole.style.cssText = 'position: absolute; max-width: none; visibility: hidden';
    select.parentElement.append(whole);
    const isCut = whole.getBoundingClientRect().width > select.getBoundingClientRect().width + 1;
    whole.remove();
    return isCut;
  })
  .map(select => select.getAttribute('aria-label'))"""
NARROW = """:root { --jp-sidebar-min-width: 100px !important; }
#jp-left-stack, #jp-main-split-panel > * { min-width: 0 !important; }
#jp-left-stack { overflow: visible !important; z-index: 1; }
#nbgpu-panel { width: %dpx !important; }"""
INKED = """index => {
  const canvas = document.querySelectorAll('.nbgpu-Charts [data-accelerator]')[index]?.querySelector('canvas');
  if (!canvas) {
    return false;
  }
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return data.some(byte => byte !== 0);
}"""
REQUEST_ID = "() => window.jupyterapp.shell.currentWidget.content.activeCell.outputArea.future.msg.header.msg_id"


@pytest.fixture(scope="module")
def feed(module_page):
    feed = fake.PageFeed(pools=[fake.pool()])
    feed.serve(module_page)
    return feed


@pytest.fixture(scope="module")
def lab(feed, module_page, tmp_path_factory):
    with run_lab_without_agent(module_page, tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def kernel_id(lab, feed):
    feed.asked.clear()
    feed.answers.clear()
    lab.open_panel()
    return lab.open_notebook("digits.ipynb")


def gpus(**fields):
    return [fake.accelerator(index, **fields) for index in range(8)]


def readings(seconds=60, **fields):
    """One a second and GPU; the fifth is throttled."""
    end = time.time()
    hot = {"utilisation_percent": 38.0, "power_watts": 310.0, "throttle_reasons": ["thermal limit"]}
    return [
        fake.sample(f"H100-{index}", end - seconds + second, **(fields | (hot if index == 5 else {})))
        for second in range(seconds)
        for index in range(8)
    ]


def lab_pool(*sessions, **fields):
    offers = [
        fake.offer("H100", 16, 8, price_per_hour=2.1),
        fake.offer("A10", 2, 2, memory_bytes=24 * 10**9, price_per_hour=0.75),
        fake.offer("L4", 4, 0, memory_bytes=24 * 10**9, queued=3, price_per_hour=0.6),
    ]
    whole = {"address": "gpu.lab.example:7443", "offers": offers, "accelerators": gpus(), "sessions": list(sessions)}
    return fake.pool(**({"name": "lab"} | whole | fields))


def busy_page(kernel_id):
    """Three pools: this machine's CPU; eight GPUs with my session on them and another; one that is not reached."""
    mine = fake.session(
        "s1", kernel_id, "digits.ipynb", kernel_state="executing", executing=fake.execution(7, "request-7")
    )
    other = fake.session("s2", "elsewhere", LONG_NAME, accelerators=[fake.accelerator(0, "A10")])
    cpu = fake.pool(offers=[fake.offer("CPU", 1, 1, shared=True, memory_bytes=None)])
    problem = {"message": "the certificate of slurm.example:7443 expired", "hint": "renew it there"}
    broken = fake.pool("cluster", address="slurm.example:7443", link="unreachable", node=None, problem=problem)
    return cpu, lab_pool(mine, other), broken


def axe_violations(lab, selector):
    """Returns what axe-core finds that is serious, in words."""
    lab.page.evaluate(f"() => {{ if (!window.axe) {{ {AXE.read_text()} }} }}")
    found = lab.page.evaluate(
        """async selector => (await window.axe.run(selector, { resultTypes: ['violations'] })).violations
          .filter(({ impact }) => impact === 'serious' || impact === 'critical')
          .map(({ id, nodes }) => [id, nodes.map(node => node.html.slice(0, 160) + ' ' + node.failureSummary)])""",
        selector,
    )
    return json.dumps(found, indent=1)


def test_eight_gpus_and_long_names_are_shown_in_both_themes(lab, feed, kernel_id, screenshots):
    feed.publish(*busy_page(kernel_id))
    feed.publish_samples("lab", *readings())
    rows = lab.section("gpus").locator("[data-accelerator]")
    expect(rows).to_have_count(8)
    expect(rows.nth(0)).to_contain_text("94%")
    expect(rows.nth(0)).to_contain_text("642 W · 66 °C")
    expect(rows.nth(5)).to_contain_text("thermal limit")
    expect(lab.section("notebook")).to_contain_text("H100 ×8 on lab-gpu-03, pool “lab”")
    expect(lab.section("notebook")).to_contain_text(re.compile(r"1\d\.\d GPU-min, \$0\.\d\d"))  # which go on counting
    expect(lab.section("pools")).to_contain_text("The certificate of slurm.example:7443 expired.")
    lab.page.set_viewport_size({"width": 1200, "height": 1240})
    for theme in ("Dark", "Light"):
        lab.set_theme(f"JupyterLab {theme}")
        lab.screenshot(screenshots / f"sidebar-{theme.lower()}.png")


@pytest.mark.parametrize("width", [200, 280, 400])
def test_nothing_overflows_whatever_the_width(lab, feed, kernel_id, screenshots, width):
    feed.publish(*busy_page(kernel_id))
    feed.publish_samples("lab", *readings())
    rows = lab.section("gpus").locator("[data-accelerator] > button")
    expect(rows).to_have_count(8)
    if rows.first.get_attribute("aria-expanded") == "false":
        rows.first.click()
        lab.section("sessions").locator("[data-session=s2] > button").click()
    style = lab.page.add_style_tag(content=NARROW % width)
    try:
        expect(lab.panel).to_have_css("width", f"{width}px")
        assert lab.page.evaluate(OVERFLOWING, "#nbgpu-panel") == []
        assert lab.page.evaluate(CUT_CHOICES, "#nbgpu-panel") == []
        lab.panel.screenshot(path=screenshots / f"sidebar-{width}.png", animations="disabled")
    finally:
        style.evaluate("node => node.remove()")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_axe_finds_nothing_serious(lab, feed, kernel_id, theme):
    lab.set_theme(f"JupyterLab {theme}")
    feed.publish(*busy_page(kernel_id))
    feed.publish_samples("lab", *readings())
    expect(lab.section("gpus").locator("[data-accelerator]")).to_have_count(8)
    assert axe_violations(lab, "#nbgpu-panel") == "[]"
    assert axe_violations(lab, ".jp-NotebookPanel:not(.lm-mod-hidden) .nbgpu-ToolbarItem") == "[]"


def test_the_picker_is_worked_by_keyboard(lab, feed, kernel_id):
    feed.publish(lab_pool())
    picker = lab.section("accelerators")
    picker.get_by_role("radio", name=re.compile("^H100")).focus()
    lab.page.keyboard.press("ArrowDown")
    expect(picker.get_by_role("radio", name=re.compile("^A10"))).to_be_checked()
    expect(picker.get_by_role("radio", name="8", exact=True)).to_have_count(0)
    lab.page.keyboard.press("Tab")
    lab.page.keyboard.press("ArrowRight")
    expect(picker.get_by_role("radio", name="2", exact=True)).to_be_checked()
    lab.page.keyboard.press("Enter")
    expect(lab.panel).to_be_visible()
    asked = lab.wait_for(lambda: [one for one in feed.asked if one.path == "sessions"])
    assert asked[0].body["spec"] == "A10x2"
    assert asked[0].body["notebook_id"] == kernel_id


def test_a_request_that_waits_says_its_place_and_can_be_withdrawn(lab, feed, kernel_id):
    waiting = fake.request("r1", kernel_id, queue_position=2, queue_length=5, detail="waiting for 4 of 8 H100")
    feed.publish(lab_pool(requests=[waiting]))
    notebook = lab.section("notebook")
    expect(notebook.get_by_role("status")).to_have_text("Queued, 2nd of 5")
    expect(notebook).to_contain_text("Waiting for 4 of 8 H100.")
    expect(lab.page.locator(".nbgpu-ToolbarItem:visible")).to_have_text("H100x8 · queued")
    notebook.get_by_role("button", name="Withdraw").click()
    lab.wait_for(lambda: ("DELETE", "requests/r1") in feed.commands)


def test_a_request_that_failed_says_why_until_it_is_dismissed(lab, feed, kernel_id):
    problem = {"message": "16 accelerators requested, 8 there are", "hint": "ask for fewer"}
    feed.publish(lab_pool(requests=[fake.request("r1", kernel_id, phase=None, problem=problem)]))
    alert = lab.section("notebook").get_by_role("alert")
    expect(alert).to_contain_text("16 accelerators requested, 8 there are.")
    expect(alert).to_contain_text("Ask for fewer.")
    alert.get_by_role("button", name="Dismiss").click()
    lab.wait_for(lambda: ("DELETE", "requests/r1") in feed.commands)
    feed.publish(lab_pool())
    expect(alert).to_have_count(0)


def test_an_environment_that_is_built_says_how_far_it_is(lab, feed, kernel_id):
    environment = {"package_count": 80, "own": True, "done": 12, "total": 80, "current": "torch"}
    opening = fake.session("s1", kernel_id, "digits.ipynb", phase="materialising", environment=environment)
    feed.publish(lab_pool(opening))
    expect(lab.section("notebook")).to_contain_text("Installing 12 of 80 packages")
    expect(lab.section("notebook").get_by_role("status")).to_have_text("Installing packages")


LONG = "opentelemetry-instrumentation-with-a-name-that-hardly-fits-anywhere"


def test_what_differs_is_named_and_opens_without_overflowing(lab, feed, kernel_id, screenshots):
    packages = [
        {"name": LONG, "before": "0.60b0.post1+local.build", "now": "0.61b0"},
        {"name": "rich", "before": None, "now": "14.1.0"},
        {"name": "torch", "before": "2.12.0", "now": None},
    ]
    difference = {
        "package_count": 120,
        "packages": packages,
        "file_count": 3,
        "files": ["training/a_rather_long_name_of_a_module_in_a_folder.py", "mine.py", "tool/tool.py"],
        "variables": ["HF_HOME"],
    }
    variables = {
        "sent_count": 3,
        "sent": [
            {"name": "frame", "size_bytes": 12 << 20},
            {"name": "x", "size_bytes": 8},
            {"name": "y", "size_bytes": 8},
        ],
        "sent_bytes": (12 << 20) + 16,
        "handle_count": 1,
        "handles": [{"name": "model", "size_bytes": None}],
    }
    mine = fake.session("s1", kernel_id, "digits.ipynb", difference=difference, variables=variables)
    feed.publish(lab_pool(mine))
    rows = lab.section("notebook").locator(".nbgpu-Facts")
    expect(rows).to_contain_text(f"120 packages differ: {LONG} 0.60b0.post1+local.build → 0.61b0, …; 3 files changed")
    expect(rows).to_contain_text("3 sent (12 MiB), 1 handle")
    for summary in rows.locator("summary").all():
        summary.click()
    assert rows.locator("li").all_inner_texts()[:4] == [
        f"{LONG} 0.60b0.post1+local.build → 0.61b0",
        "rich 14.1.0, new",
        "torch 2.12.0, removed",
        "and 117 more packages",
    ]
    for width in (200, 250):
        style = lab.page.add_style_tag(content=NARROW % width)
        for theme in ("Light", "Dark"):
            lab.set_theme(f"JupyterLab {theme}")
            lab.screenshot(screenshots / f"facts-{width}-{theme.lower()}.png")
        assert lab.page.evaluate(OVERFLOWING, "#nbgpu-panel") == []
        style.evaluate("node => node.remove()")


def test_a_close_that_loses_something_is_asked_about(lab, feed, kernel_id):
    feed.publish(lab_pool(fake.session("s1", kernel_id, "digits.ipynb")))
    lab.section("notebook").get_by_role("button", name="Close").click()
    dialog = lab.page.locator(".jp-Dialog")
    expect(dialog).to_contain_text("The variables of the 3 cells that ran in it are lost.")
    dialog.get_by_role("button", name="Cancel").click()
    assert feed.commands == []
    lab.section("notebook").get_by_role("button", name="Close").click()
    dialog.get_by_role("button", name="Close").click()
    lab.wait_for(lambda: feed.commands == [("DELETE", "sessions/s1")])


def test_another_accelerator_instead_asks_what_becomes_of_the_old_one(lab, feed, kernel_id):
    feed.publish(lab_pool(fake.session("s1", kernel_id, "digits.ipynb")))
    lab.attach("A10")
    lab.page.locator(".jp-Dialog").get_by_role("button", name="Close it").click()
    lab.wait_for(lambda: feed.commands == [("DELETE", "sessions/s1"), ("POST", "sessions")])
    assert feed.asked[-1].body["new"] is True


def test_a_command_that_fails_says_why(lab, feed, kernel_id):
    feed.answers["POST", "sessions/s1/detach"] = (404, {"message": "there is no session s1", "hint": None})
    feed.publish(lab_pool(fake.session("s1", kernel_id, "digits.ipynb")))
    lab.section("notebook").get_by_role("button", name="Detach").click()
    alert = lab.panel.get_by_role("alert")
    expect(alert).to_contain_text("There is no session s1.")
    alert.get_by_role("button", name="Dismiss").click()
    expect(alert).to_have_count(0)


def test_logs_are_shown_as_text(lab, feed, kernel_id):
    feed.answers["GET", "sessions/s1/logs"] = (200, {"text": f"{MARKUP}\nsecond line"})
    feed.publish(lab_pool(fake.session("s1", kernel_id, "digits.ipynb")))
    row = lab.section("sessions").locator("[data-session=s1]")
    if row.get_by_role("button", name="Logs").count() == 0:
        row.locator("> button").click()
    row.get_by_role("button", name="Logs").click()
    expect(lab.page.locator(".nbgpu-Logs")).to_have_text(f"{MARKUP} second line")
    lab.page.locator(".jp-Dialog").get_by_role("button", name="Close").click()


def test_names_from_elsewhere_are_text(lab, feed, kernel_id):
    names = {"type_": MARKUP, "product_name": MARKUP}
    mine = fake.session("s1", kernel_id, MARKUP, accelerators=[fake.accelerator(0, **names)], node_hostname=MARKUP)
    pool = fake.pool(MARKUP, address=MARKUP, sessions=[mine], accelerators=[fake.accelerator(0, **names)])
    feed.publish(pool | {"offers": [fake.offer(MARKUP, 1, 1)]})
    expect(lab.section("notebook")).to_contain_text(MARKUP)
    expect(lab.page.locator(".nbgpu-ToolbarItem:visible")).to_contain_text(MARKUP)
    assert lab.panel.locator("img").count() == 0
    assert lab.page.evaluate("() => window.hacked") is None


def test_a_pool_is_tried_before_it_is_added(lab, feed, kernel_id):
    feed.answers["POST", "pools/test"] = (
        200,
        {"ok": False, "message": "the token is wrong", "hint": "copy it again", "latency_ms": None, "node": None},
    )
    feed.answers["POST", "pools"] = (409, {"message": "there is a pool lab already", "hint": None, "reason": "X"})
    feed.publish(lab_pool())
    lab.section("pools").get_by_role("button", name="Add a pool").click()
    dialog = lab.page.locator(".jp-Dialog")
    dialog.get_by_label("Name").fill("lab")
    dialog.get_by_label("Address").fill("127.0.0.1:7443")
    dialog.get_by_label("Token").fill("secret")
    dialog.get_by_role("button", name="Test").click()
    expect(dialog.get_by_role("status")).to_contain_text("The token is wrong.")
    dialog.get_by_role("button", name="Add").click()
    expect(dialog.get_by_role("status")).to_have_text("There is a pool lab already.")
    expect(dialog.get_by_label("Address")).to_have_value("127.0.0.1:7443")
    del feed.answers["POST", "pools"]
    dialog.get_by_role("button", name="Add").click()
    expect(dialog).to_have_count(0)
    pool = {"name": "lab", "address": "127.0.0.1:7443", "token": "secret", "pin": "", "code": ""}
    assert feed.asked[-1].body == pool


def test_pausing_holds_the_samples_back(lab, feed, kernel_id):
    feed.publish(lab_pool())
    feed.publish_samples("lab", *readings())
    lab.section("gpus").get_by_role("button", name="Pause").click()
    lab.wait_for(lambda: feed.said[-1:] == [{"kind": "pause"}])
    lab.section("gpus").get_by_role("button", name="Go on").click()
    lab.wait_for(lambda: feed.said[-1:] == [{"kind": "resume"}])


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "The server part of nbgpu is not enabled."),
        (403, "The Jupyter server does not accept this page any more."),
        (200, "The connection to the Jupyter server was cut."),
    ],
)
def test_a_server_that_goes_is_said_and_found_again(lab, feed, kernel_id, status, words):
    feed.publish(lab_pool())
    expect(lab.offers).to_have_count(3)
    feed.answers["GET", "state"] = (status, {})
    feed.is_away = True
    feed.cut()
    alert = lab.panel.get_by_role("alert")
    expect(alert).to_contain_text(words)
    expect(lab.offers).to_have_count(3)  # what was known stays in view

    feed.is_away = False
    alert.get_by_role("button", name="Try again").click()

    expect(alert).to_have_count(0)
    expect(lab.offers).to_have_count(3)


def test_a_running_cell_is_marked_and_its_starved_gpu_pointed_out(lab, feed, kernel_id, screenshots):
    lab.replace_cells("input()")
    lab.start_cell(0)
    request_id = lab.page.wait_for_function(REQUEST_ID).json_value()
    running = fake.execution(1, request_id)
    mine = fake.session("s1", kernel_id, "digits.ipynb", kernel_state="executing", executing=running)
    feed.publish(lab_pool(mine, name="training"))  # its GPUs have no readings of other tests
    feed.publish_samples("training", *readings(70, utilisation_percent=4.0))

    line = lab.cell(0).locator(".nbgpu-CellLine")
    expect(line).to_contain_text(re.compile(r"running on H100 ×8 for 1:\d\d · GPU \d+% · 488 of 640 GiB"))
    expect(lab.cell(0)).to_have_class(re.compile("nbgpu-mod-running"))
    advice = line.locator(".nbgpu-CellLine-advice")
    expect(advice).to_contain_text("num_workers")
    lab.screenshot(screenshots / "cell-running.png")
    advice.get_by_role("button", name="Dismiss").click()
    expect(advice).to_be_hidden()

    lab.cell(0).locator("input.jp-Stdin-input").press("Enter")
    lab.wait_until_run()
    done = running | {
        "ended_unix_s": running["started_unix_s"] + 92,
        "succeeded": False,
        "mean_utilisation_percent": 4.2,
        "peak_memory_bytes": 61 * fake.GIB,
        "cost": 0.43,
    }
    feed.publish(lab_pool(fake.session("s1", kernel_id, "digits.ipynb", last_executions=[done])))
    expect(line).to_have_text("H100 ×8 · 1:32 · mean 4% · peak 61 GiB · $0.43 · failed")
    expect(lab.cell(0)).to_have_class(re.compile("nbgpu-mod-failed"))

    lab.replace_source(0, "1 + 1")
    lab.run_cell(0)
    expect(line).to_be_hidden()
    expect(lab.cell(0)).not_to_have_class(re.compile("nbgpu-mod-"))


def test_a_cell_that_ended_before_a_reload_says_where_it_ran(lab, feed, kernel_id):
    feed.publish(lab_pool())
    # this kernel has no nbgpu: what matters here is what the page makes of such a cell
    lab.replace_cells("get_ipython().register_magic_function(lambda line, cell: None, 'cell', 'gpu')", "%%gpu\n1", "2")
    for index in range(3):
        lab.run_cell(index)
    _, count, local = lab.execution_counts()
    lab.save()
    lab.reload()
    assert lab.open_notebook("digits.ipynb") == kernel_id

    ended = time.time()
    done = fake.execution(count, "asked-for-by-the-page-before", ended_unix_s=ended, succeeded=True)
    elsewhere = fake.execution(local, "asked-for-by-another-client", ended_unix_s=ended, succeeded=True)
    feed.publish(lab_pool(fake.session("s1", kernel_id, "digits.ipynb", last_executions=[done, elsewhere])))

    expect(lab.cell(1).locator(".nbgpu-CellLine")).to_contain_text("H100 ×8")
    expect(lab.cell(2).locator(".nbgpu-CellLine")).to_have_count(0)


def test_the_charts_show_every_gpu(lab, feed, kernel_id, screenshots):
    feed.samples = {"lab": readings()}
    feed.publish(lab_pool())
    feed.publish_samples("lab", *readings())
    lab.section("gpus").get_by_role("button", name="Open charts of all GPUs").click()
    charts = lab.page.locator(".nbgpu-Charts")
    expect(charts.locator("[data-accelerator]")).to_have_count(8)
    first = charts.locator("[data-accelerator]").first
    expect(first.get_by_role("img", name=re.compile("^Utilisation of GPU 0"))).to_be_visible()
    expect(first.locator("canvas")).to_have_count(7)
    lab.set_theme("JupyterLab Light")
    expect(first.locator("canvas")).to_have_count(7)
    assert axe_violations(lab, ".nbgpu-Charts") == "[]"
    lab.screenshot(screenshots / "charts.png")


def test_only_charts_in_sight_are_drawn_and_one_that_comes_into_sight_is(lab, feed, kernel_id):
    feed.samples = {"lab": readings()}
    feed.publish(lab_pool())
    lab.page.set_viewport_size({"width": 1200, "height": 760})
    lab.execute("nbgpu:open-charts")
    rows = lab.page.locator(".nbgpu-Charts [data-accelerator]")
    expect(rows).to_have_count(8)
    lab.page.locator(".nbgpu-Charts").evaluate("node => { node.scrollTop = 0; }")
    expect(rows.first).to_be_visible()
    lab.page.wait_for_function(INKED, arg=0)
    assert not lab.page.evaluate(INKED, 7)
    lab.page.locator(".nbgpu-Charts").evaluate("node => { node.scrollTop = node.scrollHeight; }")
    lab.page.wait_for_function(INKED, arg=7)


def test_the_charts_come_back_with_the_page(lab, feed, kernel_id):
    feed.samples = {"lab": readings()}
    feed.publish(lab_pool())
    lab.execute("nbgpu:open-charts")
    lab.wait_until_layout_has("nbgpu-charts:charts")
    lab.reload()
    lab.page.locator(".lm-DockPanel-tabBar .lm-TabBar-tab", has_text="GPU charts").click()
    expect(lab.page.locator(".nbgpu-Charts [data-accelerator]:visible")).to_have_count(8)
    lab.page.wait_for_function(INKED, arg=0)
    assert lab.page.locator(".jp-MainAreaWidget > .nbgpu-Charts").count() == 1


def test_the_toolbar_has_a_menu_whose_attach_leads_to_the_picker(lab, feed, kernel_id):
    feed.publish(lab_pool())
    item = lab.page.locator(".nbgpu-ToolbarItem:visible")
    expect(item).to_have_text("GPU")
    item.get_by_role("button").click()
    menu = lab.page.locator(".lm-Menu:visible")
    expect(menu.get_by_role("menuitem", name="Close GPU Session…")).to_have_attribute("aria-disabled", "true")
    menu.get_by_role("menuitem", name="Attach to Accelerator…").click()
    expect(lab.section("accelerators").get_by_role("radio", checked=True).first).to_be_focused()

    feed.publish(lab_pool(fake.session("s1", kernel_id, "digits.ipynb", executions=0)))
    expect(item).to_have_text("H100 ×8 · idle")
    item.get_by_role("button").click()
    menu.get_by_role("menuitem", name="Detach from GPU Session").click()
    lab.wait_for(lambda: feed.commands == [("POST", "sessions/s1/detach")])


def test_the_menu_of_a_cell_runs_it_on_a_gpu(lab, feed, kernel_id):
    lab.replace_cells("%%bash\nls", "1 + 1")
    for index, is_disabled in ((0, "true"), (1, None)):
        lab.select_cell(index)
        lab.cell(index).locator(".jp-InputPrompt").click(button="right")
        item = lab.page.locator(".lm-Menu:visible").get_by_role("menuitem", name="Run This Cell on GPU")
        expect(item).to_be_visible()
        assert item.get_attribute("aria-disabled") == is_disabled
        lab.page.keyboard.press("Escape")


def test_settings_switch_the_line_and_the_status_bar_off(lab, feed, kernel_id):
    lab.replace_cells("1 + 1")
    lab.run_cell(0)
    request_id = lab.page.evaluate(REQUEST_ID)
    done = fake.execution(1, request_id, ended_unix_s=time.time(), succeeded=True)
    feed.publish(lab_pool(fake.session("s1", kernel_id, "digits.ipynb", last_executions=[done])))
    line = lab.cell(0).locator(".nbgpu-CellLine")
    expect(line).to_contain_text("H100 ×8")
    status = lab.page.locator(".nbgpu-StatusBarItem")
    expect(status).to_be_visible()
    try:
        lab.set_setting("provenance", False)
        lab.set_setting("statusBar", False)
        expect(line).to_be_hidden()
        expect(lab.cell(0)).to_have_class(re.compile("nbgpu-mod-ran"))
        expect(status).to_be_hidden()
    finally:
        lab.set_setting("provenance", True)
        lab.set_setting("statusBar", True)
    expect(line).to_be_visible()
    expect(status).to_be_visible()
