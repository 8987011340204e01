"""A notebook as people have them, with all that it has used on another machine, and no word about any of it.

The other machine is an agent on loopback TCP with a folder of its own, which lacks the notebook's packages, files and
variables.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from notebook_kernel import Cell, NotebookKernel
from two_machines import NEEDED, Workplace, make_workplace, ok
from wheels import link_installed, make_wheel

pytestmark = pytest.mark.timeout(600)

PREPARE = """\
import numpy as np
import pandas as pd
import torch
from torch import nn

import alpha
import features
import tool

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x):
        return self.layers(x)

def scaled(frame):
    return features.scale(frame) * FACTOR

FACTOR = 2
frame = pd.DataFrame({"a": range(100), "b": np.linspace(0, 1, 100), "c": 1.0})
large = np.arange(62_500_000, dtype=np.float64)  # 500 MB
torch.manual_seed(0)
model = Net(16)
"""

TRAIN = """\
%%gpu H100
torch.manual_seed(0)
inputs = torch.tensor(scaled(frame).to_numpy(), dtype=torch.float32)
optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
losses = []
for step in range(30):
    loss = (model(inputs) - 1).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
final = (model(inputs) - 1).square().mean().item()
summary = frame.describe()
middle = float(large[31_250_000])
versions = alpha.__version__, tool.name, features.__file__
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    made = make_workplace(tmp_path_factory.mktemp("w"), NEEDED)
    make_wheel(made.root / "links", "alpha", "1.5")
    made.install("alpha==1.5")
    [site_packages] = (made.root / "notebook-environment/lib").glob("python*/site-packages")
    # pyarrow is on the node, where it would change what pandas makes of strings: not for this notebook.
    link_installed(site_packages, ["pandas", "torch"])
    return made


@pytest.fixture(scope="module")
def notebook(workplace: Workplace) -> Iterator[NotebookKernel]:
    (workplace.notebook / "features.py").write_text("def scale(frame):\n    return frame / frame.max()\n")
    project = workplace.root / "project"
    (project / "tool").mkdir(parents=True)
    (project / "tool/__init__.py").write_text("name = 'an editable tool'\n")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tool"\nversion = "1.0"\n'
    )
    (project / "backend.py").write_text(EDITABLE_BACKEND)
    workplace.install("--editable", str(project))
    # torch and pandas come from the node's owner, as their wheels are not on this machine; everything else is sent.
    base = f"--base-environment={sys.prefix}"
    with workplace.agent("agent", base) as found, workplace.kernel(found) as kernel:
        ok(kernel.run(PREPARE))
        yield kernel
        kernel.run("%gpu close")


@pytest.fixture(scope="module")
def trained(notebook: NotebookKernel) -> Cell:
    cell = notebook.run(TRAIN)
    ok(cell)
    return cell


def value(notebook: NotebookKernel, expression: str) -> str | None:
    cell = notebook.run(expression)
    ok(cell)
    return cell.result


def test_packages_modules_and_editable_installs_are_there(
    notebook: NotebookKernel, trained: Cell, workplace: Workplace
) -> None:
    version, name, file = eval(value(notebook, "versions") or "")
    assert (version, name) == ("1.5", "an editable tool")
    assert Path(file).name == "features.py"
    assert workplace.notebook not in Path(file).parents


def test_what_takes_long_is_said_and_nothing_else(trained: Cell) -> None:
    lines = [line for line in re.split(r"[\r\n]+", trained.text("stderr")) if line.strip()]
    assert [line for line in lines if "sending 500 MB: `large` (500 MB)" in line]
    assert [line for line in lines if not re.match(r"(nbgpu: )?sending ", line)] == []


def test_what_was_trained_there_is_a_trained_model_here(notebook: NotebookKernel, trained: Cell) -> None:
    assert value(notebook, "len(losses), losses[-1] < losses[0] / 2") == "(30, True)"
    assert value(notebook, "isinstance(model, Net), next(model.parameters()).device.type") == "(True, 'cpu')"
    here = value(notebook, "abs(float((model(inputs) - 1).square().mean()) - final) < 1e-6")
    assert here == "True"


def test_the_optimiser_that_came_back_still_trains_the_model(notebook: NotebookKernel, trained: Cell) -> None:
    shares = "optimiser.param_groups[0]['params'][0] is model.layers[0].weight"
    assert value(notebook, shares) == "True"
    ok(notebook.run(f"%%gpu\nshares = {shares}"))
    assert value(notebook, "shares") == "True"


def test_frames_and_numbers_came_back(notebook: NotebookKernel, trained: Cell) -> None:
    assert value(notebook, "summary.equals(frame.describe()), middle") == "(True, 31250000.0)"


def test_an_edited_module_and_a_redefined_function_are_used_by_the_next_cell(
    notebook: NotebookKernel, trained: Cell, workplace: Workplace
) -> None:
    (workplace.notebook / "features.py").write_text("def scale(frame):\n    return frame - frame\n")
    ok(notebook.run("%%gpu\nzeros = float(scaled(frame).abs().to_numpy().sum())"))
    assert value(notebook, "zeros") == "0.0"
    ok(notebook.run("def scaled(frame):\n    return frame + 5"))
    again = notebook.run("%%gpu\nfives = float(scaled(frame - frame).to_numpy().mean()) + 0 * large[0]")
    ok(again)
    assert again.text("stderr") == ""  # the large array was not sent again
    assert value(notebook, "float(fives)") == "5.0"


EDITABLE_BACKEND = """\
import base64, hashlib, os, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "tool-1.0-py3-none-any.whl"
    files = {
        "tool.pth": os.path.dirname(os.path.abspath(__file__)) + "\\n",
        "tool-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: tool\\nVersion: 1.0\\n",
        "tool-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    def line(path, content):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        return f"{path},sha256={digest},{len(content)}\\n"
    record = "".join(line(*each) for each in files.items()) + "tool-1.0.dist-info/RECORD,,\\n"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as archive:
        for path, content in {**files, "tool-1.0.dist-info/RECORD": record}.items():
            archive.writestr(path, content)
    return name
"""
