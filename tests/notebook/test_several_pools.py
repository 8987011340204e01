"""A process that uses two agents: this machine's own, and one that the person added as a pool."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent_processes import DEADLINE_S, Client, Workplace
from nbgpu.client.pools import ConfiguredPool, add_pool


@pytest.fixture
def lab(place: Workplace) -> Iterator[Client]:
    """Another agent, added as the pool `lab`; this machine's own runs too."""
    place.start_embedded()
    process, address, token = place.start_listening(
        "--AgentApp.spare_kernels=0", folder=place.root / "lab", NBGPU_SIMULATE="B200x2,H100x8"
    )
    add_pool(ConfiguredPool("lab", address, token))
    with Client(address, token) as client:
        yield client
    assert place.end(process) == 0


def run(place: Workplace, program: str) -> dict[str, object]:
    finished = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", f"import json, nbgpu\n{program}"],
        env=place.environ(NBGPU_AGENT_DIR=str(place.folder), NBGPU_SNAPSHOT="0"),
        cwd=place.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert finished.returncode == 0, finished.stderr
    found: dict[str, object] = json.loads(finished.stdout.splitlines()[-1])
    return found


def test_a_spec_goes_to_the_pool_that_has_it(place: Workplace, lab: Client) -> None:
    program = """
with nbgpu.attach("B200") as there, nbgpu.attach("H100", new=True) as here:
    print(json.dumps({"there": there.accelerators, "here": here.info().node.id, "lab": there.info().node.id}))
"""
    found = run(place, program)
    assert found["there"] == ["B200"]
    assert found["lab"] == lab.handshake().node.id
    assert found["here"] != found["lab"]  # the default pool comes first
    assert lab.sessions() == []


def test_a_spec_that_the_first_pool_has_but_not_now_goes_to_one_that_has(place: Workplace, lab: Client) -> None:
    program = """
with nbgpu.attach("H100x4") as here, nbgpu.attach("H100x2", new=True) as there:
    print(json.dumps({"there": there.info().node.id}))
"""
    assert run(place, program)["there"] == lab.handshake().node.id


def test_a_pool_is_named(place: Workplace, lab: Client) -> None:
    program = """
from nbgpu.client.pools import NoSuchPoolError
with nbgpu.attach("H100", pool="lab") as named:
    found = named.info().node.id
try:
    nbgpu.attach("H100", pool="lap")
except NoSuchPoolError as error:
    print(json.dumps({"node": found, "refused": error.message()}))
"""
    found = run(place, program)
    assert found["node"] == lab.handshake().node.id
    assert found["refused"] == "there is no pool 'lap'; there is 'lab'"


def test_a_pool_that_does_not_answer_is_passed_over(place: Workplace, lab: Client) -> None:
    add_pool(ConfiguredPool("gone", f"unix:{place.root / 'gone.sock'}", "t"))
    program = """
with nbgpu.attach("B200") as there:
    print(json.dumps({"there": there.accelerators}))
"""
    assert run(place, program)["there"] == ["B200"]
