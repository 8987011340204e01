"""One agent, from its accelerators to its server: put together, served until asked to end, taken apart."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from nbgpu_agent.accelerators.inventory import Inventory, find_accelerators
from nbgpu_agent.folders import AgentFolders
from nbgpu_agent.listening import ListenAddress
from nbgpu_agent.model import Lease, Node, SessionRequest
from nbgpu_agent.registry import SessionRegistry
from nbgpu_agent.sampling import Sampler
from nbgpu_agent.service.pool import AgentIdentity, PoolService
from nbgpu_agent.service.server import bind, make_server

if TYPE_CHECKING:
    from nbgpu_agent.kernels import KernelLauncher

logger = logging.getLogger(__name__)

STOP_GRACE_S = 1.0
"""How long RPCs that are open may go on, once all sessions are closed."""
CLOSE_TIMEOUT_S = 20.0
"""How long sessions and spare kernels may take to end."""
_HOUSEKEEPING_S = 1.0


@dataclass(frozen=True)
class AgentSettings:
    """What an agent is configured with."""

    embedded: bool
    address: ListenAddress
    token: str
    idle_shutdown_s: float
    """Ends after so long without a session, a request or a watcher; 0: never."""
    allow_client_python: bool
    environment_variables: tuple[str, ...]
    spare_kernels: int
    journal_bytes: int
    sampling_interval_s: float
    lease_duration_s: float | None


async def serve(settings: AgentSettings, folders: AgentFolders, on_serving: Callable[[str], None]) -> None:
    """Serves until SIGTERM, SIGINT, a client's request to end, or idleness; returns with everything closed.

    Args:
        settings: What it is configured with.
        folders: Held, and cleaned of what an earlier agent left.
        on_serving: Called with the target by which clients reach the agent, once they can.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with ThreadPoolExecutor(1, "accelerators") as executor:
        inventory = await loop.run_in_executor(executor, find_accelerators, os.environ)
        try:
            await _serve_accelerators(settings, folders, inventory, executor, stop, on_serving)
        finally:
            await loop.run_in_executor(executor, inventory.close)


async def _serve_accelerators(
    settings: AgentSettings,
    folders: AgentFolders,
    inventory: Inventory,
    executor: ThreadPoolExecutor,
    stop: asyncio.Event,
    on_serving: Callable[[str], None],
) -> None:
    from nbgpu_agent.blobs import BlobStore
    from nbgpu_agent.kernels import KernelLauncher
    from nbgpu_agent.sessions import Session

    launcher = KernelLauncher(
        folders.kernels,
        environment_variables=settings.environment_variables,
        spare_kernels=settings.spare_kernels,
        default_python=sys.executable,
    )

    def make_session(session_id: str, request: SessionRequest, lease: Lease, on_change: Callable[[], None]) -> Session:
        return Session(session_id, request, lease, launcher, on_change=on_change, journal_bytes=settings.journal_bytes)

    registry = SessionRegistry(inventory.accelerators, make_session, lease_duration_s=settings.lease_duration_s)
    sampler = Sampler(inventory.sample, registry.held, executor, interval_s=settings.sampling_interval_s)
    identity = AgentIdentity(
        _describe_node(inventory), package_version(), settings.embedded, settings.allow_client_python
    )
    server = make_server(
        settings.token, PoolService(identity, registry, sampler, stop.set), registry, BlobStore(folders.blobs)
    )
    target = bind(server, settings.address)
    await server.start()
    sampler.start()
    background = [
        asyncio.create_task(_keep_house(registry, settings.idle_shutdown_s, stop), name="housekeeping"),
        asyncio.create_task(_start_spares(launcher), name="spare kernels"),
    ]
    try:
        on_serving(target)
        await stop.wait()
        logger.info("ending")
    finally:
        folders.remove_record()
        for task in background:
            task.cancel()
        await asyncio.wait(background)
        await _within_bounds("sessions", registry.close_all("the agent ended"))
        await _within_bounds("spare kernels", launcher.close())
        await _within_bounds("sampling", sampler.close())
        await server.stop(STOP_GRACE_S)


async def _within_bounds(what: str, closing: Coroutine[Any, Any, None]) -> None:
    """Waits for something to close, and goes on without it if it does not: whoever comes next ends what is left."""
    try:
        await asyncio.wait_for(closing, CLOSE_TIMEOUT_S)
    except asyncio.TimeoutError:
        logger.error("%s did not end within %g s", what, CLOSE_TIMEOUT_S)
    except Exception:
        logger.exception("%s did not end", what)


async def _keep_house(registry: SessionRegistry, idle_shutdown_s: float, stop: asyncio.Event) -> None:
    while True:
        await asyncio.sleep(_HOUSEKEEPING_S)
        registry.close_expired()
        if idle_shutdown_s and registry.unused_s() >= idle_shutdown_s:
            logger.info("unused for %g s", idle_shutdown_s)
            stop.set()


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
