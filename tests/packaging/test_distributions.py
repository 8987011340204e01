"""What is built and shipped: the source distribution, the wheel from it, and what a person gets who installs that."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = json.loads((ROOT / "js/package.json").read_text())["version"]
LABEXTENSION = f"nbgpu-{VERSION}.data/data/share/jupyter/labextensions/@nbgpu/labextension"
BUILD_TIMEOUT_S = 300


def run(*command, environ=None, cwd=None):
    result = subprocess.run(
        command, env=environ, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=BUILD_TIMEOUT_S
    )
    output = result.stdout.decode()
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{output}"
    return re.sub(r"\x1b\[[0-9;]*m", "", output)


def environ_without_node(folder):
    """Returns this process's environment with a PATH on which there is no Node."""
    tools = folder / "bin-without-node"
    tools.mkdir()
    for name in ("sh", "env", "uname", "git"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    environ = {**os.environ, "PATH": str(tools)}
    environ.pop("PYTHONPATH", None)
    for name in ("node", "npm", "npx"):
        assert shutil.which(name, path=environ["PATH"]) is None
    return environ


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout with the installed Node packages, so that builds do not disturb the one in use."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("python", "kernel"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "labextension"))
    shutil.copytree(ROOT / "js", folder / "js", ignore=shutil.ignore_patterns("node_modules", "lib"))
    (folder / "js/node_modules").symlink_to(ROOT / "js/node_modules")
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    stale = folder / "python/nbgpu/labextension/static"
    stale.mkdir(parents=True)
    (stale / "remoteEntry.stale.js").write_text("stale")
    (stale.parent / "package.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory):
    output = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", output, checkout)
    [path] = output.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Built from the source distribution, on a machine without Node."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    [source] = folder.iterdir()
    output = folder / "dist"
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", output, source)
    run(*command, environ=environ_without_node(folder))
    [path] = output.iterdir()
    return path


@pytest.fixture(scope="module")
def members(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def fresh_environment(wheel, tmp_path_factory):
    """A fresh environment with the wheel; what it depends on comes from the environment of the tests."""
    folder = tmp_path_factory.mktemp("fresh")
    environ = environ_without_node(folder)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    [site_packages] = (folder / "venv/lib").glob("python3.*/site-packages")
    run(
        sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index",
        "--ignore-installed", "--prefix", folder / "venv", wheel, environ=environ,
    )  # fmt: skip
    others = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    # after its own, and not as a site folder: the editable install of the tests' environment must not take part
    (site_packages / "others.pth").write_text(f"{others}\n")
    for variable in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        environ[variable] = str(folder / variable.lower())
    return folder / "venv/bin/python", environ


def test_the_wheel_holds_the_four_packages_and_the_bundle(members):
    for path in (
        "nbgpu/__init__.py",
        "nbgpu/server/app.py",
        "nbgpu/py.typed",
        "nbgpu_protocol/v1/pool_pb2.py",
        "nbgpu_agent/__main__.py",
        "nbgpu_kernel/__init__.py",
        f"{LABEXTENSION}/package.json",
        f"{LABEXTENSION}/install.json",
        f"nbgpu-{VERSION}.data/data/etc/jupyter/jupyter_server_config.d/nbgpu.json",
    ):
        assert path in members


def test_the_wheel_holds_nothing_else(members):
    tops = {member.split("/")[0] for member in members}
    assert tops == {
        "nbgpu",
        "nbgpu_protocol",
        "nbgpu_agent",
        "nbgpu_kernel",
        f"nbgpu-{VERSION}.data",
        f"nbgpu-{VERSION}.dist-info",
    }
    unwanted = ("__pycache__", ".pyc", "node_modules", ".js.map")
    assert [member for member in members if any(word in member for word in unwanted)] == []
    assert [member for member in members if member.startswith("nbgpu/labextension")] == []


def test_the_bundle_is_one_production_build_of_this_version(wheel, members):
    entries = [member for member in members if member.startswith(f"{LABEXTENSION}/static/remoteEntry.")]
    assert len(entries) == 1
    assert "stale" not in entries[0]
    with zipfile.ZipFile(wheel) as archive:
        package = json.loads(archive.read(f"{LABEXTENSION}/package.json"))
        size_bytes = sum(info.file_size for info in archive.infolist() if info.filename.startswith(LABEXTENSION))
    assert package["version"] == VERSION
    assert package["jupyterlab"]["_build"]["load"] == f"static/{Path(entries[0]).name}"
    assert size_bytes < 260_000  # 171 kB when this was written, five times as much in a development bundle


def test_the_metadata_names_version_license_and_entry_point(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = HeaderParser().parsestr(archive.read(f"nbgpu-{VERSION}.dist-info/METADATA").decode())
        entry_points = archive.read(f"nbgpu-{VERSION}.dist-info/entry_points.txt").decode()
    assert metadata["Version"] == VERSION
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert "nbgpu = nbgpu.cli:main" in entry_points


def test_the_source_distribution_builds_again_from_its_sources(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for path in ("js/src/index.ts", "js/package-lock.json", "js/.npmrc", "hatch_build.py", "LICENSE"):
        assert path in names
    assert [name for name in names if "node_modules" in name or name.startswith("js/lib")] == []


def test_the_wheel_works_in_a_fresh_environment_without_node(fresh_environment):
    python, environ = fresh_environment
    where = run(python, "-c", "import nbgpu, nbgpu_agent; print(nbgpu.__file__, nbgpu.__version__)", environ=environ)
    assert str(python.parent.parent) in where
    assert VERSION in where

    labextensions = run(python, "-m", "jupyterlab.labextensions", "list", environ=environ)
    [line] = [line for line in labextensions.splitlines() if "@nbgpu/labextension" in line]
    assert f"v{VERSION} enabled OK" in line

    server_extensions = run(python, "-m", "jupyter_server.extension.serverextension", "list", environ=environ)
    lines = [line.strip() for line in server_extensions.splitlines() if "nbgpu.server" in line]
    assert "nbgpu.server enabled" in lines
    assert "nbgpu.server  OK" in lines


GPU_CELLS = """
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in (
    "%load_ext nbgpu",
    "given = 20",
    "%%gpu H100\\nimport nbgpu_kernel\\nmade = given + 1\\nwhere = nbgpu_kernel.__file__",
    "print('made', made, 'with', where)",
    "%gpu close",
):
    shell.run_cell(cell).raise_error()
"""


def test_a_gpu_cell_runs_with_what_the_wheel_installed(fresh_environment, tmp_path):
    python, environ = fresh_environment
    with tempfile.TemporaryDirectory(prefix="nb-") as folder:  # a socket's path must be short
        environ = {**environ, "NBGPU_SIMULATE": "H100", "JUPYTER_RUNTIME_DIR": folder}
        try:
            output = run(python, "-c", GPU_CELLS, environ=environ, cwd=tmp_path)
        finally:
            stopped = run(python, "-m", "nbgpu", "agent", "stop", environ=environ, cwd=tmp_path)
    assert f"made 21 with {python.parent.parent}" in output
    assert "closed session" in output
    assert "no agent" not in stopped


def test_without_npm_a_checkout_says_what_is_missing(checkout, tmp_path):
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", checkout)
    result = subprocess.run(
        command, env=environ_without_node(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
    )
    assert result.returncode != 0
    assert b"npm (Node 20 or newer) builds the labextension" in result.stdout
