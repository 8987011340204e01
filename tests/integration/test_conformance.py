"""nbclient's own test notebooks give the same outputs with `%%gpu` in front of every cell as they give locally.

They are read from nbclient's source distribution, which `make test` fetches before the tests run.

The local run has `# %%gpu` where the other has `%%gpu`, so that lines and cells count alike. What is normalised:

| what | why |
|---|---|
| ANSI colours, `%%gpu` against `# %%gpu` in a frame's listing | not the cell's code |
| `/tmp/ipykernel_PID/N.py` | names the kernel's process |
| addresses `0x…` | differ from run to run |
| ids of widgets and comms | random |
| times of day, in Sleep1s | the clock |
| streams that follow each other | joined: a kernel cuts them by the clock |
"""

from __future__ import annotations

import concurrent.futures
import json
import re
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nbformat
import pytest
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT / ".tools" / "conformance" / "nbclient-0.11.0.tar.gz"

pytestmark = pytest.mark.timeout(300)

Execute = Callable[..., NotebookNode]


@dataclass(frozen=True)
class Case:
    """How nbclient's own tests run a notebook."""

    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    raises: bool = False
    normalise: tuple[tuple[str, str], ...] = ()
    """More patterns and what stands for them, in every text."""


CASES: dict[str, Case] = {
    "Check History in Memory.ipynb": Case(),
    "Clear Output.ipynb": Case(),
    "Disable Stdin.ipynb": Case({"allow_errors": True}),
    "Empty Cell.ipynb": Case(),
    "Error.ipynb": Case(raises=True),
    "Factorials.ipynb": Case(),
    "HelloWorld.ipynb": Case(),
    "Inline Image.ipynb": Case(),
    "Interrupt.ipynb": Case({"timeout": 3, "interrupt_on_timeout": True, "allow_errors": True}),
    "JupyterWidgets.ipynb": Case(),
    "Other Comms.ipynb": Case(),
    "Output.ipynb": Case(),
    "SVG.ipynb": Case(),
    "Skip Exceptions with Cell Tags.ipynb": Case(),
    "Skip Exceptions.ipynb": Case({"allow_errors": True}),
    "Skip Execution with Cell Tag.ipynb": Case(),
    "Sleep1s.ipynb": Case(normalise=((r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<TIME>"),)),
    "Unicode.ipynb": Case(),
    "UnicodePy3.ipynb": Case(),
    "update-display-id.ipynb": Case(),
}
TOGETHER = ("Parallel Execute A.ipynb", "Parallel Execute B.ipynb")
DIFFERENT = {
    "Autokill.ipynb": "the cell ends its kernel: that is the session's, so the notebook's own kernel lives and the cell"
    " raises, where locally the notebook is lost",
}


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert ARCHIVE.is_file(), (
        f"{ARCHIVE.name} is missing; `make test` fetches it, or `make {ARCHIVE.relative_to(Path.cwd())}`"
    )
    folder = tmp_path_factory.mktemp("nbclient")
    with tarfile.open(ARCHIVE) as archive:
        for member in archive.getmembers():
            path = Path(member.name)
            content = archive.extractfile(member) if path.parent.parts[-2:] == ("tests", "files") else None
            if content is not None:
                (folder / path.name).write_bytes(content.read())
    return folder


@pytest.fixture(autouse=True)
def _sessions_end_with_the_test(close_sessions: Callable[[], list[str]]) -> Any:
    yield
    close_sessions()


def load(path: Path, prefix: str, first: str) -> NotebookNode:
    """Returns the notebook without outputs, `first` as its first cell and the prefix in front of all others.

    A blank cell stays blank: nbclient executes nothing for it, locally or not.
    """
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if cell.source.strip():
                cell.source = f"{prefix}\n{cell.source}"
    notebook.cells.insert(0, new_code_cell(first))  # type: ignore[no-untyped-call]
    return notebook  # type: ignore[no-any-return]


def local(path: Path) -> NotebookNode:
    return load(path, "# %%gpu", "pass")


def on_the_agent(path: Path) -> NotebookNode:
    # Attached to the CPU by name: where no GPU is, a `%%gpu` that finds none would say so above its first output.
    return load(path, "%%gpu", "%load_ext nbgpu\n%gpu attach CPU")


NORMALISATIONS = (
    (r"\x1b\[[\d;]*m", ""),
    (r"0x[0-9a-f]{7,16}", "<ADDRESS>"),
    (r"\S*/ipykernel_\d+/\d+\.py", "<CELL>"),
    (r"# %%gpu", "%%gpu"),
)


def normalise(value: Any, extra: tuple[tuple[str, str], ...]) -> Any:
    """Returns the outputs with everything replaced that differs between two runs of the same notebook."""
    if isinstance(value, str):
        for pattern, replacement in (*NORMALISATIONS, *extra):
            value = re.sub(pattern, replacement, value)
        return value
    if isinstance(value, Mapping):
        return {key: normalise(item, extra) for key, item in value.items()}
    if isinstance(value, list):
        return join_streams([normalise(item, extra) for item in value])
    return value


def join_streams(items: list[Any]) -> list[Any]:
    """Joins outputs of one stream that follow each other: where a kernel cuts them is a matter of time."""
    joined: list[Any] = []
    for item in items:
        previous = joined[-1] if joined else None
        if is_stream(item) and is_stream(previous) and item["name"] == previous["name"]:
            joined[-1] = {**previous, "text": previous["text"] + item["text"]}
        else:
            joined.append(item)
    return joined


def is_stream(item: Any) -> bool:
    return isinstance(item, dict) and item.get("output_type") == "stream"


def number_ids(text: str) -> str:
    """Replaces every random id by its place in the order of first appearance."""
    numbers: dict[str, str] = {}
    return re.sub(
        r"(?<![0-9a-f])(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?![0-9a-f])",
        lambda found: numbers.setdefault(found[0], f"<ID {len(numbers) + 1}>"),
        text,
    )


def seen_of(notebook: NotebookNode, case: Case) -> tuple[list[Any], list[Any]]:
    """Returns what a person sees of an executed notebook: its cells' counts and outputs, and its widgets' states."""
    cells = [
        {"count": cell.execution_count, "outputs": normalise(cell.outputs, case.normalise)}
        for cell in notebook.cells[1:]
        if cell.cell_type == "code"
    ]
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    states = [normalise(state, case.normalise) for state in widgets.values()]
    numbered = json.loads(number_ids(json.dumps([cells, states], sort_keys=True)))
    return numbered[0], numbered[1]


def run(notebook: NotebookNode, folder: Path, execute: Execute, case: Case) -> tuple[str, str] | None:
    """Executes the notebook in place; returns the name and the value of the error that it raised, if it did."""
    try:
        execute(notebook, folder, **case.options)
    except CellExecutionError as error:
        return error.ename, error.evalue
    return None


def test_every_notebook_is_accounted_for(notebooks: Path) -> None:
    found = sorted(path.name for path in notebooks.glob("*.ipynb"))
    assert found == sorted([*CASES, *TOGETHER, *DIFFERENT])


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_a_local_kernel(name: str, notebooks: Path, execute: Execute) -> None:
    case, path = CASES[name], notebooks / name
    here, there = local(path), on_the_agent(path)

    error_here = run(here, notebooks, execute, case)
    error_there = run(there, notebooks, execute, case)

    assert (error_here is not None) == case.raises
    assert error_there == error_here
    (cells_here, widgets_here), (cells_there, widgets_there) = seen_of(here, case), seen_of(there, case)
    assert cells_there == cells_here
    assert widgets_there == widgets_here


def test_two_notebooks_at_once(notebooks: Path, execute: Execute, tmp_path: Path) -> None:
    """Each waits for a file of the other, so neither ends if one has to wait for the other's cell."""
    # The agent does not pass the environment on, so the cell that reads the variable sets it first.
    variable = "NBEXECUTE_TEST_PARALLEL_TMPDIR"
    assignment = f"os.environ[{variable!r}] = {str(tmp_path)!r}"

    def run_one(name: str) -> None:
        notebook = on_the_agent(notebooks / name)
        (cell,) = (cell for cell in notebook.cells if variable in cell.source)
        cell.source = cell.source.replace("%%gpu", f"%%gpu\n{assignment}", 1)
        try:
            execute(notebook, notebooks)
        finally:
            ensure_event_loop().close()  # jupyter_core's, of this thread

    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as threads:
        for done in [threads.submit(run_one, name) for name in TOGETHER]:
            done.result()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test_file_A.txt", "test_file_B.txt"]


def test_a_cell_that_ends_its_kernel(notebooks: Path, execute: Execute) -> None:
    path = notebooks / "Autokill.ipynb"
    with pytest.raises(DeadKernelError):
        execute(local(path), notebooks)

    there = on_the_agent(path)
    there.cells.append(new_code_cell('print("the notebook lives")'))  # type: ignore[no-untyped-call]
    execute(there, notebooks, allow_errors=True)
    (error,) = there.cells[-2].outputs
    assert error.output_type == "error"
    assert error.ename == "KernelDiedError"
    assert "SIGTERM" in error.evalue
    assert there.cells[-1].outputs[0].text == "the notebook lives\n"
