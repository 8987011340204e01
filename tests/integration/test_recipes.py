"""The recipes run through on simulated GPUs, on few ranks, show what they promise, and leave nothing behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

RECIPES = Path(__file__).resolve().parents[2] / "binder" / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.ipynb"))
RANKS = {"fsdp2": 4}
"""Where two would not do: half of four is still more than one."""

pytestmark = pytest.mark.timeout(300)


class Executed:
    """A recipe's cells, by their ids."""

    def __init__(self, notebook: NotebookNode) -> None:
        self.cells = {cell.id: cell for cell in notebook.cells}

    def text(self, cell_id: str) -> str:
        """Returns what the cell wrote, and the text of what it displayed."""
        return "".join(
            output["text"] if output.output_type == "stream" else f"{output.data.get('text/plain', '')}\n"
            for output in self.cells[cell_id].outputs
        )

    def losses(self, cell_id: str) -> list[float]:
        """Returns the losses in the cell's line about them."""
        (line,) = [line for line in self.text(cell_id).splitlines() if line.startswith("loss ")]
        found = [float(number) for number in re.findall(r"\d+\.\d+", line)]
        assert len(found) >= 2, line
        return found

    def draws(self, cell_id: str) -> bool:
        return any("image/png" in output.get("data", {}) for output in self.cells[cell_id].outputs)


def read(name: str) -> NotebookNode:
    return nbformat.read(RECIPES / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call,no-any-return]


@pytest.fixture(scope="module")
def run_recipe(
    own_folders: Path, execute: Callable[..., NotebookNode], close_sessions: Callable[[], list[str]]
) -> Iterator[Callable[[str], Executed]]:
    """A function that executes a recipe on two ranks, or as many as it needs to show what it shows."""

    def run(name: str) -> Executed:
        notebook = read(name)
        (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        parameters.source = parameters.source.replace("GPUS = 8", f"GPUS = {RANKS.get(name, 2)}")
        folder = own_folders / name
        folder.mkdir()
        executed = Executed(execute(notebook, folder, timeout=270))
        assert close_sessions() == []  # the recipe has closed its own
        return executed

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x4")
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        yield run


def test_each_recipe_is_tested() -> None:
    tested = [name.removeprefix("test_recipe_") for name in globals() if name.startswith("test_recipe_")]
    assert sorted(tested) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_is_committed_without_outputs_for_eight_gpus(name: str) -> None:
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    assert cells[0].id == "parameters"
    assert cells[0].source == 'GPUS = 8\nGPU_TYPE = "H100"'


def test_recipe_ddp(run_recipe: Callable[[str], Executed]) -> None:
    recipe = run_recipe("ddp")
    assert "on cpu: 720 digits" in recipe.text("run")
    first, last = recipe.losses("plot")
    assert last < first / 4
    assert recipe.draws("plot")
    assert "the same weights on all ranks: True" in recipe.text("accuracy")


def test_recipe_fsdp2(run_recipe: Callable[[str], Executed]) -> None:
    recipe = run_recipe("fsdp2")
    assert "of 4 ranks" in recipe.text("first")
    assert "of 2 ranks" in recipe.text("resume")
    same, number = map(int, re.findall(r"\d+", recipe.text("compare")))
    assert same == number > 20
    at_start, at_save, at_end = recipe.losses("plot")
    assert at_save < at_start / 4
    assert at_end < at_start / 4  # it went on from there, not from the start
    assert recipe.draws("plot")


def test_recipe_accelerate(run_recipe: Callable[[str], Executed]) -> None:
    recipe = run_recipe("accelerate")
    assert "rank 0 of 2" in recipe.text("run")  # and not each alone, as Accelerate has it where it finds no GPU
    assert "rank 1 of 2" in recipe.text("run")
    first, last = recipe.losses("results")
    assert last < first / 2
    assert "tested with 357 of 357" in recipe.text("results")


def test_recipe_lora(run_recipe: Callable[[str], Executed]) -> None:
    recipe = run_recipe("lora")
    assert recipe.text("run").count("one of 2 ranks: trains ") == 2
    first, last = recipe.losses("plot")
    assert last < first / 4
    assert "after:  four five six seven eight nine" in recipe.text("generate")


def test_recipe_lightning(run_recipe: Callable[[str], Executed]) -> None:
    recipe = run_recipe("lightning")
    assert "rank 1 of 2" in recipe.text("run")
    first, last = recipe.losses("results")
    assert last < first / 4
    assert recipe.draws("plot")


def test_recipe_data_loader(run_recipe: Callable[[str], Executed]) -> None:
    recipe = run_recipe("data_loader")
    text = recipe.text("compare")
    assert text.count("4 + 6 batches, the same as without a break: True") == 2
    assert "every sample once: True" in text


@pytest.mark.slow  # Ray starts eight processes, each of which imports torch
def test_recipe_ray_train(run_recipe: Callable[[str], Executed]) -> None:
    recipe = run_recipe("ray_train")
    assert "Ray has 2 GPUs" in recipe.text("run")
    first, last = recipe.losses("results")
    assert last < first / 4
    assert recipe.draws("results")


@pytest.mark.slow  # DeepSpeed compiles a part of itself
@pytest.mark.timeout(900)
def test_recipe_deepspeed(run_recipe: Callable[[str], Executed]) -> None:
    pytest.importorskip("deepspeed")
    recipe = run_recipe("deepspeed")
    assert recipe.text("run").count("one of 2 ranks, with ZeRO 2") == 2
    first, last = recipe.losses("run")
    assert last < first / 4
