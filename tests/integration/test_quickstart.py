"""The quickstart runs through on a simulated H100, shows what it promises, and gives everything back."""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

QUICKSTART = Path(__file__).resolve().parents[2] / "binder" / "quickstart.ipynb"
PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def source() -> NotebookNode:
    return nbformat.read(QUICKSTART, as_version=4)  # type: ignore[no-untyped-call,no-any-return]


@pytest.fixture(scope="module")
def executed(
    source: NotebookNode, own_folders: Path, execute: Callable[..., NotebookNode]
) -> Iterator[dict[str, NotebookNode]]:
    """The executed cells by their ids."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x1")
        notebook = execute(copy.deepcopy(source), own_folders)
        yield {cell.id: cell for cell in notebook.cells}


def text_of(cell: NotebookNode) -> str:
    return "".join(
        output["text"] if output.output_type == "stream" else output.get("data", {}).get("text/plain", "")
        for output in cell.outputs
    )


def images_of(cell: NotebookNode) -> list[bytes]:
    return [
        base64.b64decode(output.data["image/png"])
        for output in cell.outputs
        if output.output_type == "display_data" and "image/png" in output.data
    ]


def test_is_committed_without_outputs(source: NotebookNode) -> None:
    cells = [cell for cell in source.cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_offers_the_simulated_accelerator_and_says_so(executed: dict[str, NotebookNode]) -> None:
    assert re.search(r"H100", text_of(executed["offers"]))
    assert "simulated" in text_of(executed["offers"])


def test_status_names_the_accelerator(executed: dict[str, NotebookNode]) -> None:
    assert "H100" in text_of(executed["status"])
    assert "simulated" in text_of(executed["status"])


def test_learns(executed: dict[str, NotebookNode]) -> None:
    found = re.search(r"first epoch ([\d.]+), after the last ([\d.]+)", text_of(executed["loss-curve"]))
    assert found, text_of(executed["loss-curve"])
    assert float(found[2]) < float(found[1]) / 10
    accuracy = re.search(r"test accuracy: ([\d.]+)%", text_of(executed["accuracy"]))
    assert accuracy, text_of(executed["accuracy"])
    assert float(accuracy[1]) > 95


def test_shows_a_progress_bar(executed: dict[str, NotebookNode]) -> None:
    bars = [
        output
        for output in executed["train"].outputs
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {}) or "it/s" in output.get("text", "")
    ]
    assert len(bars) == 1


@pytest.mark.parametrize("cell_id", ["draw", "loss-curve", "accuracy"])
def test_draws(executed: dict[str, NotebookNode], cell_id: str) -> None:
    (image,) = images_of(executed[cell_id])
    assert image.startswith(PNG)
    assert len(image) > 5000


def test_raises_nothing_and_warns_of_nothing(executed: dict[str, NotebookNode]) -> None:
    for cell in executed.values():
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            # tqdm draws its bar on standard error where there are no widgets.
            assert output.get("name") != "stderr" or "it/s" in output.text, output


def test_counts_its_cells_as_any_notebook_does(executed: dict[str, NotebookNode]) -> None:
    counts = [cell.execution_count for cell in executed.values() if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_leaves_no_session(executed: dict[str, NotebookNode], close_sessions: Callable[[], list[str]]) -> None:
    assert close_sessions() == []
