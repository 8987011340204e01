"""The agent opens no pickle: nothing that it or the protocol imports of ours can, by whatever way."""

from __future__ import annotations

import ast
from pathlib import Path

import grimp
import pytest

PACKAGES = ("nbgpu_agent", "nbgpu_protocol")
FORBIDDEN = {"pickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib", "torch", "numpy"}
"""What opens pickles, or has functions that do (`torch.load`, `numpy.load`)."""
KERNELS_PACKAGE = "nbgpu_kernel"


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        "nbgpu_agent", "nbgpu_protocol", "nbgpu_kernel", include_external_packages=True, cache_dir=None
    )


def test_no_pickle_is_reached_from_the_agents_modules(graph: grimp.ImportGraph) -> None:
    own = {module for module in graph.modules if module.partition(".")[0] in PACKAGES}
    assert {"nbgpu_agent.registry", "nbgpu_agent.identity.users", "nbgpu_protocol.snapshot"} <= own
    reached = {imported for module in own for imported in graph.find_upstream_modules(module)}
    assert "grpc" in reached  # external packages are in the graph
    assert reached & FORBIDDEN == set()
    assert not any(module.startswith(KERNELS_PACKAGE) for module in reached)  # which does open them, in the kernel
    of_the_kernel = {module for module in graph.modules if module.startswith(KERNELS_PACKAGE)}
    assert {each for module in of_the_kernel for each in graph.find_upstream_modules(module)} & FORBIDDEN


def test_no_module_is_imported_by_a_name_that_is_made_up_at_run_time() -> None:
    """Past which the graph cannot see."""
    found = []
    root = Path(__file__).resolve().parents[2]
    for folder in (root / "kernel" / "nbgpu_agent", root / "python" / "nbgpu_protocol"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                name = ""
                if isinstance(node, ast.Call):
                    function = node.func
                    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                if name in {"__import__", "import_module", "eval", "exec"}:
                    found.append(f"{path.relative_to(root)}:{node.lineno}: {name}")  # type: ignore[attr-defined]
    assert found == []
