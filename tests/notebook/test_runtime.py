"""Which rank a process is: from torchrun's variables, and alone without them."""

from __future__ import annotations

import ipaddress

import pytest

from nbgpu import runtime
from nbgpu.compat import databricks
from nbgpu.compat.databricks import runtime as theirs

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert (runtime.get_global_rank(), runtime.get_local_rank(), runtime.get_node_rank()) == (0, 0, 0)
    assert (runtime.get_world_size(), runtime.get_local_world_size(), runtime.get_replica_rank()) == (1, 1, 0)


def test_as_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(VARIABLES, 1):
        monkeypatch.setenv(name, str(number))
    assert (runtime.get_global_rank(), runtime.get_local_rank(), runtime.get_world_size()) == (1, 2, 3)
    assert (runtime.get_local_world_size(), runtime.get_node_rank()) == (4, 5)
    monkeypatch.delenv("NODE_RANK")
    assert (runtime.get_node_rank(), runtime.get_replica_rank()) == (6, 6)


def test_a_node_has_an_address() -> None:
    assert ipaddress.ip_address(runtime.get_node_ip())


def test_their_names_are_ours() -> None:
    for name in runtime.__all__:
        assert getattr(theirs, name) is getattr(runtime, name)
    assert all(getattr(databricks, name) is not None for name in databricks.__all__)
    with pytest.raises(AttributeError):
        databricks.nothing  # noqa: B018
