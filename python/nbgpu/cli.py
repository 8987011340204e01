"""`nbgpu` in the terminal: the agent of this machine, its offers and its sessions."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import nbgpu
from nbgpu import errors, words
from nbgpu.client.accounting import report_usage
from nbgpu.client.discovery import TOKEN_VARIABLE, default_pool_name
from nbgpu.client.embedded import ensure_agent, find_agent, wait_until_gone
from nbgpu.client.pairing import Invitation, add_invitation_arguments, pair
from nbgpu.client.pool import Pool
from nbgpu.client.pools import ConfiguredPool, add_pool, find_pool, pools_file, read_pools, remove_pool
from nbgpu.client.reached_pools import ReachedPools, reach_pools
from nbgpu.client.trust import is_tls
from nbgpu.cost_words import usage_report
from nbgpu.stack_report import stacks_in_words
from nbgpu.systemd_unit import unit
from nbgpu_protocol.discovery import LOG_FILE, agent_folder

_OWNERS_COMMANDS = {
    "init": "make a certificate, so that the agent can listen on a network",
    "invite": "let a user in: prints the line that they run",
    "users": "who may use the agent: list, remove",
    "tokens": "what clients get in with: list, revoke",
}
"""Which the agent's side knows how to do."""
Command = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code. Data goes to standard output, everything else to standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:2] == ["agent", "serve"]:
        return _become("nbgpu_agent", given[2:])
    if given[:1] == ["agent"] and given[1:2] and given[1] in _OWNERS_COMMANDS:
        return _become("nbgpu_agent.identity", given[1:])
    options = _parser().parse_args(given)
    try:
        code: int = asyncio.run(options.command(options))
        sys.stdout.flush()
        return code
    except errors.Error as error:
        print(f"nbgpu: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, such as `head`, has left
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nbgpu", description="GPUs for the notebook that you already have open.")
    parser.add_argument("--version", action="version", version=f"nbgpu {nbgpu.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, parent: Any = commands) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = parent.add_parser(name, help=text, description=text)
        made.set_defaults(command=command)
        return made

    def add_to_pools(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        made = add(name, command, text)
        made.add_argument("--pool", metavar="NAME", help="look at this pool only, see `nbgpu pool list`")
        return made

    add_to_pools("offers", _offers, "the accelerators that there are, in all pools")
    add_to_pools("sessions", _sessions, "all sessions, of all notebooks, in all pools")
    add_to_pools("cost", _cost, "what your sessions used and spent: today, this month, by cell")
    doctor_text = "look at this environment, this machine and the pools, and say what to mend"
    add("doctor", _doctor, doctor_text).add_argument("--json", action="store_true", help="for programs")
    for name, command, text in (
        ("close", _close, "end a session and free its accelerators"),
        ("interrupt", _interrupt, "interrupt what runs in a session"),
        ("restart", _restart, "give a session a fresh kernel on the same accelerators"),
        ("logs", _logs, "what a session's process wrote outside of cells"),
    ):
        add_to_pools(name, command, text).add_argument("session", help="the session's id, or the beginning of it")
    stacks = add_to_pools("stacks", _stacks, "where a session's code is now, of its kernel and of its ranks")
    stacks.add_argument("session", help="the session's id, or the beginning of it")
    stacks.add_argument("--all", action="store_true", help="threads that only wait for work, too")
    output = add_to_pools("output", _output, "what a cell printed in a session, as far as its agent holds it")
    output.add_argument("session", help="the session's id, or the beginning of it")
    output.add_argument("cell", nargs="*", metavar="N", help="the cell's number, or its id; without one the newest")
    output.add_argument("--list", action="store_true", help="list what the session has run")
    pool = commands.add_parser("pool", help="the pools beside the default one").add_subparsers(
        required=True, metavar="COMMAND"
    )
    added = add("add", _pool_add, "add a pool, or change one", pool)
    add_invitation_arguments(added)
    add("list", _pool_list, "the pools that there are, and whether they answer", pool)
    add("test", _pool_test, "whether a pool answers", pool).add_argument("name", help="of the pool")
    add("remove", _pool_remove, "remove a pool; its sessions go on", pool).add_argument("name", help="of the pool")
    agent = commands.add_parser("agent", help="this machine's agent").add_subparsers(required=True, metavar="COMMAND")
    agent.add_parser("serve", help="run an agent here, until it is stopped", add_help=False)
    for name, text in _OWNERS_COMMANDS.items():
        agent.add_parser(name, help=text, add_help=False)
    add("start", _agent_start, "start this machine's agent in the background, if it does not run", agent)
    add("status", _agent_status, "whether this machine's agent runs", agent)
    stop = add("stop", _agent_stop, "end this machine's agent", agent)
    stop.add_argument("--force", action="store_true", help="with all its sessions")
    systemd = add("systemd-unit", _systemd_unit, "print a systemd unit that runs an agent on this machine", agent)
    systemd.add_argument("--user", action="store_true", help="for your own service manager, not the machine's")
    systemd.add_argument("arguments", nargs="*", help="of the agent, after `--`: such as `-- --idle-close=2h`")
    add(
        "restart",
        _agent_restart,
        "end this machine's agent and start another, as after an upgrade; sessions go on",
        agent,
    )
    add("log", _agent_log, "what this machine's agent wrote to its log", agent)
    return parser


def _become(module: str, arguments: list[str]) -> int:
    """Becomes a program of the agent's, which documents its options by `--help`."""
    command = [sys.executable, "-m", module, *arguments]
    if sys.platform != "win32":
        os.execv(sys.executable, command)
    return subprocess.call(command)


async def _offers(options: argparse.Namespace) -> int:
    async with _reached(options, start=True) as reached:
        found = await reached.offers()
        print(words.offers_table((offer for _, offer in found), _names(reached, found)))
    return 0


async def _sessions(options: argparse.Namespace) -> int:
    async with _reached(options, start=True) as reached:
        found = await reached.sessions()
        print(words.sessions_table((info for _, info in found), pool_names=_names(reached, found)))
    return 0


async def _cost(options: argparse.Namespace) -> int:
    async with _reached(options) as reached:
        for name, pool in reached.pools.items():
            title = f"pool {name}\n" if len(reached.pools) > 1 else ""
            print(title + usage_report(await report_usage(pool)))
    return 0


async def _doctor(options: argparse.Namespace) -> int:
    from nbgpu.doctor.command import doctor

    return await doctor(json=options.json)


async def _close(options: argparse.Namespace) -> int:
    async with _reached(options) as reached:
        pool, info = await reached.find(options.session)
        await pool.close_session(info.id)
    print(f"closed session {info.id}; {words.accelerators_in_words(info.accelerators)} is free again")
    return 0


async def _interrupt(options: argparse.Namespace) -> int:
    async with _reached(options) as reached:
        pool, info = await reached.find(options.session)
        delivered = await pool.interrupt(info.id)
    print("interrupted" if delivered else "nothing was running")
    return 0


async def _restart(options: argparse.Namespace) -> int:
    async with _reached(options) as reached:
        pool, info = await reached.find(options.session)
        await pool.restart(info.id)
    print(f"session {info.id} has a fresh kernel; its variables are gone")
    return 0


async def _logs(options: argparse.Namespace) -> int:
    async with _reached(options) as reached:
        pool, info = await reached.find(options.session)
        sys.stdout.write(await pool.read_log(info.id))
    return 0


async def _stacks(options: argparse.Namespace) -> int:
    async with _reached(options) as reached:
        pool, info = await reached.find(options.session)
        print(stacks_in_words(await pool.stacks(info.id), info, show_all=options.all))
    return 0


async def _output(options: argparse.Namespace) -> int:
    from nbgpu.terminal_output import print_executions, print_output

    async with _reached(options) as reached:
        pool, info = await reached.find(options.session)
        if options.list:
            await print_executions(pool, info.id)
        else:
            await print_output(pool, info.id, options.cell)
    return 0


async def _pool_add(options: argparse.Namespace) -> int:
    if is_tls(options.address) or options.code or options.pin:
        pool = await pair(
            Invitation(options.name, options.address, options.pin, options.code, options.client_certificate)
        )
    else:
        pool = ConfiguredPool(options.name, options.address, os.environ.get(TOKEN_VARIABLE) or _ask_token())
    add_pool(pool)
    print(f"added {pool.name}; its token is in {pools_file()}, which is yours alone to read")
    try:
        print(await _answer(pool))
    except errors.Error as error:
        print(f"nbgpu: it does not answer now: {error}", file=sys.stderr)
    return 0


async def _pool_list(_: argparse.Namespace) -> int:
    rows = [(default_pool_name(), "", "the default one")]
    pools = read_pools()
    answers = await asyncio.gather(*(_answer(pool) for pool in pools), return_exceptions=True)
    for pool, answer in zip(pools, answers, strict=True):
        if isinstance(answer, BaseException) and not isinstance(answer, errors.Error):
            raise answer
        said = answer.message() if isinstance(answer, errors.Error) else answer
        rows.append((pool.name, pool.address, said))
    print(words.table(("POOL", "ADDRESS", ""), rows))
    return 0


async def _pool_test(options: argparse.Namespace) -> int:
    print(await _answer(find_pool(options.name)))
    return 0


async def _pool_remove(options: argparse.Namespace) -> int:
    remove_pool(options.name)
    print(f"removed {options.name}; its sessions go on")
    return 0


def _ask_token() -> str:
    """Asks for a token on the terminal, or reads it from standard input; others could see an argument."""
    return getpass.getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline().strip()


async def _answer(pool: ConfiguredPool) -> str:
    async with Pool(pool.address, pool.token, pool.trust()) as connection:
        answer = await connection.handshake()
        began_s = time.perf_counter()
        offers = await connection.list_offers()
        latency_ms = (time.perf_counter() - began_s) * 1000
    offered = ", ".join(f"{each.type} {words.offer_in_words(each)}" for each in offers)
    return f"{answer.node.hostname} answers in {latency_ms:.1f} ms: {offered}"


async def _agent_start(_: argparse.Namespace) -> int:
    record = await ensure_agent(on_progress=lambda text: print(f"{text} …", file=sys.stderr))
    print(f"the agent runs as process {record.pid}, version {record.version}")
    return 0


async def _agent_status(_: argparse.Namespace) -> int:
    record = await find_agent()
    if record is None:
        print("no agent runs here; the first `%%gpu` cell, or `nbgpu agent start`, starts one")
        return 1
    async with Pool(record.address, record.token) as pool:
        sessions = await pool.list_sessions()
        print(f"the agent runs as process {record.pid}, version {record.version}, {len(sessions)} sessions open")
        print(words.offers_table(await pool.list_offers()))
    return 0


async def _agent_stop(options: argparse.Namespace) -> int:
    record = await find_agent()
    if record is None:
        print("no agent runs here")
        return 0
    async with Pool(record.address, record.token) as pool:
        try:
            await pool.shut_down(close_sessions=options.force)
        except errors.SessionsOpenError as error:
            hint = "close them, or end the agent with all of them by `nbgpu agent stop --force`"
            raise errors.SessionsOpenError(error.message(), hint) from error
    print(f"the agent (process {record.pid}) has ended")
    return 0


async def _systemd_unit(options: argparse.Namespace) -> int:
    print(unit(user=options.user, arguments=options.arguments), end="")
    return 0


async def _agent_restart(_: argparse.Namespace) -> int:
    record = await find_agent()
    if record is not None:
        async with Pool(record.address, record.token) as pool:
            await pool.shut_down(close_sessions=False, keep_sessions=True)
        await wait_until_gone(record.pid)
    started = await ensure_agent()
    async with Pool(started.address, started.token) as pool:
        sessions = len(await pool.list_sessions())
    count = f"{sessions} session{'' if sessions == 1 else 's'}"
    print(
        f"the agent (process {started.pid}) is started, with {count}" if record is not None else "the agent is started"
    )
    return 0


async def _agent_log(_: argparse.Namespace) -> int:
    path = agent_folder() / LOG_FILE
    try:
        sys.stdout.write(path.read_text(errors="replace"))
    except FileNotFoundError:
        print(f"there is no log at {path}", file=sys.stderr)
        return 1
    return 0


def _reached(
    options: argparse.Namespace, *, start: bool = False
) -> contextlib.AbstractAsyncContextManager[ReachedPools]:
    return reach_pools(options.pool, start=start, tell=lambda text: print(text, file=sys.stderr))


def _names(reached: ReachedPools, found: Sequence[tuple[str, object]]) -> list[str]:
    """Returns the pool of each, where there is more than one."""
    return [name for name, _ in found] if len(reached.pools) > 1 else []
