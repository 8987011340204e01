"""One agent, from its accelerators to its server: put together, served until asked to end, taken apart."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import socket
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from nbgpu_agent.accelerators.inventory import Inventory, find_accelerators
from nbgpu_agent.accounting.accounts import Accounts
from nbgpu_agent.accounting.allowances import Grants
from nbgpu_agent.accounting.ledger import LEDGER_FILE, Ledger
from nbgpu_agent.audit import AUDIT_FILE, AccessAudit, AuditLog, SessionAudit
from nbgpu_agent.clock import AgentClock
from nbgpu_agent.ending import Ending
from nbgpu_agent.folders import AgentFolders
from nbgpu_agent.guardian import Guardian
from nbgpu_agent.isolation.choosing import Isolation
from nbgpu_agent.isolation.os_user import own_folder, passable
from nbgpu_agent.limits.closing import Terms
from nbgpu_agent.limits.host import HostKeeper, HostLimits
from nbgpu_agent.limits.keeper import SessionKeeper
from nbgpu_agent.limits.spending import DEFAULT_GRACE_S, SpendingKeeper
from nbgpu_agent.listening import ListenAddress
from nbgpu_agent.model import Lease, Node, SessionRequest
from nbgpu_agent.prices import PriceList
from nbgpu_agent.registry import SessionRegistry
from nbgpu_agent.sampling import Sampler
from nbgpu_agent.service.pool import AgentIdentity, PoolService
from nbgpu_agent.service.server import bind, make_server
from nbgpu_agent.service_manager import tell_service_manager

if TYPE_CHECKING:
    import grpc

    from nbgpu_agent.adoption import Leftovers, LeftSession
    from nbgpu_agent.blobs import BlobStore
    from nbgpu_agent.environments.session_environments import SessionEnvironments
    from nbgpu_agent.identity.certificates import Identity
    from nbgpu_agent.identity.users import UserStore
    from nbgpu_agent.kernel_launcher import KernelLauncher
    from nbgpu_agent.service.exporter import Exporter

logger = logging.getLogger(__name__)

_OWNERS_ENVIRONMENTS = "_owner"
"""Beside those of users, whose names do not begin so: where the owner's sessions run as another user as well."""

STOP_GRACE_S = 1.0
"""How long RPCs that are open may go on, once all sessions are closed."""
SESSIONS_TIMEOUT_S = 12.0
"""How long sessions may take to end; a process that SIGKILL does not end takes 10 s of it."""
SPARES_TIMEOUT_S = 5.0
_TIMEOUT_S = 2.0
"""How long everything else may take that ends with the agent, drivers that do not answer among it."""
_HOUSEKEEPING_S = 1.0


@dataclass(frozen=True)
class AgentSettings:
    """What an agent is configured with."""

    embedded: bool
    address: ListenAddress
    token: str | None
    """The owner's; None: there are users only."""
    idle_shutdown_s: float
    """Ends after so long without a session, a request or a watcher; 0: never."""
    allow_client_python: bool
    environment_variables: tuple[str, ...]
    spare_kernels: int
    journal_bytes: int
    adoption_grace_s: float
    """How long sessions go on without an agent; 0: they end with it."""
    sampling_interval_s: float
    lease_duration_s: float | None
    build_environments: bool
    environments_bytes: int
    prices: PriceList
    metrics_port: int | None
    """On loopback, for Prometheus; 0: one that is free; None: none."""
    terms: Terms = field(default_factory=Terms)
    grants: Grants = field(default_factory=Grants)
    budget_grace_s: float = DEFAULT_GRACE_S
    host_limits: HostLimits = field(default_factory=HostLimits)
    cell_output_bytes: int | None = None
    """What a cell may print and display; None: no bound."""
    audit: bool = False
    """Whether who did what is recorded."""
    base_environment: Path | None = None
    """A virtual environment that the node's owner provides."""
    identity: Identity | None = None
    """Certificates, and the users beside them, of an agent that listens with TLS."""
    require_client_certificate: bool = False
    isolation: Isolation = field(default_factory=Isolation)
    """As whom sessions run."""


async def serve(
    settings: AgentSettings,
    folders: AgentFolders,
    ending: Ending,
    on_serving: Callable[[str], None],
    leftovers: Leftovers,
) -> None:
    """Serves until a signal, a client's request to end, or idleness; returns with everything closed that closes.

    Args:
        settings: What it is configured with.
        folders: Held, and cleaned of what an earlier agent left.
        ending: Says when to end, and is asked by clients and by idleness.
        on_serving: Called with the target by which clients reach the agent, once they can.
        leftovers: Sessions of an earlier agent, to take over.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    ending.call_when_asked(lambda: loop.call_soon_threadsafe(stop.set))
    # Not as a context manager, which would wait for a driver that hangs.
    executor = ThreadPoolExecutor(1, "accelerators")
    finding = loop.run_in_executor(executor, find_accelerators, os.environ)
    stopping = loop.create_task(stop.wait())
    either: set[asyncio.Future[Any]] = {finding, stopping}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not finding.done():
        logger.warning("asked to end before the accelerators were found")
        return
    inventory = finding.result()
    try:
        await _serve_accelerators(settings, folders, inventory, executor, stopping, ending, on_serving, leftovers)
    finally:
        stopping.cancel()
        await _within_bounds("the accelerators' driver", loop.run_in_executor(executor, inventory.close))
        executor.shutdown(wait=False, cancel_futures=True)


async def _serve_accelerators(
    settings: AgentSettings,
    folders: AgentFolders,
    inventory: Inventory,
    executor: ThreadPoolExecutor,
    stopping: asyncio.Task[Any],
    ending: Ending,
    on_serving: Callable[[str], None],
    leftovers: Leftovers,
) -> None:
    from nbgpu_agent.adoption import adopt_sessions, clock_left
    from nbgpu_agent.journal_store import JournalStore
    from nbgpu_agent.kernel_launcher import KernelLauncher
    from nbgpu_agent.sessions import Session
    from nbgpu_agent.user_blobs import UserBlobs

    outlives = settings.adoption_grace_s > 0
    # First, so that there is no kernel that nobody would end.
    guardian = Guardian(str(folders.root), settings.adoption_grace_s) if outlives else None
    writing = ThreadPoolExecutor(1, "journal")
    launcher = KernelLauncher(
        folders.kernels,
        environment_variables=settings.environment_variables,
        spare_kernels=settings.spare_kernels,
        default_python=sys.executable,
        blobs_folder=folders.blobs,
        journal_bytes=settings.journal_bytes,
        kernels_outlive_agent=outlives,
        isolation=settings.isolation,
    )

    blobs = UserBlobs(folders.blobs, isolation=settings.isolation)
    environments = _make_environments(settings, folders, blobs, inventory) if settings.build_environments else None
    if environments is not None:
        await environments.materialiser.check_base()

    def make_session(session_id: str, request: SessionRequest, lease: Lease, on_change: Callable[[], None]) -> Session:
        return Session(
            session_id,
            request,
            lease,
            launcher,
            on_change=on_change,
            journal_bytes=settings.journal_bytes,
            measure=sampler.measure,
            output_bytes=settings.cell_output_bytes,
            on_executed=lambda execution: accounts.note_execution(session_id, execution),
            store=JournalStore(folders.sessions / session_id) if outlives else None,
            executor=writing,
            now=clock,
            clock=clock.setting if outlives else None,
        )

    def restore(left: LeftSession, lease: Lease, on_change: Callable[[], None]) -> Session:
        return Session(
            left.state.id,
            left.state.request,
            lease,
            launcher,
            on_change=on_change,
            journal_bytes=settings.journal_bytes,
            measure=sampler.measure,
            store=left.store,
            executor=writing,
            output_bytes=settings.cell_output_bytes,
            on_executed=lambda execution: accounts.note_execution(left.state.id, execution),
            state=left.state,
            stored=left.stored,
            now=clock,
            clock=clock.setting,
        )

    clock = AgentClock(clock_left(leftovers))
    registry = SessionRegistry(
        inventory.accelerators,
        make_session,
        environments=environments,
        lease_duration_s=settings.lease_duration_s,
        now=clock,
    )
    sampler = Sampler(
        inventory.sample,
        registry.held,
        executor,
        interval_s=settings.sampling_interval_s,
        on_reading=lambda: _note_reading(registry, keeper, accounts, sampler),
        now=clock,
    )
    accounts = Accounts(Ledger(folders.root / LEDGER_FILE), registry, settings.prices, settings.grants, sampler.measure)
    keeper = SessionKeeper(registry, settings.terms, deadlines=accounts.deadlines)
    host = HostKeeper(registry, settings.host_limits)
    spending = SpendingKeeper(registry, accounts, grace_s=settings.budget_grace_s)
    audit = AuditLog(folders.root / AUDIT_FILE, time.time) if settings.audit else None
    if audit is not None:
        registry.observers.append(SessionAudit(audit, registry.now))
    await accounts.start()
    node = _describe_node(inventory)
    identity = AgentIdentity(
        node,
        package_version(),
        settings.embedded,
        settings.allow_client_python,
        environments=environments is not None,
        prices=settings.prices,
        isolation=settings.isolation.kind,
        isolation_problem=settings.isolation.problem,
        isolation_hint=settings.isolation.hint,
    )

    def shut_down(keep_sessions: bool) -> None:
        ending.ask(keep_sessions=keep_sessions)

    users, credentials = _identity(settings)
    server = make_server(
        settings.token,
        PoolService(identity, registry, sampler, shut_down, keeper),
        registry,
        blobs,
        users=users,
        accounts=accounts,
        certificates=settings.require_client_certificate,
        audit=AccessAudit(audit) if audit is not None else None,
    )
    await adopt_sessions(leftovers, registry, launcher, inventory.accelerators, restore)
    target = bind(server, settings.address, credentials)
    exporter = None
    if settings.metrics_port is not None:
        exporter = _make_exporter(settings.metrics_port, node, inventory, registry, sampler)
        logger.info("metrics for Prometheus: %s", exporter.address)
    await server.start()
    sampler.start()

    async def follow_clock() -> None:
        if change_s := clock.follow():
            logger.info("the machine's clock was set by %+.0f s, and is followed", change_s)
            sampler.forget()
            await accounts.note_clock_set()

    looks = [accounts.look, keeper.look, spending.look, host.look]
    background = [
        asyncio.create_task(
            _keep_house(registry, looks, settings.idle_shutdown_s, ending, follow_clock), name="housekeeping"
        ),
        asyncio.create_task(_start_spares(launcher), name="spare kernels"),
    ]
    try:
        on_serving(target)
        await stopping
        logger.info("ending")
        tell_service_manager("STOPPING=1")
    finally:
        leaving = ending.keeps_sessions and outlives
        if not leaving:  # else the next agent takes the token from it, with which clients come back
            folders.remove_record()
        for task in background:
            task.cancel()
        await asyncio.wait(background)
        await _within_bounds("host limits", host.close())
        closing = registry.leave_all() if leaving else registry.close_all("the agent ended")
        await _within_bounds("sessions", closing, SESSIONS_TIMEOUT_S)
        await _within_bounds("accounts", accounts.close())
        await _within_bounds("spare kernels", launcher.close(), SPARES_TIMEOUT_S)
        if exporter is not None:
            await _within_bounds("metrics", asyncio.to_thread(exporter.close))
        await _within_bounds("sampling", sampler.close())
        await _within_bounds("serving", server.stop(STOP_GRACE_S), STOP_GRACE_S + _TIMEOUT_S)
        writing.shutdown(wait=False)
        if guardian is not None and not leaving:
            await asyncio.to_thread(guardian.dismiss, timeout_s=_TIMEOUT_S)
        if users is not None:
            users.close()


def _identity(settings: AgentSettings) -> tuple[UserStore | None, grpc.ServerCredentials | None]:
    """Returns the users and the certificates of an agent that listens with TLS.

    Raises:
        InvalidRequestError: They cannot be read, or others can.
    """
    if settings.identity is None:
        return None, None
    from nbgpu_agent.identity.users import UserStore
    from nbgpu_agent.service.credentials import server_credentials

    required = settings.require_client_certificate
    credentials = server_credentials(settings.identity, require_client_certificate=required)
    return UserStore(settings.identity.users_file), credentials


def _make_exporter(
    port: int, node: Node, inventory: Inventory, registry: SessionRegistry, sampler: Sampler
) -> Exporter:
    from nbgpu_agent.service.exporter import AgentCollector, Exporter, Snapshot

    def snapshot() -> Snapshot:
        return Snapshot(sampler.latest(), registry.ledger.offers(), [*registry.infos(), *registry.waiting()])

    return Exporter(AgentCollector(node, inventory.accelerators, snapshot, asyncio.get_running_loop()), port)


def _make_environments(
    settings: AgentSettings, folders: AgentFolders, blobs: BlobStore, inventory: Inventory
) -> SessionEnvironments:
    from nbgpu_agent.environments.materialising import Materialiser
    from nbgpu_agent.environments.session_environments import SessionEnvironments
    from nbgpu_agent.environments.store import EnvironmentStore
    from nbgpu_agent.environments.uv import Uv

    store = EnvironmentStore(folders.environments, limit_bytes=settings.environments_bytes)
    for leftover in store.remove_leftovers():
        logger.warning("removed what an earlier agent left: %s", leftover)
    materialiser = Materialiser(store, blobs, Uv(os.environ), inventory.driver_version, settings.base_environment)

    def make_materialiser(owner: str) -> Materialiser | None:
        sandbox = settings.isolation.sandbox(owner) if owner else None
        if sandbox is not None:
            own = EnvironmentStore(folders.users_environments / owner, limit_bytes=settings.environments_bytes)
            uv = Uv(os.environ, sandbox=sandbox)
            return Materialiser(own, blobs, uv, inventory.driver_version, settings.base_environment)
        os_user = settings.isolation.os_user(owner)
        if os_user is None:
            return None
        own = EnvironmentStore(
            own_folder(folders.users_environments / (owner or _OWNERS_ENVIRONMENTS), os_user, replace=True),
            limit_bytes=settings.environments_bytes,
            os_user=os_user,
        )
        uv = Uv(os.environ, os_user)
        return Materialiser(own, blobs, uv, inventory.driver_version, settings.base_environment)

    if settings.isolation.ids is not None:
        passable(folders.users_environments)
    for folder in folders.users_environments.iterdir() if folders.users_environments.is_dir() else ():
        for leftover in EnvironmentStore(folder).remove_leftovers():
            logger.warning("removed what an earlier agent left: %s", leftover)
    return SessionEnvironments(materialiser, blobs, make_materialiser)


async def _within_bounds(what: str, closing: Awaitable[None], timeout_s: float = _TIMEOUT_S) -> None:
    """Waits for something to close, and goes on without it if it does not: whoever comes next ends what is left."""
    task = asyncio.ensure_future(closing)
    await asyncio.wait({task}, timeout=timeout_s)
    if not task.done():
        logger.error("%s did not end within %g s", what, timeout_s)
        task.cancel()  # and not awaited: that might take as long
    elif not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s did not end", what, exc_info=error)


def _note_reading(registry: SessionRegistry, keeper: SessionKeeper, accounts: Accounts, sampler: Sampler) -> None:
    registry.measure_executions()
    keeper.note_reading(sampler.latest())
    accounts.note_reading(sampler.latest())


async def _keep_house(
    registry: SessionRegistry,
    looks: Sequence[Callable[[], None]],
    idle_shutdown_s: float,
    ending: Ending,
    follow_clock: Callable[[], Awaitable[None]],
) -> None:
    while True:
        await asyncio.sleep(_HOUSEKEEPING_S)
        registry.close_expired()
        for look in looks:
            try:
                look()
            except Exception:
                logger.exception("the sessions could not be looked after")
        if registry.unused_s():
            try:
                await follow_clock()
            except Exception:
                logger.exception("the machine's clock could not be followed")
        if idle_shutdown_s and registry.unused_s() >= idle_shutdown_s:
            logger.info("unused for %g s", idle_shutdown_s)
            ending.ask()
            return


async def _start_spares(launcher: KernelLauncher) -> None:
    try:
        await launcher.start_spares()
    except Exception:
        logger.exception("spare kernels could not be started; sessions start their own")


def _describe_node(inventory: Inventory) -> Node:
    return Node(
        id=uuid.uuid4().hex,
        hostname=socket.gethostname(),
        platform=sys.platform,
        cpu_count=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        driver_version=inventory.driver_version,
    )


def package_version() -> str:
    """Returns the version of the nbgpu package, `0+unknown` where it runs uninstalled."""
    try:
        return importlib.metadata.version("nbgpu")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
