"""The pools that a person adds: the file that they are in, the commands around it, and which one a spec goes to."""

from __future__ import annotations

import io
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import pool as fake
from nbgpu import errors
from nbgpu.cli import main
from nbgpu.client.pairing import read_invitation
from nbgpu.client.pool_choice import Fit, choose_pool, fit
from nbgpu.client.pools import (
    ConfiguredPool,
    NoSuchPoolError,
    PoolRefusedError,
    PoolsFileError,
    add_pool,
    find_pool,
    pools_file,
    read_pools,
    remove_pool,
)
from nbgpu.client.trust import UntrustedAgentError
from nbgpu.server.pool_calls import read_candidate
from nbgpu.spec import parse_spec
from nbgpu_protocol.v1 import pool_pb2

LAB = ConfiguredPool("lab", "127.0.0.1:7443", "secret")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    for name in ("NBGPU_AGENT_ADDRESS", "NBGPU_AGENT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def pool() -> Iterator[fake.FakePool]:
    with fake.run_fake_pool() as pool:
        pool.publish(pool_pb2.PoolState(offers=[fake.offer("H100", 8, 6)]))
        yield pool


def test_pools_are_kept_in_order_and_replaced_by_name() -> None:
    assert read_pools() == ()
    add_pool(LAB)
    add_pool(ConfiguredPool("other", "unix:/run/a.sock", "t"))
    add_pool(ConfiguredPool("lab", "localhost:1", "new"))
    assert [(each.name, each.address, each.token) for each in read_pools()] == [
        ("lab", "localhost:1", "new"),
        ("other", "unix:/run/a.sock", "t"),
    ]
    assert find_pool("other").token == "t"
    remove_pool("lab")
    assert [each.name for each in read_pools()] == ["other"]


def test_the_file_is_its_owners_alone_and_a_token_is_in_no_representation() -> None:
    add_pool(LAB)
    assert stat.S_IMODE(pools_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(pools_file().parent.stat().st_mode) == 0o700
    assert LAB.token not in repr(LAB)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_not_used(mode: int) -> None:
    add_pool(LAB)
    pools_file().chmod(mode)
    for use in (read_pools, lambda: find_pool("lab"), lambda: add_pool(LAB), lambda: remove_pool("lab")):
        with pytest.raises(PoolsFileError, match="others than its owner can read it"):
            use()


@pytest.mark.parametrize("content", ["", "[]", '{"pools": [{}]}', '{"pools": [{"name": "a"}]}', "{}", "\x00"])
def test_a_file_that_holds_something_else_is_said(content: str) -> None:
    pools_file().parent.mkdir()
    pools_file().write_text(content)
    pools_file().chmod(0o600)
    with pytest.raises(PoolsFileError, match="cannot be understood"):
        read_pools()


@pytest.mark.parametrize(
    "pool",
    [
        ConfiguredPool("", "127.0.0.1:1", "t"),
        ConfiguredPool("a/b", "127.0.0.1:1", "t"),
        ConfiguredPool("a\nb", "127.0.0.1:1", "t"),
        ConfiguredPool("x" * 65, "127.0.0.1:1", "t"),
        ConfiguredPool("this machine", "127.0.0.1:1", "t"),
        ConfiguredPool("a", "nowhere", "t"),
        ConfiguredPool("a", "127.0.0.1: 1", "t"),
        ConfiguredPool("a", "127.0.0.1:1", ""),
        ConfiguredPool("a", "127.0.0.1:1", "tökén"),
        ConfiguredPool("a", "127.0.0.1:1", "a\nb"),
    ],
)
def test_what_cannot_be_a_pool_is_refused(pool: ConfiguredPool) -> None:
    with pytest.raises(PoolRefusedError):
        add_pool(pool)
    assert read_pools() == ()


def test_an_address_on_an_open_network_is_refused() -> None:
    with pytest.raises(errors.NotOfferedError, match="no TLS"):
        add_pool(ConfiguredPool("a", "gpu.example:7443", "t"))


def test_a_name_that_no_pool_has_is_said_with_those_that_there_are() -> None:
    add_pool(LAB)
    for use in (find_pool, remove_pool):
        with pytest.raises(NoSuchPoolError) as raised:
            use("lap")
        assert raised.value.message() == "there is no pool 'lap'; there is 'lab'"


def test_two_that_add_at_once_are_both_kept() -> None:
    threads = [
        threading.Thread(target=add_pool, args=(ConfiguredPool(f"p{number}", "127.0.0.1:1", "t"),))
        for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.name for each in read_pools()} == {f"p{number}" for number in range(12)}


# -- The commands


def test_a_pool_is_added_listed_tried_and_removed(
    pool: fake.FakePool, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{pool.token}\n"))
    assert main(["pool", "add", "lab", pool.address]) == 0
    told = capsys.readouterr()
    assert "lab-1 answers in" in told.out
    assert pool.token not in told.out + told.err
    assert main(["pool", "list"]) == 0
    told = capsys.readouterr()
    assert "this machine" in told.out
    assert f"{pool.address}  lab-1 answers" in told.out
    assert "H100 6 of 8 free" in told.out
    assert main(["pool", "test", "lab"]) == 0
    assert main(["pool", "remove", "lab"]) == 0
    assert read_pools() == ()


def test_a_pool_that_does_not_answer_is_added_and_said(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("NBGPU_AGENT_TOKEN", "t")
    assert main(["pool", "add", "lab", "unix:/nowhere/nbgpu.sock"]) == 0
    assert "it does not answer now" in capsys.readouterr().err
    assert main(["pool", "list"]) == 0
    assert "does not answer" in capsys.readouterr().out
    assert main(["pool", "test", "lab"]) == 1
    assert "does not answer" in capsys.readouterr().err


def test_a_wrong_token_and_another_version_are_said(
    pool: fake.FakePool, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    add_pool(ConfiguredPool("lab", pool.address, "wrong"))
    assert main(["pool", "test", "lab"]) == 1
    assert "token" in capsys.readouterr().err
    add_pool(ConfiguredPool("lab", pool.address, pool.token))
    pool.protocol_version = 999
    assert main(["pool", "test", "lab"]) == 1
    assert "the agent speaks protocol 999" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["test", "remove"])
def test_a_command_for_a_pool_that_there_is_not(command: str, capsys: Capture) -> None:
    assert main(["pool", command, "lab"]) == 1
    assert "there is no pool 'lab'" in capsys.readouterr().err


# -- The choice

GB = fake.GB
SMALL = fake.offer("A10", 2, 2, memory_bytes=24 * GB)
FULL = fake.offer("H100", 8, 0, memory_bytes=80 * GB)
PARTLY = fake.offer("H100", 4, 2, memory_bytes=80 * GB)
CPU = fake.offer("CPU", 1, 1, shared=True)


@pytest.mark.parametrize(
    ("spec", "offers", "expected"),
    [
        ("H100", [FULL], Fit.LATER),
        ("H100x9", [FULL], Fit.NEVER),
        ("H100x2", [PARTLY], Fit.NOW),
        ("H100x3", [PARTLY], Fit.LATER),
        ("any", [SMALL, CPU], Fit.NOW),
        ("any", [CPU], Fit.NEVER),
        ("any", [FULL, SMALL], Fit.NOW),
        ("anyx3", [SMALL, PARTLY], Fit.LATER),  # of one type
        ("40GB+", [SMALL], Fit.NEVER),
        ("40GB+", [SMALL, FULL], Fit.LATER),
        ("H100-80GB", [PARTLY], Fit.NOW),
        ("CPU", [CPU], Fit.NOW),
        ("CPU", [SMALL], Fit.NEVER),
        ("B200|A10", [SMALL], Fit.NOW),
        ("H100x8|A10x2", [FULL, SMALL], Fit.NOW),
    ],
)
def test_how_well_offers_meet_a_spec(spec: str, offers: list[pool_pb2.Offer], expected: Fit) -> None:
    assert fit(parse_spec(spec), offers) is expected


def test_a_spec_goes_to_the_first_pool_that_could_grant_it_now_else_ever() -> None:
    offers = {"first": [FULL], "second": [SMALL], "third": [PARTLY]}
    assert choose_pool(parse_spec("H100"), offers) == "third"
    assert choose_pool(parse_spec("H100x4"), offers) == "first"
    assert choose_pool(parse_spec("A10"), offers) == "second"
    assert choose_pool(parse_spec("B200"), offers) is None
    assert choose_pool(parse_spec("H100"), {}) is None


# -- The line that an agent on a network prints

LINE = f"nbgpu pool add lab grpcs://gpu.lab:7443 --pin sha256:{'a' * 64} --code ABCD-EFGH-JKLM-NPQR"


@pytest.mark.parametrize("text", [LINE, f"  !{LINE}\n", f"{LINE} --client-certificate me.pem"])
def test_the_line_of_an_invitation_is_read_whole(text: str) -> None:
    read = read_invitation(text)
    assert read is not None
    assert (read.name, read.address, read.pin) == ("lab", "grpcs://gpu.lab:7443", f"sha256:{'a' * 64}")
    assert read.code == "ABCD-EFGH-JKLM-NPQR"
    assert read.code not in repr(read)
    assert bool(read.client_certificate) is text.endswith("me.pem")


@pytest.mark.parametrize("text", ["", "127.0.0.1:7443", "grpcs://gpu.lab:7443", "nbgpu pool list", "'"])
def test_what_is_no_invitation_is_none(text: str) -> None:
    assert read_invitation(text) is None


def test_half_a_line_is_said_to_be_one() -> None:
    with pytest.raises(PoolRefusedError, match="the line cannot be read"):
        read_invitation("nbgpu pool add lab")


def test_a_page_gives_a_line_or_the_fields() -> None:
    for body in ({"address": LINE}, {"name": LINE}, {"name": "mine", "address": LINE}):
        candidate = read_candidate(body)
        assert candidate.name == body.get("name", "lab").replace(LINE, "lab")
        assert (candidate.address, candidate.code) == ("grpcs://gpu.lab:7443", "ABCD-EFGH-JKLM-NPQR")
        assert candidate.pairs
    typed = read_candidate({"name": " a ", "address": "127.0.0.1:1", "token": "t"})
    assert (typed.name, typed.address, typed.token, typed.pairs) == ("a", "127.0.0.1:1", "t", False)


@pytest.mark.parametrize("authority", ["", "not a certificate"])
def test_an_agent_on_a_network_is_no_pool_without_its_certificate(authority: str) -> None:
    if authority:
        with pytest.raises(UntrustedAgentError):
            add_pool(ConfiguredPool("a", "grpcs://nowhere", "t", authority=authority))
        return
    with pytest.raises(UntrustedAgentError, match="needs the pin of its certificate"):
        add_pool(ConfiguredPool("a", "grpcs://gpu.lab:7443", "t"))


def test_a_file_of_an_earlier_version_is_read() -> None:
    add_pool(LAB)
    earlier = '{"pools": [{"name": "lab", "address": "127.0.0.1:7443", "token": "secret"}]}'
    pools_file().write_text(earlier)
    assert read_pools() == (LAB,)


@pytest.fixture
def two_pools(pool: fake.FakePool, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake.FakePool]:
    """The default pool is `pool`; yields another one, which was added as "lab"."""
    monkeypatch.setenv("NBGPU_AGENT_ADDRESS", pool.address)
    monkeypatch.setenv("NBGPU_AGENT_TOKEN", pool.token)
    with fake.run_fake_pool() as other:
        session = fake.session("5a1b", "nb", "digits.ipynb")
        other.publish(pool_pb2.PoolState(offers=[fake.offer("A10", 2, 1)], sessions=[session]))
        add_pool(ConfiguredPool("lab", other.address, other.token))
        yield other


def test_commands_look_at_all_pools_and_say_which(
    pool: fake.FakePool, two_pools: fake.FakePool, capsys: Capture
) -> None:
    assert main(["offers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["POOL", "ACCELERATOR", "MEMORY", "STATE", "NODE"]
    assert [line.split()[:2] for line in lines[1:]] == [[pool.address, "H100"], ["lab", "A10"]]
    assert main(["sessions"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["lab", "5a1b", "digits.ipynb"]
    assert main(["close", "5a"]) == 0
    assert capsys.readouterr().out.startswith("closed session 5a1b; ")
    assert (pool.closed, two_pools.closed) == ([], ["5a1b"])


def test_one_pool_can_be_named(two_pools: fake.FakePool, capsys: Capture) -> None:
    assert main(["offers", "--pool", "lab"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "ACCELERATOR"
    assert [line.split()[0] for line in lines[1:]] == ["A10"]
    assert main(["offers", "--pool", "nowhere"]) == 1
    assert "there is no pool 'nowhere'" in capsys.readouterr().err


def test_a_pool_that_does_not_answer_is_said_and_left_out(
    pool: fake.FakePool, two_pools: fake.FakePool, capsys: Capture
) -> None:
    add_pool(ConfiguredPool("gone", "127.0.0.1:1", "secret"))
    assert main(["offers"]) == 0
    told = capsys.readouterr()
    assert [line.split()[1] for line in told.out.splitlines()[1:]] == ["H100", "A10"]
    assert told.err.startswith("nbgpu: pool gone is left out: ")
    assert main(["close", "77"]) == 1
    assert "no session has an id that begins with 77, where gone cannot be asked" in capsys.readouterr().err
    assert main(["offers", "--pool", "gone"]) == 1
    assert capsys.readouterr().out == ""
