"""`%gpu sync` in a notebook whose session is elsewhere: files there and back, cuts, and missing files."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_processes import until
from notebook_kernel import NotebookKernel, notebook_kernel, without_colours
from two_machines import NEEDED, Workplace, make_workplace, ok

MIB = 1 << 20
LARGE_BYTES = 150 * MIB


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("w"), NEEDED)


@pytest.fixture(scope="module")
def agent(workplace: Workplace) -> Iterator[dict[str, str]]:
    with workplace.agent() as found:
        yield found


@pytest.fixture
def notebook(workplace: Workplace, agent: dict[str, str]) -> Iterator[NotebookKernel]:
    with workplace.kernel(agent) as kernel:
        assert "attached" in ok(kernel.run("%gpu attach H100"))
        yield kernel
        kernel.run("%gpu close")


def write(workplace: Workplace, name: str, content: str) -> Path:
    path = workplace.notebook / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def there(notebook: NotebookKernel, code: str) -> str:
    return ok(notebook.run(f"%%gpu --no-sync\n{code}"))


def test_files_go_there_and_come_back(notebook: NotebookKernel, workplace: Workplace) -> None:
    write(workplace, "data/x.csv", "1,2")
    write(workplace, ".gitignore", "*.log\n")
    write(workplace, "data/big.log", "1")
    assert ok(notebook.run("%gpu sync data")) == "sent 1 file, 3 B\n"
    assert there(notebook, "print(open('data/x.csv').read())") == "1,2\n"
    assert there(notebook, "import os; print(os.listdir('data'))") == "['x.csv']\n"
    there(notebook, "open('data/result.csv', 'w').write('3,4'); open('data/x.csv', 'a').write(',5')")
    assert "data/result.csv: bring, 3 B" in ok(notebook.run("%gpu sync --dry-run"))
    assert ok(notebook.run("%gpu sync")) == "brought 2 files, 8 B\n"
    assert (workplace.notebook / "data/result.csv").read_text() == "3,4"
    assert (workplace.notebook / "data/x.csv").read_text() == "1,2,5"
    write(workplace, "data/x.csv", "here")
    there(notebook, "open('data/x.csv', 'w').write('there')")
    assert "changed on both sides; the notebook's is there now" in ok(notebook.run("%gpu sync data"))
    assert sorted(there(notebook, "for n in os.listdir('data'): print(open('data/' + n).read())").split()) == sorted(
        ["here", "there", "3,4"]
    )
    assert ok(notebook.run("%gpu sync data/big.log --to")) == "sent 1 file, 1 B\n"


def test_a_session_remembers_its_files_when_the_notebooks_kernel_restarts(
    notebook: NotebookKernel, workplace: Workplace
) -> None:
    write(workplace, "kept.txt", "1")
    write(workplace, "deleted.txt", "1")
    ok(notebook.run("%gpu sync *.txt"))
    notebook.restart()
    (workplace.notebook / "deleted.txt").unlink()
    ok(notebook.run("%load_ext nbgpu"))
    assert ok(notebook.run("%gpu sync")) == "removed 1 file there; 1 unchanged\n"
    assert there(notebook, "import os; print(os.path.exists('kept.txt'), os.path.exists('deleted.txt'))") == (
        "True False\n"
    )


def test_a_file_that_a_cell_misses_and_the_notebook_has(notebook: NotebookKernel, workplace: Workplace) -> None:
    write(workplace, "own/table.csv", "1")
    for name in ("'own/table.csv'", "os.path.abspath('own/table.csv')"):
        cell = notebook.run(f"%%gpu --no-sync\nimport os\nopen({name})")
        assert cell.errors[0]["ename"] == "FileNotFoundError"
        assert "`own/table.csv` is beside this notebook and not in the session: `%gpu sync own/table.csv`" in (
            cell.text("stderr")
        )
    assert "beside" not in notebook.run("%%gpu --no-sync\nopen('nowhere.csv')").text("stderr")
    assert "beside" not in notebook.run("%%gpu --no-sync\nopen('/etc/no/such/file')").text("stderr")
    ok(notebook.run("%gpu sync own/table.csv"))
    assert there(notebook, "print(open('own/table.csv').read())") == "1\n"


@pytest.mark.parametrize("cut", ["kill", "interrupt"])
def test_a_sync_that_was_cut_goes_on(notebook: NotebookKernel, workplace: Workplace, cut: str) -> None:
    content = os.urandom(LARGE_BYTES)
    (workplace.notebook / "large").write_bytes(content)
    folder = Path(there(notebook, "import os; print(os.getcwd())").strip())
    cell = notebook.start("%gpu sync large")
    until(lambda: any(each.stat().st_size for each in folder.glob(".nbgpu/incoming/*")))
    if cut == "kill":
        # As it is, with all that it had in memory.
        os.kill(notebook.manager.provisioner.pid, signal.SIGKILL)
        notebook.restart()
        ok(notebook.run("%load_ext nbgpu"))
    else:
        notebook.interrupt()
        assert notebook.finish(cell).errors[0]["ename"] == "KeyboardInterrupt"
    assert not (folder / "large").exists()
    assert ok(notebook.run("%gpu sync large")) == "sent 1 file, 157 MB\n"
    assert (folder / "large").read_bytes() == content
    assert list(folder.glob(".nbgpu/incoming/*")) == []
    (workplace.notebook / "large").unlink()


def test_lines_that_cannot_be_followed(notebook: NotebookKernel, workplace: Workplace) -> None:
    for line, said in (
        ("../x", "is not in the notebook's folder"),
        ("nowhere", "is neither in the notebook's folder"),
        ("--frm", "there is no option --frm here (there is: --to, --from, --dry-run, --environment)"),
        ("--to --from", "--to and --from together"),
        ("'x", "cannot read"),
        ("", "nothing was synced with this session before"),
    ):
        cell = notebook.run(f"%gpu sync {line}")
        assert said in without_colours("\n".join(cell.errors[0]["traceback"])), line
        assert "workspace" not in "\n".join(cell.errors[0]["traceback"])  # no frames of ours
    ok(notebook.run("%gpu close"))
    assert "not attached" in notebook.run("%gpu sync x").errors[0]["evalue"]


def test_from_python(notebook: NotebookKernel, workplace: Workplace) -> None:
    write(workplace, "p.txt", "1")
    ok(notebook.run("import nbgpu\nsession = nbgpu.attach('H100')"))
    assert ok(notebook.run("print(session.sync('p.txt', only='to').sent)")) == "{'p.txt': 1}\n"
    ok(notebook.run("twin = await nbgpu.attach_async('H100')"))
    assert ok(notebook.run("print(await twin.sync('p.txt'))")) == "1 file unchanged\n"


def test_a_session_on_this_machine_works_in_the_notebooks_folder(own_folders: Path) -> None:
    with notebook_kernel(own_folders) as kernel:
        ok(kernel.run("%load_ext nbgpu"))
        ok(kernel.run("%%gpu\nprint(1)"))
        assert "the session works in this folder itself" in ok(kernel.run("%gpu sync x"))
        cell = kernel.run("%%gpu\nopen('README.md.not')")
        assert "beside" not in cell.text("stderr")
        ok(kernel.run("%gpu close"))
