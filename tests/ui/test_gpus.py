"""Eight H100s of a fake NVML library, from what NVML says to what stands in the page; and one that is cut in slices."""

import re
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from agent_lab import run_lab_with_agent
from fakes.nvml.library import MIB, FakeGpu, FakeSlice, build_library, with_library, write_state

pytestmark = pytest.mark.usefixtures("console_errors")

GIB = 1024 * MIB
SLOWED_BY_HEAT = 0x20
GPUS = [
    FakeGpu(
        f"GPU-{index}",
        used_bytes=(60 + index) * GIB,
        utilisation_percent=90 + index,
        power_mw=640_400 + 1000 * index,
        temperature_celsius=60 + index,
        pcie_tx_kb_per_s=1_200_000,
        pcie_rx_kb_per_s=35,
        ecc_corrected=2,
        ecc_uncorrected=0,
    )
    for index in range(8)
]
SLICED = FakeGpu(
    "GPU-mig",
    mig=True,
    slices=[FakeSlice(f"MIG-{number}", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10 * GIB, GIB) for number in range(2)],
)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("nvml") / "state"


@pytest.fixture(scope="module")
def lab(module_page, state, tmp_path_factory):
    write_state(state, [*GPUS, SLICED])
    library = build_library(tmp_path_factory.mktemp("library"))
    with run_lab_with_agent(module_page, tmp_path_factory.mktemp("lab"), with_library({}, library, state)) as lab:
        lab.open_panel()
        expect(lab.section("gpus")).to_be_visible()
        yield lab


def row(lab, index):
    return lab.section("gpus").locator(f'[data-accelerator="GPU-{index}"]')


def test_every_gpu_shows_what_nvml_says(lab, screenshots):
    for index in range(8):
        expect(row(lab, index)).to_contain_text(f"{90 + index}%")
        expect(row(lab, index)).to_contain_text(f"{60 + index} of 80 GiB")
        expect(row(lab, index)).to_contain_text(f"{640 + index} W · {60 + index} °C")
        bar = row(lab, index).locator(".nbgpu-Memory-bar > span")
        share = (60 + index) * GIB / (81559 * MIB)
        expect(bar).to_have_attribute("style", f"width: {100 * share:.1f}%;")
    expect(lab.offers.first).to_contain_text("8 of 8 free")
    lab.screenshot(screenshots / "nvml.png")


def test_a_row_opens_to_show_links_clocks_and_errors(lab):
    row(lab, 3).get_by_role("button").click()
    facts = row(lab, 3).locator("dl")
    expect(facts).to_contain_text("NVIDIA H100 80GB HBM3")
    expect(facts).to_contain_text("1980 MHz, memory 2619 MHz")
    expect(facts).to_contain_text("700 W")
    expect(facts).to_contain_text("2 corrected, 0 not")
    expect(facts).to_contain_text("1.2 GB/s out, 35 kB/s in")
    expect(facts).to_contain_text("the driver of this GPU does not say")  # NVLink


def test_readings_follow_nvml_and_troubles_are_said_in_words(lab, state):
    hot = replace(GPUS[5], utilisation_percent=38, clock_reasons=SLOWED_BY_HEAT)
    broken = replace(GPUS[6], ecc_uncorrected=3, xids=[(79, 1)])
    write_state(state, [*GPUS[:5], hot, broken, GPUS[7], SLICED])
    expect(row(lab, 5)).to_contain_text("38%")
    expect(row(lab, 5).locator(".nbgpu-warn")).to_contain_text("thermal limit")
    expect(row(lab, 6).locator(".nbgpu-warn")).to_contain_text(re.compile(r"^XID 79.* \+1$"))
    expect(row(lab, 6).get_by_role("button")).to_have_accessible_name(re.compile("3 uncorrected ECC errors"))


def test_slices_are_rows_of_their_gpu(lab):
    slices = lab.section("gpus").get_by_role("list", name="MIG slices").get_by_role("listitem")
    expect(slices).to_have_count(2)
    expect(slices.first).to_contain_text("1.0 of 10 GiB")


def test_rows_are_drawn_once_a_reading(lab):
    lab.page.evaluate(
        """() => {
          const section = document.querySelector('#nbgpu-panel [data-section=gpus]');
          const line = section.querySelector('[data-accelerator="GPU-0"] polyline');
          window.drawn = { times: 0, lines: new Set() };
          new MutationObserver(() => {
            window.drawn.times++;
            window.drawn.lines.add(line.getAttribute('points'));
          }).observe(section, { subtree: true, childList: true, characterData: true, attributes: true });
        }"""
    )
    lab.page.wait_for_function("() => window.drawn.lines.size >= 4")
    assert lab.page.evaluate("() => window.drawn.times - window.drawn.lines.size") <= 1
