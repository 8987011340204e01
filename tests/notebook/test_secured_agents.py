"""Agents on a network, as far as loopback is one: certificates, pairing, users, and what who is refused is told."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_processes import Workplace, until, workplace
from nbgpu_agent.app import EXIT_REFUSED
from nbgpu_agent.audit import AUDIT_FILE
from secured_agents import Machine, SecuredAgent, start_secured

RUN = """
import json, nbgpu
with nbgpu.attach("H100x2", wait=False) as session:
    print(session.id, session.accelerators)
    session.execute("print(6 * 7)")
"""
HOLD = """
import sys, nbgpu
session = nbgpu.attach("H100", wait=False)
print(session.id, flush=True)
sys.stdin.read()
"""
ASK = "import asyncio, sys; from nbgpu.client.discovery import connect\n"


@pytest.fixture(scope="module")
def agent() -> Iterator[SecuredAgent]:
    with workplace() as place:
        agent = start_secured(place, "--AgentApp.spare_kernels=0")
        yield agent
        assert place.end(agent.process) == 0
        place.assert_nothing_left()


@pytest.fixture
def laptop(agent: SecuredAgent, request: pytest.FixtureRequest) -> Machine:
    return Machine(agent.place.root / re.sub(r"\W", "-", request.node.name)[:40])


def pools_of(machine: Machine) -> list[dict[str, str]]:
    path = machine.home / "config" / "nbgpu" / "pools.json"
    pools: list[dict[str, str]] = json.loads(path.read_text())["pools"] if path.exists() else []
    return pools


def as_default_pool(agent: SecuredAgent, machine: Machine) -> None:
    """Has the machine use the pool that it has paired with, by the environment, and no other."""
    (pool,) = pools_of(machine)
    machine.nbgpu("pool", "remove", pool["name"])
    machine.variables = {
        "NBGPU_AGENT_ADDRESS": pool["address"],
        "NBGPU_AGENT_TOKEN": pool["token"],
        "NBGPU_AGENT_PIN": agent.pin,
    }


def changed(line: str, option: str, value: str) -> str:
    return re.sub(rf"(?<={option} )\S+", value, line)


def test_a_user_pairs_and_runs_a_cell(agent: SecuredAgent, laptop: Machine) -> None:
    line = agent.invite("alice")
    assert re.fullmatch(
        r"nbgpu pool add lab grpcs://127\.0\.0\.1:\d+ --pin sha256:[0-9a-f]{64} --code [A-Z2-9]{4}(-[A-Z2-9]{4}){3}",
        line,
    )
    added = laptop.paste(line)
    assert added.returncode == 0, added.stderr
    assert "answers in" in added.stdout
    (pool,) = pools_of(laptop)
    file = laptop.home / "config" / "nbgpu" / "pools.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert pool["token"] not in added.stdout + added.stderr + agent.place.log()
    again = laptop.paste(line)
    assert again.returncode == 1
    assert "the code is wrong, was used before, or is older than 15 minutes" in again.stderr
    assert "hint: ask the agent's owner for another: `nbgpu agent invite USER`" in again.stderr
    assert pools_of(laptop) == [pool]  # what there was stays
    as_default_pool(agent, laptop)
    ran = laptop.python("-W", "error::ResourceWarning", "-c", RUN)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "42"


def test_a_wrong_pin_is_told_of_before_anything_is_sent(agent: SecuredAgent, laptop: Machine) -> None:
    line = agent.invite("alice")
    refused = laptop.paste(changed(line, "--pin", "sha256:" + "0" * 64))
    assert refused.returncode == 1
    assert "shows the certificate sha256:" in refused.stderr
    assert "nothing was sent" in refused.stderr
    assert "hint: ask the agent's owner for a new line" in refused.stderr
    assert pools_of(laptop) == []
    assert laptop.paste(line).returncode == 0  # the code is still good


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--pin", "sha256:12", "is no pin of a certificate"),
        ("--code", "ABCD", "the code is wrong"),
        ("lab", "grpcs://nowhere", "is no address of an agent"),
        ("lab", "127.0.0.1:1", "has no TLS, and only with it one pairs by a code"),
        ("lab", "grpcs://127.0.0.1:1", "does not answer"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(
    agent: SecuredAgent, laptop: Machine, option: str, value: str, why: str
) -> None:
    refused = laptop.paste(changed(agent.invite("alice"), option, value))
    assert refused.returncode == 1
    assert why in refused.stderr
    assert "hint: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert pools_of(laptop) == []


def test_a_token_that_is_revoked_ends_what_goes_on(agent: SecuredAgent, laptop: Machine) -> None:
    assert laptop.paste(agent.invite("mallory")).returncode == 0
    (token,) = (row[0] for row in agent.tokens() if row[1] == "mallory")
    watch = (
        ASK
        + """
from nbgpu import errors
async def main():
    pool, _ = await connect(start=False, pool_name="lab")
    async with pool:
        try:
            async for _ in pool.watch():
                print("watching", flush=True)
        except errors.AuthenticationError as error:
            print(error, flush=True)
asyncio.run(main())
"""
    )
    watching = laptop.start("-c", watch)
    assert watching.stdout is not None
    assert watching.stdout.readline() == "watching\n"
    revoked = agent.owner.nbgpu("agent", "tokens", "revoke", token)
    assert revoked.returncode == 0, revoked.stderr
    output, _ = watching.communicate(timeout=60)
    assert "the token of 'mallory' was revoked" in output
    assert "hint: the agent's owner makes an invitation by `nbgpu agent invite USER`" in output
    tried = laptop.nbgpu("pool", "test", "lab")
    assert tried.returncode == 1
    assert "the token of 'mallory' was revoked" in tried.stderr
    assert [row[-4] for row in agent.tokens() if row[0] == token] == ["revoked"]


def test_a_token_that_expired_is_told_of(agent: SecuredAgent, laptop: Machine) -> None:
    assert laptop.paste(agent.invite("temp", "--token-days", "0.00001")).returncode == 0

    def tried() -> str:
        done = laptop.nbgpu("pool", "test", "lab")
        return done.stderr if done.returncode else ""

    said = until(tried)
    assert "the token of 'temp' expired on 20" in said
    assert "hint: the agent's owner makes an invitation by `nbgpu agent invite USER`" in said


def test_who_got_in_and_who_did_not_is_written_down(agent: SecuredAgent, laptop: Machine) -> None:
    line = agent.invite("carol")
    assert laptop.paste(line).returncode == 0
    assert laptop.paste(line).returncode == 1
    (pool,) = pools_of(laptop)
    token_id = next(row[0] for row in agent.tokens() if row[1] == "carol")
    assert agent.owner.nbgpu("agent", "tokens", "revoke", token_id).returncode == 0
    as_default_pool(agent, laptop)
    assert laptop.nbgpu("sessions").returncode == 1

    written = (agent.place.folder / AUDIT_FILE).read_text()
    facts = [{key: each[key] for key in each if key != "time"} for each in map(json.loads, written.splitlines())]
    paired, *refused = [each for each in facts if each["user"] == "carol" or "carol" in each.get("reason", "")]
    assert {key: paired[key] for key in ("event", "address")} == {"event": "paired", "address": "127.0.0.1"}
    reason = "the token of 'carol' was revoked"
    assert {"event": "refused", "user": "-", "address": "127.0.0.1", "reason": reason} in refused
    assert any(each["event"] == "refused" and "the code is wrong" in each["reason"] for each in facts)
    by_owner = (agent.place.root / "identity" / AUDIT_FILE).read_text()
    events = [json.loads(each) for each in by_owner.splitlines()]
    assert events[0]["event"] == "certificates_made"
    assert {"invited", "token_revoked"} <= {each["event"] for each in events if "carol" in each.values()}
    for secret in (pool["token"], line.split()[-1]):
        assert secret not in written + by_owner


def test_users_see_and_end_only_their_own_sessions(agent: SecuredAgent, laptop: Machine) -> None:
    bob, boss = Machine(laptop.home / "bob"), Machine(laptop.home / "boss")
    for machine, user in ((laptop, "alice"), (bob, "bob"), (boss, "boss")):
        added = machine.paste(agent.invite(user))
        assert added.returncode == 0, added.stderr
        as_default_pool(agent, machine)  # so that the commands of the terminal go there
    with laptop.start("-c", HOLD) as holding:
        assert holding.stdout is not None
        session_id = holding.stdout.readline().strip()
        assert session_id
        assert session_id[:8] in laptop.nbgpu("sessions").stdout
        assert session_id[:8] not in bob.nbgpu("sessions").stdout
        assert session_id[:8] in boss.nbgpu("sessions").stdout
        refused = bob.nbgpu("close", session_id)
        assert refused.returncode == 1
        assert f"no session has an id that begins with {session_id}" in refused.stderr
        assert "3 of 4" in bob.nbgpu("offers").stdout  # how much is free is everybody's to know
        closed = boss.nbgpu("close", session_id)
        assert closed.returncode == 0, closed.stderr
        assert session_id[:8] not in laptop.nbgpu("sessions").stdout
        holding.communicate(timeout=60)


def test_the_certificate_is_renewed_while_the_agent_runs(agent: SecuredAgent, laptop: Machine) -> None:
    assert laptop.paste(agent.invite("alice")).returncode == 0
    before = (agent.place.root / "identity" / "server.pem").read_bytes()
    renewed = agent.owner.nbgpu("agent", "init", "--renew")
    assert renewed.returncode == 0, renewed.stderr
    assert (agent.place.root / "identity" / "server.pem").read_bytes() != before
    tried = laptop.nbgpu("pool", "test", "lab")
    assert tried.returncode == 0, tried.stderr
    assert "the certificate was renewed" in agent.place.log()


def test_another_agent_at_the_address_is_recognised(agent: SecuredAgent, laptop: Machine) -> None:
    assert laptop.paste(agent.invite("alice")).returncode == 0
    with workplace() as place:
        other = start_secured(place, "--AgentApp.spare_kernels=0")
        file = laptop.home / "config" / "nbgpu" / "pools.json"
        file.write_text(file.read_text().replace(agent.address, other.address))
        tried = laptop.nbgpu("pool", "test", "lab")
        assert tried.returncode == 1
        assert "it is another agent, or somebody is in between; nothing was sent" in tried.stderr
        assert place.end(other.process) == 0


def test_clients_show_certificates_where_they_have_to(laptop: Machine) -> None:
    with workplace() as place:
        agent = start_secured(place, "--AgentApp.spare_kernels=0", "--require-client-certificate")
        file = place.root / "carol.pem"
        line = agent.invite("carol", "--client-certificate", str(file))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        without = laptop.paste(line.replace(" --client-certificate carol.pem", ""))
        assert without.returncode == 1
        assert "does not answer" in without.stderr
        paired = laptop.paste(line.replace("carol.pem", str(file)))
        assert paired.returncode == 0, paired.stderr
        assert "answers in" in paired.stdout
        # The token of one with the certificate of another.
        eve = place.root / "eve.pem"
        agent.invite("eve", "--client-certificate", str(eve))
        pools = laptop.home / "config" / "nbgpu" / "pools.json"
        pools.write_text(pools.read_text().replace(str(file), str(eve)))
        mixed = laptop.nbgpu("pool", "test", "lab")
        assert mixed.returncode == 1
        assert "the client's certificate is not one of 'carol', whose token it sends" in mixed.stderr
        assert place.end(agent.process) == 0


def test_off_loopback_there_is_tls_or_nothing(place: Workplace) -> None:
    for options, why in (
        (("--listen=0.0.0.0:0",), "0.0.0.0 can be reached from other machines, and without TLS"),
        (("--listen=127.0.0.1:0", "--tls"), "there is no certificate to listen with"),
        (("--listen=127.0.0.1:0", "--require-client-certificate"), "clients show certificates with TLS only"),
    ):
        process = place.start(*options)
        assert process.wait(60) == EXIT_REFUSED
        assert why in place.log()
    assert "`nbgpu agent init --address HOST:7443` makes a certificate" in place.log()
    assert "Traceback" not in place.log()


def test_keys_that_others_can_read_are_not_used(place: Workplace) -> None:
    folder = place.root / "identity"
    owner = Machine(place.root / "owner", {"NBGPU_IDENTITY_FOLDER": str(folder)})
    assert owner.nbgpu("agent", "init").returncode == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}
    twice = owner.nbgpu("agent", "init")
    assert twice.returncode == 1
    assert "has certificates already" in twice.stderr
    (folder / "server.pem").chmod(0o640)
    process = place.start("--listen=127.0.0.1:0", "--tls", f"--identity-folder={folder}")
    assert process.wait(60) == EXIT_REFUSED
    assert f"others can read the key in {Path(folder) / 'server.pem'}" in place.log()


@pytest.mark.parametrize("arguments", [["users", "list"], ["tokens", "list"], ["invite", "alice"], ["init", "--renew"]])
def test_without_certificates_it_is_said_how_to_make_them(place: Workplace, arguments: list[str]) -> None:
    done = Machine(place.root / "owner").nbgpu("agent", *arguments)
    assert done.returncode == 1
    assert "hint: make one: `nbgpu agent init --address HOST:PORT`" in done.stderr
