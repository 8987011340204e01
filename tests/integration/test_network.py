"""The user's walk over a network: an agent on one machine, and people who come to it from another."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from agent_processes import until, workplace
from faults.network import GONE, run_over_network, why_no_network
from network_namespaces import ADDRESSES, inside, refuse_without_namespaces, two_namespaces
from secured_agents import Machine

CELLS = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in ("%load_ext nbgpu", "%gpu attach H100x2 --pool lab", "x = 6", "%%gpu\\ny = x * 7\\nprint('there:', y)",
             "print('here:', y)", "%gpu close"):
    shell.run_cell(cell).raise_error()
"""
HOLD = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in ("%load_ext nbgpu", "%gpu attach H100x2 --pool lab"):
    shell.run_cell(cell).raise_error()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine, Machine]]:
    """The agent's machine, and those of two users, which are one as far as the network is concerned."""
    with workplace() as place, two_namespaces() as (there, here):
        gpu = Machine(place.root / "gpu", {"NBGPU_SIMULATE": "H100x4"}, inside(there))
        users = [Machine(place.root / name, prefix=inside(here)) for name in ("alice", "bob")]
        yield gpu, users[0], users[1]


def test_a_cell_runs_on_a_machine_of_the_network(machines: tuple[Machine, Machine, Machine]) -> None:
    gpu, alice, bob = machines
    refused = gpu.python("-m", "nbgpu", "agent", "serve", "--listen=0.0.0.0:7443")
    assert "without TLS, for which there is no certificate yet" in refused.stderr
    made = gpu.nbgpu("agent", "init", "--name=lab", f"--address={ADDRESSES[0]}:7443", "--user=alice")
    assert made.returncode == 0, made.stderr
    assert "start the agent with `nbgpu agent serve --listen 0.0.0.0:7443`" in made.stderr
    line = made.stdout.strip()
    assert line.startswith(f"nbgpu pool add lab grpcs://{ADDRESSES[0]}:7443 --pin sha256:")

    agent = gpu.start("-m", "nbgpu", "agent", "serve", "--listen=0.0.0.0:7443", "--AgentApp.spare_kernels=0")
    assert agent.stdout is not None
    assert agent.stdout.readline().startswith("export NBGPU_AGENT_ADDRESS=grpcs://0.0.0.0:7443 NBGPU_AGENT_PIN=sha256:")
    try:
        wrong = alice.paste(re.sub(r"sha256:\S+", "sha256:" + "0" * 64, line))
        assert wrong.returncode == 1
        assert "it is another agent, or somebody is in between; nothing was sent" in wrong.stderr
        added = alice.paste(line)
        assert added.returncode == 0, added.stderr
        assert "answers in" in added.stdout
        ran = alice.python("-c", CELLS)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "there: 42" in ran.stdout
        assert "here: 42" in ran.stdout

        used = bob.paste(line)
        assert used.returncode == 1
        assert "the code is wrong, was used before, or is older than 15 minutes" in used.stderr
        invited = gpu.nbgpu("agent", "invite", "bob")
        assert bob.paste(invited.stdout.strip()).returncode == 0
        holding = alice.start("-c", HOLD)
        assert holding.stdout is not None
        until(lambda: "held" in holding.stdout.readline())  # type: ignore[union-attr]
        tried = bob.nbgpu("pool", "list")
        assert "H100 2 of 4 free" in tried.stdout
        sessions = bob.python("-c", _SESSIONS)
        assert sessions.stdout.splitlines() == ["0 sessions", "2 accelerators of others"], sessions.stderr

        token = next(
            line.split()[0] for line in gpu.nbgpu("agent", "tokens", "list").stdout.splitlines() if "bob" in line
        )
        assert gpu.nbgpu("agent", "tokens", "revoke", token).returncode == 0
        out = bob.nbgpu("pool", "test", "lab")
        assert out.returncode == 1
        assert "the token of 'bob' was revoked" in out.stderr
        assert "hint: the agent's owner makes an invitation by `nbgpu agent invite USER`" in out.stderr
        holding.communicate(timeout=60)
    finally:
        agent.terminate()
        agent.communicate(timeout=60)
    assert agent.returncode == 0


_SESSIONS = """
import asyncio
from nbgpu.client.discovery import connect
async def main():
    pool, _ = await connect(start=False, pool_name="lab")
    async with pool:
        print(len(await pool.list_sessions()), "sessions")
        async for state in pool.watch():
            print(sum(each.other_user for each in state.accelerators), "accelerators of others")
            break
asyncio.run(main())
"""


@pytest.mark.parametrize(("name", "times"), [("network loses 1 %", 1), (GONE, 2)])
def test_output_is_the_same_over_a_network_that_is_bad_or_gone_for_a_while(name: str, times: int) -> None:
    refuse_without_namespaces()
    if why := why_no_network():
        pytest.skip(why)
    seed = random.randrange(1 << 30)
    found, left = run_over_network(name, times, seed, dark_s=1.0)
    assert (found.losses, left) == ([], []), f"with moments of seed {seed}"
