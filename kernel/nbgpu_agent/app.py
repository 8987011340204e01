"""The command `python -m nbgpu_agent`: configuration from Jupyter's files and the command line, then one agent."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jupyter_core.application import JupyterApp
from jupyter_core.paths import jupyter_runtime_dir
from traitlets import Bool, Dict, Enum, Float, Int, List, Unicode

from nbgpu_agent.audit import AUDIT_FILE
from nbgpu_agent.ending import END_WITHIN_S, Ending
from nbgpu_agent.errors import AgentError, InvalidRequestError
from nbgpu_agent.folders import AgentFolders, AlreadyRunningError, locked_folder
from nbgpu_agent.isolation.choosing import Isolation
from nbgpu_agent.isolation.settings import IsolationSettings
from nbgpu_agent.json_log import JsonFormatter
from nbgpu_agent.limits.settings import LimitSettings, size_bytes, span_s
from nbgpu_agent.listening import ListenAddress, parse_listen_address
from nbgpu_agent.prices import (
    CURRENCY_VARIABLE,
    DEFAULT_CURRENCY,
    PRICES_VARIABLE,
    PriceList,
    make_price_list,
    parse_prices,
)
from nbgpu_agent.service_manager import tell_service_manager
from nbgpu_agent.tokens import TOKEN_VARIABLE, configured_token, new_token
from nbgpu_protocol import VERSION
from nbgpu_protocol.discovery import TLS_SCHEME, AgentRecord, agent_folder, read_record, write_record

if TYPE_CHECKING:
    from nbgpu_agent.identity.certificates import Identity

EXIT_REFUSED = 2
"""The configuration cannot be met; standard error says why."""
EXIT_ALREADY_RUNNING = 3
"""Another agent has the folder."""
EXIT_FORCED = 4
"""It was asked to end, something hung, and the rest was ended without it."""

DEFAULT_LISTEN = "127.0.0.1:7443"
EMBEDDED_IDLE_SHUTDOWN_S = 600.0
DEFAULT_ADOPTION_GRACE_S = 600.0


class AgentApp(LimitSettings, IsolationSettings, JupyterApp):  # type: ignore[misc,unused-ignore]
    """The agent as an application."""

    name = "nbgpu"  # its configuration is nbgpu_config.py or .json, in Jupyter's configuration folders
    description = "Owns this machine's GPUs, and serves notebook sessions on them."
    examples = """
    python -m nbgpu_agent                                 # on 127.0.0.1:7443, with a new token
    python -m nbgpu_agent --listen unix:/run/me/gpu.sock
    python -m nbgpu_agent --listen 0.0.0.0:7443           # with TLS, once `nbgpu agent init` has made a certificate
    NBGPU_SIMULATE=H100x8,A10x2 python -m nbgpu_agent     # CPU workers that answer to those names
    """
    aliases = {  # noqa: RUF012
        "listen": "AgentApp.listen",
        "folder": "AgentApp.folder",
        "metrics-port": "AgentApp.metrics_port",
        "log-format": "AgentApp.log_style",
        "idle-close": "AgentApp.idle_close",
        "max-session": "AgentApp.max_session",
        "session-memory": "AgentApp.session_memory",
        "session-disk": "AgentApp.session_disk",
        "identity-folder": "AgentApp.identity_folder",
        "isolation": "AgentApp.isolation",
        "base-environment": "AgentApp.base_environment",
        "config": "JupyterApp.config_file",
        "log-level": "Application.log_level",
    }
    flags = {  # noqa: RUF012
        "embedded": (
            {"AgentApp": {"embedded": True}},
            "Serve one person on this machine, on a Unix socket, found through a file in Jupyter's runtime folder.",
        ),
        "tls": ({"AgentApp": {"tls": True}}, "Listen with TLS on loopback as well."),
        "require-client-certificate": (
            {"AgentApp": {"require_client_certificate": True}},
            "Let in only clients that show a certificate of this agent's authority, besides a token. With TLS.",
        ),
        "debug": ({"Application": {"log_level": logging.DEBUG}}, "Log what happens in detail."),
        "show-config": ({"Application": {"show_config": True}}, "Show the configuration and exit."),
    }

    listen = Unicode(
        DEFAULT_LISTEN,
        help="Address to listen on: a loopback address with a port (0: one that is free), or unix:/path; once `nbgpu"
        " agent init` has made a certificate, any address, such as 0.0.0.0:7443. Not embedded.",
    ).tag(config=True)
    embedded = Bool(False, help="Serve one person on this machine; usually set with --embedded.").tag(config=True)
    folder = Unicode(
        help="Folder for what the agent needs while it runs; by default in Jupyter's runtime folder, or where users are"
        " isolated in os_users_folder."
    ).tag(config=True)
    token_file = Unicode(
        help=f"File with the token, readable by its owner alone. The variable {TOKEN_VARIABLE} comes first; with"
        " neither, a token is made and printed. Not embedded."
    ).tag(config=True)
    identity_folder = Unicode(
        help="Folder with the certificates and the users that `nbgpu agent init` has made; by default in Jupyter's data"
        " folder. Not embedded."
    ).tag(config=True)
    tls = Bool(False, help="Listen with TLS on loopback as well; usually set with --tls.").tag(config=True)
    require_client_certificate = Bool(
        False, help="Let in only clients that show a certificate of this agent's authority, besides a token."
    ).tag(config=True)
    idle_shutdown_s = Float(
        None,
        allow_none=True,
        help="End after so many seconds without a session, a request for one, or a watcher; 0: never. By default"
        f" {EMBEDDED_IDLE_SHUTDOWN_S:g} embedded, else 0.",
    ).tag(config=True)
    allow_client_python = Bool(
        None,
        allow_none=True,
        help="Whether clients choose interpreter and working folder of their sessions. By default only embedded.",
    ).tag(config=True)
    environment_variables = List(
        Unicode(), help="Names of environment variables that kernels get, besides those that they always get."
    ).tag(config=True)
    spare_kernels = Int(1, min=0, max=64, help="Kernels that are started before anybody asks.").tag(config=True)
    journal_bytes = Int(
        256 << 20, min=1 << 20, help="How much of a session's output is kept for clients that were cut off."
    ).tag(config=True)
    adoption_grace_s = Float(
        DEFAULT_ADOPTION_GRACE_S,
        min=0.0,
        help="Seconds that sessions go on without an agent, after it was killed or restarted, before they are ended; 0:"
        " they end with it.",
    ).tag(config=True)
    sampling_interval_s = Float(1.0, min=0.1, max=60.0, help="Seconds between samples of the accelerators.").tag(
        config=True
    )
    metrics_port = Int(
        None,
        allow_none=True,
        min=0,
        max=65_535,
        help="Port on loopback on which /metrics is served for Prometheus, without the token; 0: one that is free,"
        " which the log names. By default none.",
    ).tag(config=True)
    prices = Dict(
        value_trait=Float(),
        key_trait=Unicode(),
        help="What an accelerator of a type costs an hour, such as {'H100': 2.10}; shown with offers and sessions. By"
        f" default the variable {PRICES_VARIABLE}, such as `H100=2.10,A10=0.75`, or nothing.",
    ).tag(config=True)
    currency = Unicode(
        DEFAULT_CURRENCY, help=f"Of the prices, as a code of three letters. {CURRENCY_VARIABLE} goes with the variable."
    ).tag(config=True)
    environments_bytes = Int(
        100 << 30,
        min=0,
        help="How much the environments take that are built from notebooks' snapshots, before the ones used longest"
        " ago are removed. Files that they share are counted for each. Not embedded.",
    ).tag(config=True)
    base_environment = Unicode(
        help="A virtual environment, tested on this machine, such as one with a CUDA build of torch: what notebooks"
        " have in the same version is used from it rather than fetched. Only read; best owned by another user."
        " Not embedded."
    ).tag(config=True)
    lease_duration_s = Float(
        None,
        allow_none=True,
        help="Seconds after which a session is closed whose lease was not renewed. By default never.",
    ).tag(config=True)

    audit = Bool(
        None,
        allow_none=True,
        help=f"Whether {AUDIT_FILE} in the agent's folder says who opened, attached and closed what, and when. By"
        " default unless embedded.",
    ).tag(config=True)
    log_style = Enum(("text", "json"), "text", help="How the agent's log is written; `--log-format` for short.").tag(
        config=True
    )

    def migrate_config(self) -> None:
        """Does nothing: there is no older configuration."""

    def start(self) -> None:
        """Serves until asked to end, then exits the process."""
        super().start()
        self._set_up_logging()
        self._folders: AgentFolders | None = None
        self._ending = Ending(self._end_by_force)
        self._ending.install()
        try:
            with locked_folder(self._root(), self._ending.asked) as self._folders:
                self._run(self._folders)
        except AlreadyRunningError as error:
            print(f"nbgpu: {error}", file=sys.stderr)
            _exit_process(EXIT_ALREADY_RUNNING)
        except AgentError as error:
            print(f"nbgpu: {error}", file=sys.stderr)
            _exit_process(EXIT_REFUSED)
        _exit_process(0)

    def _run(self, folders: AgentFolders) -> None:
        from nbgpu_agent.adoption import Leftovers, find_sessions
        from nbgpu_agent.agent import serve
        from nbgpu_agent.kernel_records import reap_leftovers
        from nbgpu_agent.processes import raise_file_limit

        raise_file_limit()
        address, token, generated = self._address_and_token(read_record(folders.root))
        secrets = [Path(self.token_file).expanduser().absolute()] if self.token_file else []
        isolation = self.find_isolation(folders, self._identity_folder(), tls=address.tls, secrets=secrets)
        if isolation.ids is None:
            folders.close_to_others()
        if isolation.problem:
            self.log.warning("%s; hint: %s", isolation.problem, isolation.hint)
        leftovers = Leftovers([], {})
        if self.adoption_grace_s > 0:
            leftovers = find_sessions(folders.sessions, folders.kernels)
        for leftover in reap_leftovers(folders.kernels, leftovers.folders):
            self.log.warning("removed what an earlier agent left: %s", leftover)
        folders.clean(for_next=bool(leftovers.sessions))
        try:
            if self.embedded:
                address = ListenAddress(socket=folders.make_socket_path())
            elif address.socket is not None:
                _remove_stale_socket(address.socket)
            asyncio.run(
                serve(
                    self._settings(address, token, isolation),
                    folders,
                    self._ending,
                    lambda target: self._announce(target, token or "", folders, show_token=generated),
                    leftovers,
                )
            )
        finally:
            if address.socket is not None:
                address.socket.unlink(missing_ok=True)
            kept = Leftovers([], {})
            if self._ending.keeps_sessions and self.adoption_grace_s > 0:
                kept = find_sessions(folders.sessions, folders.kernels)
            for leftover in reap_leftovers(folders.kernels, kept.folders):
                self.log.warning("ended what did not end by itself: %s", leftover)
            folders.clean(for_next=bool(kept.sessions), keep_record=bool(kept.sessions))

    def _settings(self, address: ListenAddress, token: str | None, isolation: Isolation) -> Any:
        from nbgpu_agent.agent import AgentSettings

        idle_shutdown_s: float | None = self.idle_shutdown_s
        if idle_shutdown_s is None:
            idle_shutdown_s = EMBEDDED_IDLE_SHUTDOWN_S if self.embedded else 0.0
        if idle_shutdown_s < 0 or (self.lease_duration_s is not None and self.lease_duration_s <= 0):
            raise InvalidRequestError("idle_shutdown_s and lease_duration_s are no negative numbers of seconds")
        return AgentSettings(
            embedded=self.embedded,
            address=address,
            token=token,
            idle_shutdown_s=idle_shutdown_s,
            allow_client_python=self.embedded if self.allow_client_python is None else self.allow_client_python,
            environment_variables=tuple(self.environment_variables),
            spare_kernels=self.spare_kernels,
            journal_bytes=self.journal_bytes,
            adoption_grace_s=self.adoption_grace_s,
            sampling_interval_s=self.sampling_interval_s,
            lease_duration_s=self.lease_duration_s,
            build_environments=not self.embedded,
            environments_bytes=self.environments_bytes,
            prices=self._prices(),
            metrics_port=self.metrics_port,
            terms=self.terms(embedded=self.embedded, priced=bool(self._prices().per_hour)),
            grants=self.grants(),
            host_limits=self.host_limits(),
            cell_output_bytes=size_bytes(self.cell_output),
            budget_grace_s=span_s(self.budget_grace) or 0.0,
            audit=not self.embedded if self.audit is None else self.audit,
            base_environment=Path(self.base_environment).expanduser().absolute() if self.base_environment else None,
            identity=self._identity() if address.tls else None,
            require_client_certificate=address.tls and self.require_client_certificate,
            isolation=isolation,
        )

    def _prices(self) -> PriceList:
        """Returns what the configuration says, else the environment, which an embedded agent has of its starter."""
        currency = os.environ.get(CURRENCY_VARIABLE) or self.currency
        if self.prices:
            return make_price_list(self.prices, self.currency)
        return parse_prices(os.environ.get(PRICES_VARIABLE, ""), currency)

    def _identity(self) -> Identity:
        from nbgpu_agent.identity.certificates import Identity

        return Identity(self._identity_folder())

    def _identity_folder(self) -> Path:
        from nbgpu_agent.identity.folder import identity_folder

        return identity_folder(self.identity_folder)

    def _listen_address(self) -> ListenAddress:
        """Returns where to listen, if not embedded."""
        address = parse_listen_address(self.listen, certificate=self._identity().exists(), tls=self.tls)
        if self.require_client_certificate and not address.tls:
            raise InvalidRequestError("clients show certificates with TLS only", "add --tls")
        return address

    def _address_and_token(self, previous: AgentRecord | None) -> tuple[ListenAddress, str | None, bool]:
        """Returns where to listen (of no meaning embedded), the owner's token, and whether it was made just now.

        With TLS there are users with tokens of their own, and none for the owner but where one is configured.

        Args:
            previous: Of the agent that was killed here, with whose token its clients come.
        """
        if self.embedded:
            os.environ.pop(TOKEN_VARIABLE, None)
            return ListenAddress(), (previous.token if previous is not None else "") or new_token(), True
        address = self._listen_address()
        configured = configured_token(os.environ, self.token_file)
        if address.tls:
            return address, configured, False
        return address, configured or new_token(), configured is None

    def _root(self) -> Path:
        if self.folder:
            return Path(self.folder).expanduser().absolute()
        if self.embedded:
            return agent_folder().absolute()
        # One for each address, so that an agent finds what its predecessor left.
        address = self._listen_address()
        name = f"nbgpu-{re.sub(r'[^A-Za-z0-9]+', '-', address.target()).strip('-')}"
        if self.may_isolate(tls=address.tls):  # root's own folders are closed to others
            return Path(self.os_users_folder).expanduser().absolute() / name
        return Path(jupyter_runtime_dir()).absolute() / name

    def _announce(self, target: str, token: str, folders: AgentFolders, *, show_token: bool) -> None:
        from nbgpu_agent.agent import package_version

        # Whose clients are given the token by hand leaves it on no disk; the record says that it serves.
        known_token = token if self.embedded else ""
        write_record(folders.root, AgentRecord(target, known_token, os.getpid(), package_version(), VERSION))
        if not self.embedded:
            secret = f" {TOKEN_VARIABLE}={token}" if show_token else ""
            pin = f" NBGPU_AGENT_PIN={self._identity().pin()}" if target.startswith(TLS_SCHEME) else ""
            print(f"export NBGPU_AGENT_ADDRESS={target}{pin}{secret}", flush=True)
        self.log.info("serving on %s", target)
        tell_service_manager("READY=1")

    def _end_by_force(self) -> None:
        """Ends all kernels and then the process, whatever its other threads are stuck in."""
        self.log.error("did not end within %g s; what its threads do follows", END_WITHIN_S)
        faulthandler.dump_traceback()
        if self._folders is not None:
            from nbgpu_agent.kernel_records import reap_leftovers

            for leftover in reap_leftovers(self._folders.kernels):
                self.log.warning("%s", leftover)
            self._folders.clean()
        _exit_process(EXIT_FORCED)

    def _set_up_logging(self) -> None:
        """Sends what the agent's modules log where the application's own log goes."""
        if self.log_style == "json":
            for handler in self.log.handlers:
                handler.setFormatter(JsonFormatter())
        logger = logging.getLogger("nbgpu_agent")
        logger.setLevel(self.log.level)
        logger.handlers = list(self.log.handlers)
        logger.propagate = False


def _exit_process(code: int) -> NoReturn:
    """Exits without Python's own last steps, which wait for a thread that a driver never returns to."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or there is none
            stream.flush()
    os._exit(code)


def _remove_stale_socket(path: Path) -> None:
    """Removes a socket that nobody listens on.

    Raises:
        InvalidRequestError: Somebody does, or the path is something else.
    """
    import socket

    if not path.exists():
        return
    if not path.is_socket():
        raise InvalidRequestError(f"{path} is there already, and no socket", "choose another path with --listen")
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise InvalidRequestError(f"another process listens on {path}", "choose another path with --listen")


def main() -> None:
    """Runs the agent with the process' arguments."""
    AgentApp.launch_instance()
