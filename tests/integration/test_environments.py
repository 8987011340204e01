"""A notebook's environment in a session elsewhere: an agent on loopback TCP, and a notebook in a small environment."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_processes import until
from nbgpu.client.pool import Pool
from nbgpu_protocol.v1 import pool_pb2
from notebook_kernel import NotebookKernel
from two_machines import AGENT, NEEDED, Workplace, make_workplace, ok
from wheels import make_wheel

SECRET = "a-value-that-nobody-may-write-down"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    root = tmp_path_factory.mktemp("e")
    links = root / "links"
    for version in ("1.0", "2.0"):
        make_wheel(links, "alpha", version)
    make_wheel(links, "beta", "1.0")
    (root / "project/src/tool").mkdir(parents=True)
    made = make_workplace(root, NEEDED)
    made.install("alpha==1.0")
    return made


@pytest.fixture(scope="module")
def agent(workplace: Workplace) -> Iterator[dict[str, str]]:
    with workplace.agent() as found:
        yield found


@pytest.fixture
def notebook(workplace: Workplace, agent: dict[str, str]) -> Iterator[NotebookKernel]:
    workplace.install("alpha==1.0")
    with workplace.kernel(agent) as kernel:
        yield kernel
        kernel.run("%gpu close")


def test_a_session_has_the_notebooks_packages_and_none_of_the_agents(
    notebook: NotebookKernel, workplace: Workplace
) -> None:
    code = "%%gpu H100 --no-sync\nimport alpha, sys, importlib.util\nprint(alpha.__version__, sys.prefix)"
    version, prefix = ok(notebook.run(code)).split()
    assert version == "1.0"
    assert Path(prefix).parent == workplace.root / "agent/environments"
    assert Path(prefix).name in workplace.environments
    assert ok(notebook.run("%%gpu --no-sync\nprint(importlib.util.find_spec('jupyter_server'))")) == "None\n"
    assert prefix in ok(notebook.run("%%gpu --no-sync\n!command -v python"))
    assert "in a plain cell" in ok(notebook.run("%%gpu --no-sync\n!pip install beta"))


def test_an_install_between_two_cells_reaches_the_second(notebook: NotebookKernel, workplace: Workplace) -> None:
    assert ok(notebook.run("%%gpu H100 --no-sync\nimport os\nos.marker = 1")) == ""
    assert notebook.run("%%gpu --no-sync\nimport beta").errors[0]["ename"] == "ModuleNotFoundError"
    workplace.install("beta==1.0")
    code = "%%gpu --no-sync\nimport beta, os\nprint(beta.__version__, os.marker)"
    assert ok(notebook.run(code)) == "1.0 1\n"  # in the same kernel
    workplace.uv("pip", "uninstall", "--python", str(workplace.python), "beta")


def test_sessions_from_python_are_up_to_date_as_cells_are(notebook: NotebookKernel, workplace: Workplace) -> None:
    ok(notebook.run("import nbgpu\nsession = nbgpu.attach('H100')\nsession.execute('1')"))
    workplace.install("beta==1.0")
    try:
        assert "1.0" in ok(notebook.run("session.execute('import beta; print(beta.__version__)')"))
        workplace.install("alpha==2.0")
        ok(notebook.run("other = await nbgpu.attach_async()"))
        version = "import importlib.metadata as m; print(m.version('alpha'))"
        assert ok(notebook.run(f'await other.execute("{version}")')) == "2.0\n"
    finally:
        workplace.uv("pip", "uninstall", "--python", str(workplace.python), "beta")


def test_the_agent_knows_after_a_local_cell_how_the_environment_differs_and_what_was_sent(
    notebook: NotebookKernel, workplace: Workplace, agent: dict[str, str]
) -> None:
    (workplace.notebook / "nearby.py").write_text("answer = 1\n")
    ok(notebook.run("data = list(range(1000))"))
    ok(notebook.run("%%gpu H100\nimport nearby\ntotal = sum(data)"))

    facts = until_facts(agent, lambda facts: facts.variables.sent_count > 0 and facts.HasField("difference"))
    assert (facts.difference.package_count, facts.difference.file_count) == (0, 0)
    assert [each.name for each in facts.variables.sent] == ["data", "total"]
    assert facts.variables.sent_bytes == sum(each.size_bytes for each in facts.variables.sent) > 1000

    workplace.install("alpha==2.0")
    (workplace.notebook / "nearby.py").write_text("answer = 22\n")
    ok(notebook.run("1"))
    facts = until_facts(agent, lambda facts: facts.difference.package_count and facts.difference.file_count)
    assert [(each.name, each.before, each.now) for each in facts.difference.packages] == [("alpha", "1.0", "2.0")]
    assert list(facts.difference.files) == ["nearby.py"]

    said = ok(notebook.run("%gpu sync --environment"))
    assert "has the packages and local modules of this notebook" in said
    until_facts(agent, lambda facts: facts.HasField("difference") and not facts.difference.ByteSize())
    ok(notebook.run("%gpu restart"))
    until_facts(agent, lambda facts: not facts.variables.ByteSize())
    (workplace.notebook / "nearby.py").unlink()


def until_facts(agent: dict[str, str], condition: Callable[[pool_pb2.NotebookFacts], object]) -> pool_pb2.NotebookFacts:
    """Returns what the agent was told of the one session that there is, once it is like that."""

    async def ask() -> pool_pb2.NotebookFacts:
        async with Pool(agent["NBGPU_AGENT_ADDRESS"], agent["NBGPU_AGENT_TOKEN"]) as pool:
            (session,) = await pool.list_sessions()
            return session.notebook

    def facts() -> pool_pb2.NotebookFacts | None:
        found = asyncio.run(ask())
        return found if condition(found) else None

    found: pool_pb2.NotebookFacts = until(facts)
    return found


def test_a_package_that_changed_under_its_module_is_said(notebook: NotebookKernel, workplace: Workplace) -> None:
    ok(notebook.run("import alpha"))
    ok(notebook.run("%%gpu H100 --no-sync\nimport alpha"))
    workplace.install("alpha==2.0")
    cell = notebook.run("%%gpu --no-sync\n1")
    assert "alpha is 2.0 on disk, 1.0 in memory: restart this notebook's kernel" in cell.text("stderr")


def test_local_modules_and_editable_projects_travel_and_so_do_their_edits(
    notebook: NotebookKernel, workplace: Workplace
) -> None:
    module, tool = workplace.notebook / "helper.py", workplace.root / "project/src/tool/__init__.py"
    module.write_text("def f():\n    return 'first'\n")
    tool.write_text("name = 'the first tool'\n")
    site = next((workplace.root / "notebook-environment/lib").glob("python*/site-packages"))
    info = site / "tool-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tool\nVersion: 1.0\n\n")
    (info / "direct_url.json").write_text('{"url": "file:///project", "dir_info": {"editable": true}}')
    (info / "RECORD").write_text("tool.pth,,\ntool-1.0.dist-info/METADATA,,\n")
    (site / "tool.pth").write_text(f"{workplace.root / 'project/src'}\n")
    try:
        code = "%%gpu H100 --no-sync\nimport helper, tool\nfrom helper import f\nprint(helper.f(), tool.name)"
        assert ok(notebook.run(code)) == "first the first tool\n"
        assert str(workplace.notebook) not in ok(notebook.run("%%gpu --no-sync\nprint(helper.__file__, tool.__file__)"))
        module.write_text("def f():\n    return 'second time'\n")
        tool.write_text("name = 'another tool'\n")
        assert ok(notebook.run("%%gpu --no-sync\nprint(f(), helper.f(), tool.name)")) == (
            "second time second time another tool\n"
        )
        version = "import importlib.metadata as m; print(m.version('tool'))"
        assert ok(notebook.run(f"%%gpu --no-sync\n{version}")) == "1.0\n"
        assert ok(notebook.run("%gpu restart")) != ""
        assert ok(notebook.run("%%gpu --no-sync\nimport helper, tool\nprint(helper.f(), tool.name)")) == (
            "second time another tool\n"
        )
    finally:
        for file in (*info.iterdir(), site / "tool.pth"):
            file.unlink()
        info.rmdir()


def test_variables_and_secrets_reach_the_kernel_and_a_secret_nothing_else(
    notebook: NotebookKernel, workplace: Workplace
) -> None:
    ok(notebook.run("import os\nos.environ['PLAIN'] = 'seen'"))
    assert "PLAIN" in ok(notebook.run("%gpu env -e PLAIN"))
    asked = notebook.run("%gpu secret TOKEN_OF_MINE", answers=(SECRET,))
    assert SECRET not in str(asked.messages)
    read = "%%gpu H100 --no-sync\nimport os\nprint(os.environ['PLAIN'], len(os.environ['TOKEN_OF_MINE']))"
    assert ok(notebook.run(read)) == f"seen {len(SECRET)}\n"
    ok(notebook.run("os.environ['PLAIN'] = 'changed'"))
    assert ok(notebook.run(read)) == f"changed {len(SECRET)}\n"
    ok(notebook.run("%gpu restart"))
    assert ok(notebook.run(read)) == f"changed {len(SECRET)}\n"
    written = [
        path
        for folder in ("agent", "data", "runtime", "tmp", "notebook")
        for path in (workplace.root / folder).rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    assert written == []
    assert SECRET not in (workplace.root / "agent.log").read_text()
    assert "UnsetName is not set" in str(notebook.run("%gpu env -e UnsetName").errors)


def test_what_the_node_cannot_have_is_named_and_the_session_goes_on(
    notebook: NotebookKernel, workplace: Workplace
) -> None:
    ok(notebook.run("%%gpu H100 --no-sync\nkept = 1"))
    site = next((workplace.root / "notebook-environment/lib").glob("python*/site-packages"))
    for name in ("nowhere", "neverland"):
        info = site / f"{name}-9.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\n\n")
    try:
        [error] = notebook.run("%%gpu --no-sync\nprint(kept)").errors
        assert error["ename"] == "EnvironmentImpossibleError"
        assert "nowhere 9.0" in error["evalue"]
        assert "neverland 9.0" in error["evalue"]
        plan = ok(notebook.run("%gpu plan"))
        assert "impossible" in plan
        assert "cannot be built there" in plan
    finally:
        for name in ("nowhere", "neverland"):
            (site / f"{name}-9.0.dist-info/METADATA").unlink()
            (site / f"{name}-9.0.dist-info").rmdir()
    assert ok(notebook.run("%%gpu --no-sync\nprint(kept)")) == "1\n"


def test_a_plan_is_shown_and_nothing_runs(notebook: NotebookKernel) -> None:
    shown = ok(notebook.run("%%gpu --plan\nraise RuntimeError('it ran')"))
    assert "packages for Python" in shown
    assert "alpha" in ok(notebook.run("%gpu plan --all"))
    assert "no sessions" in ok(notebook.run("%gpu sessions"))


def test_the_next_agent_finds_what_was_built_and_removes_what_was_not(workplace: Workplace) -> None:
    environments = workplace.root / "another/environments"
    with workplace.agent("another") as found, workplace.kernel(found) as kernel:
        prefix = ok(kernel.run("%%gpu H100 --no-sync\nimport sys\nprint(sys.prefix)"))
        ok(kernel.run("%gpu close"))
    before = [path.name for path in environments.iterdir()]
    (environments / ".building-left/environment").mkdir(parents=True)
    with workplace.agent("another") as found, workplace.kernel(found) as kernel:
        assert ok(kernel.run("%%gpu H100 --no-sync\nimport sys\nprint(sys.prefix)")) == prefix
        assert [path.name for path in environments.iterdir()] == before
        ok(kernel.run("%gpu close"))


def test_what_the_nodes_owner_provides_is_used_and_shown(workplace: Workplace) -> None:
    stack = workplace.root / "stack"
    workplace.uv("venv", "--python", str(workplace.python), str(stack))
    workplace.uv("pip", "install", "--python", str(stack / "bin/python"), "alpha==1.0", "beta==1.0")
    workplace.install("alpha==1.0")
    with workplace.agent("based", f"--base-environment={stack}") as found, workplace.kernel(found) as kernel:
        shown = [line.split() for line in ok(kernel.run("%gpu plan")).splitlines()]
        assert ["alpha", "1.0", "provided", "on", "the", "node", "already"] in shown
        code = "import alpha, importlib.util\nprint(alpha.__file__, importlib.util.find_spec('beta'))"
        place, beta = ok(kernel.run(f"%%gpu H100 --no-sync\n{code}")).split()
        assert Path(place).is_relative_to(workplace.root / "based/environments")
        assert Path(place).samefile(next(stack.glob("lib/python*/site-packages/alpha/__init__.py")))
        assert beta == "None"
        ok(kernel.run("%gpu close"))


def test_a_base_environment_that_is_none_is_refused_at_the_start(workplace: Workplace) -> None:
    wrong = f"--base-environment={workplace.notebook}"
    command = [*AGENT, f"--folder={workplace.root / 'wrong'}", wrong]
    done = subprocess.run(
        command, env=workplace.variables, cwd=workplace.root, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert f"the base environment {workplace.notebook} has no Python that runs at" in done.stderr
    assert done.stdout == ""
