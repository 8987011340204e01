"""The owner's commands: `nbgpu agent init`, `invite`, `users` and `tokens`, on the machine of the agent."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from nbgpu_agent.audit import AUDIT_FILE, AuditLog
from nbgpu_agent.errors import AgentError, InvalidRequestError
from nbgpu_agent.identity.certificates import Identity
from nbgpu_agent.identity.folder import identity_folder
from nbgpu_agent.identity.users import CODE_LIFETIME_S, TOKEN_LIFETIME_S, Token, UserStore, in_words
from nbgpu_protocol.discovery import TLS_SCHEME

DEFAULT_PORT = 7443
_DAY_S = 86_400.0
_ADDRESS_FACT, _NAME_FACT = "address", "name"
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?")

Command = Callable[[argparse.Namespace, Identity], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code. What is to be copied goes to standard output, the rest to the other."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        command(options, Identity(identity_folder(options.folder)))
    except AgentError as error:
        print(f"nbgpu: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nbgpu agent", description="Who may use this machine's agent.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, parent: Any = commands) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = parent.add_parser(name, help=text, description=text)
        made.set_defaults(command=command)
        made.add_argument(
            "--folder", default="", help="of the certificates and users; by default in Jupyter's data folder"
        )
        return made

    def invitation(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--token-days", type=float, default=TOKEN_LIFETIME_S / _DAY_S, help="how long the token lasts"
        )
        made.add_argument(
            "--client-certificate", metavar="FILE", default="", help="make one for the client, into a file"
        )

    init = add("init", _init, "make a certificate, so that the agent can listen on a network")
    init.add_argument("--name", default="", help="what the line calls this agent; by default this machine's name")
    init.add_argument(
        "--address", default="", help="HOST:PORT by which clients reach it; by default this machine's name"
    )
    init.add_argument("--user", default="", help="whom the line is for, as an administrator; by default you")
    init.add_argument("--renew", action="store_true", help="make a new server certificate; clients notice nothing")
    invitation(init)
    invite = add("invite", _invite, "let a user in: prints the line that they run")
    invite.add_argument("user", help="their name")
    invite.add_argument("--admin", action="store_true", default=None, help="who sees and ends everybody's sessions")
    invitation(invite)
    users = commands.add_parser("users", help="who may use the agent").add_subparsers(required=True, metavar="COMMAND")
    add("list", _list_users, "all users", users)
    add("remove", _remove_user, "remove a user, with all tokens", users).add_argument("user", help="their name")
    tokens = commands.add_parser("tokens", help="what clients get in with").add_subparsers(
        required=True, metavar="COMMAND"
    )
    add("list", _list_tokens, "all tokens", tokens)
    add("revoke", _revoke, "make a token worthless at once", tokens).add_argument("token", help="its id")
    return parser


def _init(options: argparse.Namespace, identity: Identity) -> None:
    if options.renew:
        with closing(_users(identity)) as users:
            host, port = _host_and_port(options.address or users.fact(_ADDRESS_FACT))
            until = identity.renew(host.strip("[]"))
            users.note_fact(_ADDRESS_FACT, f"{host}:{port}")
        _audit(identity, "certificate_renewed")
        _say(f"the server's certificate is new, and valid until {until:%Y-%m-%d}; the pin stays {identity.pin()}")
        _say("an agent that runs shows it from now on")
        return
    host, port = _host_and_port(options.address or socket.gethostname())
    name = options.name or socket.gethostname().partition(".")[0]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise InvalidRequestError(f"{name[:70]!r} cannot be the name of a pool", "choose one with --name")
    user = options.user or re.sub(r"[^a-z0-9._-]+", "-", getpass.getuser().lower())
    identity.make(host.strip("[]"))
    _audit(identity, "certificates_made")
    with closing(UserStore(identity.users_file)) as users:
        users.note_fact(_ADDRESS_FACT, f"{host}:{port}")
        users.note_fact(_NAME_FACT, name)
        _print_invitation(options, identity, users, user, administrator=True)
    _say(f"start the agent with `nbgpu agent serve --listen 0.0.0.0:{port}`")


def _invite(options: argparse.Namespace, identity: Identity) -> None:
    with closing(_users(identity)) as users:
        _print_invitation(options, identity, users, options.user, administrator=options.admin)


def _print_invitation(
    options: argparse.Namespace, identity: Identity, users: UserStore, user: str, *, administrator: bool | None
) -> None:
    code = users.invite(user, administrator=administrator, token_lifetime_s=options.token_days * _DAY_S)
    _audit(identity, "invited", invited=user, administrator=_yes_or_no(administrator))
    shown = ""
    if options.client_certificate:
        path = Path(options.client_certificate)
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(identity.client_certificate(user))
        except OSError as error:
            raise InvalidRequestError(f"{path} cannot be written: {error.strerror}") from error
        shown = f" --client-certificate {path.name}"
        _say(f"{path} is the certificate of {user}, with its key; give it to nobody else")
    address = f"{TLS_SCHEME}{users.fact(_ADDRESS_FACT)}"
    print(f"nbgpu pool add {users.fact(_NAME_FACT)} {address} --pin {identity.pin()} --code {code}{shown}", flush=True)
    _say(f"that line lets {user} in once, within {CODE_LIFETIME_S / 60:.0f} minutes")


def _list_users(_: argparse.Namespace, identity: Identity) -> None:
    with closing(_users(identity)) as users:
        rows = [(each.name, "administrator" if each.administrator else "user") for each in users.users()]
    _print_table([("USER", "IS"), *rows])


def _remove_user(options: argparse.Namespace, identity: Identity) -> None:
    with closing(_users(identity)) as users:
        users.remove_user(options.user)
    _audit(identity, "user_removed", removed=options.user)
    print(f"removed {options.user}, with all tokens; their sessions go on until an administrator closes them")


def _list_tokens(_: argparse.Namespace, identity: Identity) -> None:
    with closing(_users(identity)) as users:
        tokens = users.tokens()
        rows = [(each.id, each.user, each.client, in_words(each.created_unix_s), _state(each)) for each in tokens]
    _print_table([("TOKEN", "USER", "CLIENT", "SINCE", ""), *rows])


def _revoke(options: argparse.Namespace, identity: Identity) -> None:
    with closing(_users(identity)) as users:
        token = users.revoke(options.token)
    _audit(identity, "token_revoked", token=token.id, of=token.user)
    print(f"revoked the token {token.id} of {token.user}; who used it is out within a second")


def _state(token: Token) -> str:
    if token.revoked_unix_s is not None:
        return f"revoked {in_words(token.revoked_unix_s)}"
    return f"until {in_words(token.expires_unix_s)}"


def _audit(identity: Identity, event: str, **facts: str | None) -> None:
    """Records what the person does, who need not be the agent's user, in a file beside the certificates."""
    AuditLog(identity.folder / AUDIT_FILE, time.time).record(event, getpass.getuser(), **facts)


def _yes_or_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _users(identity: Identity) -> UserStore:
    identity.pin()  # says what to do where there is none
    return UserStore(identity.users_file)


def _host_and_port(text: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(text)
    port = int(found["port"] or DEFAULT_PORT) if found else 0
    if found is None or not 0 < port < 65_536:
        raise InvalidRequestError(f"{text!r} is no address by which clients reach this machine", "such as gpu.lab:7443")
    return found["host"], port


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
