"""As whom sessions run: who gets which user id, where that cannot be, and what is refused of such a user's kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_processes import DEADLINE_S, until, workplace
from nbgpu.client.discovery import PoolAddress
from nbgpu.client.trust import fetch_trust
from nbgpu.doctor.findings import Level
from nbgpu.doctor.pools import look_at_pool
from nbgpu_agent.app import EXIT_REFUSED
from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.isolation import choosing, user_ids
from nbgpu_agent.isolation.os_user import IsolationError, OsUser, acting, own_folder, read_regular
from nbgpu_agent.isolation.user_ids import UserIds, parse_range
from nbgpu_agent.kernel_environment import base_variables
from nbgpu_agent.kernel_folders import KernelFolders
from nbgpu_agent.processes import MARKER_VARIABLE, ProcessTable, bears_marker
from secured_agents import SecuredAgent, start_secured

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")
ADA = OsUser("ada", 60_600, 60_600, Path("/"))


def test_ranges_of_user_ids() -> None:
    assert parse_range(" 200000 - 265535 ") == range(200_000, 265_536)
    assert parse_range(user_ids.DEFAULT_RANGE)[0] > 60_577
    for text in ("", "0-5", "7-6", "-5", "5", "1-4294967295"):
        with pytest.raises(InvalidRequestError, match="is no range of user ids"):
            parse_range(text)


@as_root
def test_a_user_keeps_a_number_that_nobody_else_has(tmp_path: Path) -> None:
    folder = tmp_path / "users"
    ada, bob = (UserIds(folder, range(60_600, 60_603), "/one").os_user(name) for name in ("ada", "bob"))
    assert UserIds(folder, range(60_600, 60_603), "/one").os_user("ada") == ada
    elsewhere = UserIds(folder, range(60_600, 60_603), "/another").os_user("ada")
    assert len({ada.uid, bob.uid, elsewhere.uid}) == 3
    assert (ada.home.stat().st_uid, stat.S_IMODE(ada.home.stat().st_mode)) == (ada.uid, 0o700)
    with pytest.raises(IsolationError, match="all 3 user ids from 60600 on are given away"):
        UserIds(folder, range(60_600, 60_603), "/one").os_user("carl")
    known = pwd.getpwnam("nobody").pw_uid
    assert UserIds(folder, range(known, known + 2), "/one").os_user("carl").uid != known


def test_configured_users_must_be_there() -> None:
    with pytest.raises(
        InvalidRequestError, match="gives ada the user 'nobody-has-this', whom this machine does not know"
    ):
        choosing.find_named({"ada": "nobody-has-this"})
    with pytest.raises(InvalidRequestError, match="gives ada root"):
        choosing.find_named({"ada": "root"})


def test_a_folder_that_is_closed_to_others_is_named(tmp_path: Path) -> None:
    place = tmp_path / "open" / "closed" / "open" / "file"
    place.parent.mkdir(parents=True)
    place.parents[1].chmod(0o710)
    found = choosing.closed_folder(place)
    # What is above may be closed as well.
    assert found is not None
    assert found in (place.parents[1], *tmp_path.parents, tmp_path)
    assert choosing.closed_folder(Path("/bin/sh")) is None


def test_without_root_it_is_said_what_that_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    problem, hint = choosing.problem_of(ADA, sys.executable, [], tmp_path)
    assert (problem, hint) == (
        "the agent does not run as root",
        "start it as root, or give each user an agent of their own",
    )


def test_capabilities_that_are_lacking_are_named(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nCapEff:\t00000000a80425fb\n")  # as of Docker's containers
    assert choosing.lacking_capabilities(status) == []
    status.write_text("Name:\tpython\nCapEff:\t00000000a804255a\n")
    assert choosing.lacking_capabilities(status) == ["CHOWN", "KILL", "SETUID"]


def test_variables_of_the_agents_user_are_not_anothers() -> None:
    own = {"HOME": "/root", "USER": "root", "XDG_RUNTIME_DIR": "/run/user/0", "IPYTHONDIR": "/root/i", "LANG": "C"}
    variables = base_variables(own, (), Path("/usr/bin/python"), ADA)
    assert {name: variables.get(name) for name in own} == {
        "HOME": "/", "USER": "ada", "XDG_RUNTIME_DIR": None, "IPYTHONDIR": None, "LANG": "C",
    }  # fmt: skip


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("pipe", "link", "none"):
        with pytest.raises(OSError, match=name):
            read_regular(tmp_path / name, 10)
    with pytest.raises(OSError, match="no file"):
        read_regular(Path("/dev/zero"), 10)
    assert read_regular(tmp_path / "file", 3) == b"123"


@pytest.fixture
def passed() -> Iterator[Path]:
    """A folder that others can pass, other than pytest's."""
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        os.chmod(name, 0o711)
        yield Path(name)


@as_root
def test_acting_nests_and_is_over_after_an_error(passed: Path) -> None:
    folder = own_folder(passed / "hers", ADA)
    (passed / "of-root").touch(mode=0o600)
    with acting(ADA):
        (folder / "a").touch()
        with acting(None):
            (folder / "b").touch()
        with pytest.raises(PermissionError), acting(ADA):
            (passed / "of-root").read_bytes()
        (folder / "c").touch()
    with pytest.raises(ValueError, match="out"), acting(ADA):
        raise ValueError("out")
    (folder / "d").touch()
    assert [(folder / name).stat().st_uid for name in "abcd"] == [ADA.uid, 0, ADA.uid, 0]
    other = OsUser("bob", 60_601, 60_601, Path("/"))
    with pytest.raises(IsolationError, match="is not bob's"):
        own_folder(folder, other)
    assert os.listdir(own_folder(folder, other, replace=True)) == []


@as_root
def test_a_link_in_a_sockets_place_is_not_connected_to(passed: Path) -> None:
    with contextlib.ExitStack() as opened:
        folders = KernelFolders("k1", passed / "k1", ADA)
        folders.make_first()
        (folders.folder / "acknowledged").touch()
        folders.make()
        for number in range(1, 6):
            assert not folders.listens
            listening = opened.enter_context(socket.socket(socket.AF_UNIX))
            with acting(ADA):
                listening.bind(f"{folders.socket_prefix}-{number}")
        assert folders.listens
        assert not folders.sealed
        assert folders.seal_sockets() == ""
        assert folders.sealed
        with acting(ADA), pytest.raises(PermissionError):
            os.unlink(f"{folders.socket_prefix}-1")
        os.unlink(f"{folders.socket_prefix}-3")
        os.symlink(f"{folders.socket_prefix}-2", f"{folders.socket_prefix}-3")
        assert folders.seal_sockets() == "k-3 is no socket of ada's"


@as_root
def test_a_process_of_another_user_that_bears_the_marker_is_not_the_kernels() -> None:
    variables = {MARKER_VARIABLE: f"m{os.getpid()}"}
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, env=variables, user=ADA.uid) as process:
        marker = variables[MARKER_VARIABLE]
        until(lambda: bears_marker(process.pid, marker))  # which it does once it is the program
        for uid, found in ((None, [process.pid]), (ADA.uid, [process.pid]), (60_601, [])):
            table = ProcessTable()
            assert [each.pid for each in table.processes(marker, 0, uid)] == found
            assert bears_marker(process.pid, marker, uid) is bool(found)
        process.communicate()


WITHOUT_PTRACE = """
import ctypes, os, sys
drop_from_bounding_set, sys_ptrace, sys_admin, perfmon = 24, 19, 21, 38  # linux/prctl.h, linux/capability.h
for capability in (sys_ptrace, sys_admin, perfmon):  # which containers do not have
    ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
"""
LOOKS = """
import subprocess, sys, psutil
from pathlib import Path
from nbgpu_agent.isolation.os_user import OsUser
from nbgpu_agent.limits.host import memory_of
from nbgpu_agent.processes import MARKER_VARIABLE, bears_marker, marked_pids
marker, uid = sys.argv[1], int(sys.argv[2])
variables = {MARKER_VARIABLE: marker}
with subprocess.Popen(["/bin/cat"], stdin=-1, env=variables, user=uid, group=uid, extra_groups=[]) as process:
    while not bears_marker(process.pid, marker, uid):
        pass
    assert marked_pids()[marker] == [process.pid]
    try:
        open(f"/proc/{process.pid}/environ").read()
    except PermissionError:
        print("may not look")
    other = OsUser("", uid, uid, Path("/"))
    assert memory_of([psutil.Process(process.pid)], 1, other) > 0 == memory_of([psutil.Process(process.pid)], 1)
    process.communicate()
"""


@as_root
def test_processes_of_other_users_are_found_where_root_may_not_look_at_them() -> None:
    command = [sys.executable, "-c", WITHOUT_PTRACE, LOOKS, f"n{os.getpid()}", str(ADA.uid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert (done.returncode, done.stdout) == (0, "may not look\n"), done.stderr


@pytest.fixture(scope="module")
def agent() -> Iterator[SecuredAgent]:
    """An agent with users that cannot isolate them: without root, or in a folder that is closed to others."""
    with workplace() as place:
        # Without a PATH, on which there may be bwrap for who is not root.
        variables = {"NBGPU_AGENT_TOKEN": "of-the-owner-of-this-agent", "PATH": str(place.root)}
        secured = start_secured(place, "--AgentApp.spare_kernels=0", **variables)
        yield secured
        assert place.end(secured.process) == 0
        place.assert_nothing_left()


def test_where_users_are_not_isolated_the_log_and_the_doctor_say_so(agent: SecuredAgent) -> None:
    said = "sessions of different users run as the agent's own user, and can read each other's files and variables: "
    assert said in agent.place.log()
    trust = fetch_trust(agent.address, agent.pin)
    address = PoolAddress(agent.address, "of-the-owner-of-this-agent", trust=trust)
    found = asyncio.run(look_at_pool("lab", address))
    assert found.level is Level.WARN
    assert said in found.text
    assert found.hint.startswith("for the agent's owner: ")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--isolation=users", "--tls"), "users cannot be isolated from each other: "),
        (("--isolation=users",), "there are no users to isolate from each other without TLS"),
        (("--tls", "--AgentApp.os_user_ids=all"), "'all' is no range of user ids"),
    ],
)
def test_what_cannot_be_met_is_refused(agent: SecuredAgent, options: tuple[str, ...], why: str) -> None:
    place = agent.place
    folders = (f"--folder={place.root / 'other'}", f"--identity-folder={place.root / 'identity'}")
    process = place.start("--listen=127.0.0.1:0", *folders, *options)
    assert process.wait(DEADLINE_S) == EXIT_REFUSED
    assert why in place.log()
