"""Takes pictures of every recipe, run to its end in a real JupyterLab, and of ranks that fail and that hang.

    python tools/recipe_pictures.py FOLDER [RECIPE …]

They are to be looked at, in both themes, before a release. The accelerators are simulated; Chromium is needed.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from agent_lab import run_lab_with_agent  # noqa: E402
from lab_page import LabPage  # noqa: E402

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
RECIPES = ROOT / "binder" / "recipes"
SLOW = ("ray_train", "deepspeed")
"""Not taken unless they are named."""
WIDTH, HEIGHT = 1200, 1500
ENVIRON = {"NBGPU_SIMULATE": "H100x8", "NBGPU_HANG_AFTER_S": "5"}
WITHIN_MS = 900_000
FAILURES = """\
%load_ext nbgpu
%gpu attach H100x4

%%gpu --spmd
import os, time
import torch, torch.distributed as dist
rank = int(os.environ["RANK"])
if not dist.is_initialized():
    dist.init_process_group()
print("hello from rank", rank)

%%gpu --spmd
from tqdm.auto import tqdm
for step in tqdm(range(20), desc=f"rank {rank}"):
    time.sleep(0.05)

%%gpu --spmd
def train(step):
    if rank == 2 and step == 3:
        raise ValueError(f"the loss of step {step} is not finite")
    dist.all_reduce(torch.ones(1))

for step in range(10):
    train(step)

%%gpu --spmd
import signal
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
dist.init_process_group()

%%gpu --spmd
rank = int(os.environ["RANK"])
if not dist.is_initialized():
    dist.init_process_group()

%%gpu --spmd
import os, time
if rank == 3:
    while not os.path.exists("go-on"):
        time.sleep(0.1)
dist.all_reduce(torch.ones(1))
print("went on", rank)
"""
HANGING = 6


def main(folder: Path, names: list[str]) -> int:
    executable = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if executable is None:
        print(f"no Chromium here: none of {', '.join(CHROMIUM_NAMES)} is on the PATH", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    all_names = sorted(path.stem for path in RECIPES.glob("*.ipynb") if path.stem not in SLOW)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory(prefix="nb-") as work:
        browser = playwright.chromium.launch(executable_path=executable)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        with run_lab_with_agent(page, Path(work), ENVIRON) as lab:
            for name in names or [*all_names, "failures"]:
                begun_s = time.monotonic()
                if name == "failures":
                    take_failures(lab, folder)
                else:
                    take_recipe(lab, name, folder)
                print(f"{name}: {time.monotonic() - begun_s:.0f} s, errors: {errors(lab) or 'none'}", flush=True)
                lab.close_all()
        browser.close()
    return 0


def take_recipe(lab: LabPage, name: str, folder: Path) -> None:
    shutil.copy(RECIPES / f"{name}.ipynb", lab.server.work_folder)
    lab.open_notebook(f"{name}.ipynb")
    lab.page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    lab.page.wait_for_timeout(3000)
    picture(lab, folder / f"{name}-runs.png")
    lab.wait_until_run(WITHIN_MS)
    pictures(lab, folder, name)


def take_failures(lab: LabPage, folder: Path) -> None:
    sources = FAILURES.strip().split("\n\n%%gpu")
    lab.write_notebook("failures.ipynb", sources[0], *(f"%%gpu{source}" for source in sources[1:]))
    for index in range(HANGING):
        lab.start_cell(index)
        lab.wait_until_run(WITHIN_MS)
    lab.start_cell(HANGING)
    expect(lab.output(HANGING)).to_contain_text("rank 3 is at line", timeout=120_000)
    lab.output(HANGING).locator("summary").first.click()
    pictures(lab, folder, "failures")
    (lab.server.work_folder / "go-on").touch()
    lab.wait_until_run(120_000)
    pictures(lab, folder, "failures-end")
    lab.replace_cells("%gpu close")  # the next recipe wants all of them
    lab.run_cell(0)


def errors(lab: LabPage) -> list[str]:
    """Returns the names of what the notebook's cells raised."""
    found: list[str] = lab.page.evaluate(
        """() => [...window.jupyterapp.shell.currentWidget.model.cells].filter(cell => cell.type === 'code')
          .flatMap(cell => cell.sharedModel.outputs).filter(each => each.output_type === 'error')
          .map(each => each.ename)"""
    )
    return found


def pictures(lab: LabPage, folder: Path, name: str) -> None:
    """Takes the whole notebook, a window's height at a time, in both themes."""
    for theme in ("Light", "Dark"):
        lab.set_theme(f"JupyterLab {theme}")
        number = 0
        scroll(lab.page, to=0)
        while True:
            picture(lab, folder / f"{name}-{theme.lower()}-{number}.png")
            number += 1
            if not scroll(lab.page, by=HEIGHT - 200):
                break
    lab.set_theme("JupyterLab Light")


def scroll(page: Page, *, to: int | None = None, by: int = 0) -> bool:
    """Scrolls the notebook in front; returns whether it moved, which it does as far as there are cells."""
    moved: bool = page.evaluate(
        """async ([to, by]) => {
          const outer = [...document.querySelectorAll('.jp-NotebookPanel .jp-WindowedPanel-outer')]
            .find(each => each.offsetParent !== null);
          const count = window.jupyterapp.shell.currentWidget.content.widgets.length;
          const before = outer.scrollTop;
          // JupyterLab lets a person scroll until the last cell is at the top: there is nothing more to see by then
          const cells = [...outer.querySelectorAll('.jp-Cell')];
          const last = cells.find(each => each.dataset.windowedListIndex === String(count - 1));
          const bottom = outer.getBoundingClientRect().bottom;
          if (to === null && last !== undefined && last.getBoundingClientRect().bottom <= bottom) {
            return false;
          }
          outer.scrollTop = to ?? before + by;
          await new Promise(resolve => setTimeout(resolve, 700));
          return Math.abs(outer.scrollTop - before) > 50;
        }""",
        [to, by],
    )
    return moved


def picture(lab: LabPage, path: Path) -> None:
    lab.page.screenshot(path=path)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        print(re.sub(r"\n\n", "\n", __doc__ or ""), file=sys.stderr)
        sys.exit(2)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
