"""Takes the README's pictures: the sidebar beside a running `%%gpu` cell, in both themes, from a real JupyterLab.

What they show is on simulated accelerators. `make picture` runs this; it needs Chromium.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from agent_lab import run_lab_with_agent  # noqa: E402
from lab_page import LabPage  # noqa: E402

FOLDER = ROOT / "binder" / "pictures"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1280, 760
ENVIRON = {"NBGPU_SIMULATE": "H100x4,A10x2", "NBGPU_PRICES": "H100=2.10,A10=0.75"}
PREPARE = """\
from sklearn.datasets import load_digits

digits = load_digits()
images, labels = digits.data.astype("float32") / 16, digits.target
epochs = 200"""
TRAIN = """\
%%gpu H100x2
import torch
from torch import nn
from tqdm.auto import tqdm

inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 10))
optimizer = torch.optim.Adam(model.parameters())
losses = []
for epoch in tqdm(range(epochs), desc="epochs"):
    for batch in torch.randperm(len(targets)).split(64):
        loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    losses.append(loss.item())"""
SUMMARY = """\
%%gpu
accuracy = (model(inputs).argmax(1) == targets).float().mean().item()"""


def main() -> int:
    executable = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if executable is None:
        print(f"no Chromium here: none of {', '.join(CHROMIUM_NAMES)} is on the PATH", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory(prefix="nb-") as folder:
        browser = playwright.chromium.launch(executable_path=executable)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=2)
        with run_lab_with_agent(page, Path(folder), ENVIRON) as lab:
            take(lab)
        browser.close()
    return 0


def take(lab: LabPage) -> None:
    lab.write_notebook("digits.ipynb", "%load_ext nbgpu", PREPARE, TRAIN, SUMMARY)
    lab.open_panel()
    for index in (0, 1):
        lab.run_cell(index)
    lab.start_cell(2)
    expect(lab.output(2)).to_contain_text(re.compile(r"[6-9][0-9]/200"), timeout=120_000)
    for theme in ("Light", "Dark"):
        lab.set_theme(f"JupyterLab {theme}")
        lab.page.screenshot(path=FOLDER / f"sidebar-{theme.lower()}.png")
    lab.set_theme("JupyterLab Light")
    lab.wait_until_run(300_000)


if __name__ == "__main__":
    sys.exit(main())
