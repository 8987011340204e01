"""What values share they share on the other side as well, whichever cell made them: an optimiser trains its model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from notebook_kernel import NotebookKernel, notebook_kernel, run

SHARES = "optimiser.param_groups[0]['params'][0] is model.weight"


@pytest.fixture(scope="module")
def notebook(own_folders: Path) -> Iterator[NotebookKernel]:
    work = own_folders / "work"
    work.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x2")
        patch.chdir(work)
        with notebook_kernel(own_folders) as kernel:
            run(kernel, "%load_ext nbgpu")
            run(kernel, "import torch\nfrom torch import nn")
            yield kernel


@pytest.fixture(autouse=True)
def session(notebook: NotebookKernel) -> Iterator[None]:
    run(notebook, "%gpu attach --new H100")
    yield
    run(notebook, "%gpu close")


def value(notebook: NotebookKernel, expression: str) -> str | None:
    return run(notebook, expression).result


def value_there(notebook: NotebookKernel, expression: str) -> str | None:
    return run(notebook, f"%%gpu\n{expression}").result


def test_an_optimiser_made_in_a_later_cell_trains_the_model_on_both_sides(notebook: NotebookKernel) -> None:
    run(notebook, "model = nn.Linear(4, 1)\nsame = model")
    run(notebook, "%%gpu\noptimiser = torch.optim.SGD(model.parameters(), lr=0.1)")
    assert value(notebook, SHARES) == "True"
    assert value(notebook, "same is model") == "True"
    assert value_there(notebook, SHARES) == "True"
    step = "model(torch.ones(1, 4)).sum().backward(); optimiser.step()"
    run(notebook, f"%%gpu\nbefore = model.weight.detach().clone()\n{step}")
    assert value(notebook, "bool((before != model.weight).all()), same is model") == "(True, True)"
    run(notebook, f"before = model.weight.detach().clone()\n{step}")
    assert value(notebook, "bool((before != model.weight).all())") == "True"
    assert value_there(notebook, f"bool((before != model.weight).all()), {SHARES}") == "(True, True)"


def test_a_change_here_between_two_cells_leaves_the_optimiser_its_model(notebook: NotebookKernel) -> None:
    run(notebook, "model = nn.Linear(4, 1)")
    run(notebook, "%%gpu\noptimiser = torch.optim.Adam(model.parameters())")
    run(notebook, "model.eval()")
    assert value_there(notebook, f"model.training, {SHARES}") == "(False, True)"


def test_an_object_that_holds_what_came_before_holds_it_here(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        class Trainer:
            def __init__(self, model, history):
                self.model = model
                self.history = history

        model = nn.Linear(4, 1)
        history = []
        """,
    )
    run(notebook, "%%gpu\ntrainer = Trainer(model, history)\nhistory.append(1)")
    assert value(notebook, "trainer.model is model, trainer.history is history, history") == "(True, True, [1])"
    run(notebook, "history.append(2)")
    assert value_there(notebook, "trainer.history, trainer.history is history") == "([1, 2], True)"


def test_what_a_function_reaches_is_shared_too(notebook: NotebookKernel) -> None:
    run(notebook, "settings = {'rate': 1}\ndef make():\n    return [settings]")
    run(notebook, "%%gpu\nmade = make()")
    assert value(notebook, "made[0] is settings") == "True"


def test_tensors_that_share_a_storage_go_on_to(notebook: NotebookKernel) -> None:
    run(notebook, "table = torch.zeros(4, 2)")
    run(notebook, "%%gpu\nrow = table[1]")
    run(notebook, "row[0] = 5")
    assert value(notebook, "float(table[1, 0])") == "5.0"
    assert value_there(notebook, "row[1] = 7; float(table[1, 0]), float(table[1, 1])") == "(5.0, 7.0)"


def test_a_model_that_is_sent_anew_below_an_optimiser_that_stays_is_said(notebook: NotebookKernel) -> None:
    run(notebook, "model = nn.Linear(1000, 2000)  # 8 MB, and 24 MB with what Adam keeps for it")
    run(
        notebook,
        """
        %%gpu
        optimiser = torch.optim.Adam(model.parameters())
        model(torch.ones(1, 1000)).sum().backward()
        optimiser.step()
        """,
    )
    assert (value(notebook, "optimiser") or "").startswith("<handle of torch.optim")
    assert value_there(notebook, SHARES) == "True"
    run(notebook, "model.eval()")
    cell = run(notebook, f"%%gpu\nmodel.training, {SHARES}")
    assert "`model`" in cell.text("stderr")
    assert "`optimiser`" in cell.text("stderr")
