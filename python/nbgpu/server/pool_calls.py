"""The Jupyter server's conversation with one pool: the protocol's calls, with JSON values in and out.

The one module of the server part that imports gRPC, which takes some 100 ms: import it in a thread, and only once a
page asks for something.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbgpu import errors
from nbgpu.client import executions, journal, pools
from nbgpu.client.discovery import connect
from nbgpu.client.pairing import Invitation, pair, read_invitation
from nbgpu.client.pool import Pool
from nbgpu.client.pool_choice import Fit, choose_pool, fit
from nbgpu.client.trust import UntrustedAgentError, fetch_trust, is_tls
from nbgpu.replay import Output
from nbgpu.server.conversion import PHASES, node_view, samples_text, state_view
from nbgpu.server.page_replay import PageReplay
from nbgpu.server.problems import PoolLostError, RefusedError
from nbgpu.server.thinning import Thinner
from nbgpu.server.unsaved import CellExecution
from nbgpu.server.views import Phase, PoolTestView, StateView
from nbgpu.spec import Spec, parse_spec
from nbgpu.stack_report import stacks_in_words
from nbgpu_protocol.v1 import pool_pb2

TEST_TIMEOUT_S = 8.0
_INFRASTRUCTURE = (
    errors.AgentUnreachableError,
    errors.AuthenticationError,
    errors.VersionMismatchError,
    UntrustedAgentError,
)
_STATUSES: dict[type[errors.Error], int] = {
    errors.NoSuchSessionError: 404,
    pools.NoSuchPoolError: 404,
    errors.NoSuchAcceleratorError: 404,
    errors.BusyError: 409,
    errors.KernelFailedError: 502,
    errors.KernelDiedError: 502,
    errors.NotOfferedError: 400,
}


@dataclass(frozen=True)
class ReplayPiece:
    """What has come of an execution's output since the last piece."""

    outputs: list[Output]
    dropped: int
    """How many messages of its session from its time are not there any more."""
    is_caught_up: bool
    is_over: bool


OnUpdate = Callable[[Phase | None, str, int | None, int | None, str | None], None]
"""Told phase, words, place and length of the queue, and the session's id, of a request for a session."""


class PoolCalls:
    """A connection to one pool. For one event loop.

    Raises, in every method:
        PoolLostError: The pool does not answer.
        RefusedError: It refuses.
    """

    def __init__(self, pool: Pool, *, embedded: bool) -> None:
        self._pool = pool
        self.embedded = embedded
        self.address = pool.address
        self._offers: list[pool_pb2.Offer] = []

    async def states(self) -> AsyncGenerator[StateView, None]:
        """Yields the pool's state at once, and again after every change, until the pool ends."""
        with _translated():
            async with contextlib.aclosing(self._pool.watch()) as states:  # type: ignore[type-var]
                async for state in states:
                    self._offers = list(state.offers)
                    yield state_view(state)

    def fit(self, spec: Spec) -> Fit:
        """Returns how well what was offered last meets the spec."""
        return fit(spec, self._offers)

    def offers(self) -> list[pool_pb2.Offer]:
        """Returns what was offered last."""
        return self._offers

    async def samples(self) -> AsyncGenerator[tuple[float, str], None]:
        """Yields the time of each new reading, and its samples as the inside of a JSON list."""
        with _translated():
            async with contextlib.aclosing(self._pool.watch_samples()) as batches:
                async for batch in batches:
                    if batch.samples:
                        yield batch.samples[-1].time_unix_s, samples_text(batch.samples)

    async def recorded_samples(self, history_s: float, step_s: float = 0.0) -> AsyncIterator[tuple[float, str]]:
        """Yields the same of what is recorded of the last seconds, in pieces, oldest first; converted in a thread.

        Args:
            history_s: Up to 3600.
            step_s: Of each accelerator the last sample of so many seconds; 0: all.
        """
        thinner = Thinner(step_s)
        with _translated():
            async with contextlib.aclosing(self._pool.watch_samples(history_s, history_only=True)) as batches:
                async for batch in batches:
                    if samples := thinner.add(batch.samples):
                        yield samples[-1].time_unix_s, await asyncio.to_thread(samples_text, samples)
            if samples := thinner.rest():
                yield samples[-1].time_unix_s, samples_text(samples)

    async def latency_ms(self) -> float:
        """Returns how long a call and its answer take."""
        with _translated():
            began_s = time.perf_counter()
            await self._pool.handshake()
            return (time.perf_counter() - began_s) * 1000

    async def open_session(
        self,
        spec: Spec | None,
        *,
        notebook_id: str,
        notebook_name: str,
        python: str,
        working_folder: str,
        new: bool,
        on_update: OnUpdate,
    ) -> str:
        """Opens or finds a session, makes it the notebook's, and returns its id; cancelled, it leaves nothing.

        Args:
            spec: None: the session that the notebook has, else whatever the pool prefers.
            notebook_id: The notebook's Jupyter kernel id.
            notebook_name: For lists.
            python: Path of the notebook's interpreter; used with this machine's own agent.
            working_folder: The notebook's; likewise.
            new: Open one even if the notebook has one that would do.
            on_update: Told what is happening.
        """
        request = pool_pb2.OpenSessionRequest(
            spec=spec.to_message() if spec is not None else None,
            notebook_id="" if new else notebook_id,
            notebook_name=notebook_name,
            python=python if self.embedded else "",
            working_folder=working_folder if self.embedded else "",
        )
        with _translated():
            async with contextlib.aclosing(self._pool.open_session(request)) as updates:
                async for update in updates:
                    on_update(
                        PHASES.get(update.phase),
                        update.detail,
                        update.queue_position or None,
                        update.queue_length or None,
                        update.session.id or None,
                    )
                    if update.phase == pool_pb2.READY:
                        if notebook_id:
                            await self._pool.attach_session(update.session.id, notebook_id, notebook_name)
                        return str(update.session.id)
        raise PoolLostError("The pool ended the request without a session", None)

    async def has_session(self, session_id: str) -> bool:
        with _translated():
            return any(session.id == session_id for session in await self._pool.list_sessions())

    async def attach(self, session_id: str, notebook_id: str, notebook_name: str, notebook_key: str = "") -> None:
        with _translated():
            await self._pool.attach_session(session_id, notebook_id, notebook_name, notebook_key)

    async def cell_executions(self, session_id: str) -> list[CellExecution]:
        """Returns what the session has executed, executes and is to execute; nothing of an agent that is too old."""
        if executions.SAVED_CAPABILITY not in self._pool.capabilities:
            return []
        with _translated():
            response = await executions.list_executions(self._pool, session_id)
        return [_cell_execution(session_id, each) for each in response.executions]

    async def note_saved(self, session_id: str, cell_ids: Sequence[str]) -> None:
        """Notes that what these cells have put out is in their notebook's file, or was cleared away."""
        if executions.SAVED_CAPABILITY in self._pool.capabilities:
            with _translated():
                await executions.note_saved(self._pool, session_id, cell_ids)

    async def replay(self, session_id: str, execution_id: str) -> AsyncGenerator[ReplayPiece, None]:
        """Yields what a cell showed from its beginning on, and what it shows until it is over."""
        with _translated():
            response = await executions.list_executions(self._pool, session_id)
            execution = next((each for each in response.executions if each.request_id == execution_id), None)
            if execution is None:
                return
            replay = PageReplay(execution, response.last_number)
            pieces = journal.follow(self._pool, session_id, replay.after_number)
            async with contextlib.aclosing(pieces) as entries:
                async for piece in entries:
                    was_caught_up = replay.is_caught_up
                    outputs = replay.take(piece)
                    if outputs or replay.is_over or replay.is_caught_up != was_caught_up:
                        yield ReplayPiece(outputs, replay.dropped, replay.is_caught_up, replay.is_over)
                    if replay.is_over:
                        break
            if replay.is_over and executions.CAPABILITY in self._pool.capabilities:
                await executions.note_shown(self._pool, session_id, [execution_id])  # the page has taken it

    async def detach(self, session_id: str) -> None:
        with _translated():
            await self._pool.detach_session(session_id)

    async def interrupt(self, session_id: str) -> bool:
        with _translated():
            return await self._pool.interrupt(session_id)

    async def restart(self, session_id: str) -> None:
        with _translated():
            await self._pool.restart(session_id)

    async def renew(self, session_id: str) -> float | None:
        """Extends the session's lease; returns when it ends, in seconds since the epoch, or None for never."""
        with _translated():
            return (await self._pool.renew_lease(session_id)).expires_unix_s or None

    async def close_session(self, session_id: str) -> None:
        with _translated():
            await self._pool.close_session(session_id)

    async def read_log(self, session_id: str, tail_bytes: int) -> str:
        with _translated():
            return await self._pool.read_log(session_id, tail_bytes)

    async def stacks(self, session_id: str) -> str:
        """Returns where the session's code is now, in words."""
        with _translated():
            response, sessions = await asyncio.gather(self._pool.stacks(session_id), self._pool.list_sessions())
        info = next((session for session in sessions if session.id == session_id), None)
        return stacks_in_words(response, info, all_hint="")


def _cell_execution(session_id: str, execution: pool_pb2.Execution) -> CellExecution:
    return CellExecution(
        session_id,
        execution.request_id,
        execution.message_id,
        execution.cell_id,
        execution.source_digest,
        execution.execution_count or None,
        execution.started_unix_s,
        is_waiting=execution.state == pool_pb2.EXECUTION_WAITING,
        is_saved=execution.saved,
    )


@contextlib.asynccontextmanager
async def connected(pool_name: str | None, on_progress: Callable[[str], None]) -> AsyncIterator[PoolCalls]:
    """Connects to a pool for as long as the block lasts; starts this machine's agent, if that is the pool.

    Args:
        pool_name: Of a pool that the person added; None: the default one.
        on_progress: Told what is happening, in words.

    Raises:
        PoolLostError: It cannot be reached or started.
    """
    with _translated():
        pool, address = await connect(start=True, on_progress=on_progress, pool_name=pool_name)
    try:
        yield PoolCalls(pool, embedded=address.is_embedded)
    finally:
        await pool.close()


def read_spec(text: str) -> Spec | None:
    """Returns the spec, or None for an empty text.

    Raises:
        RefusedError: It cannot be read.
    """
    with _translated():
        return parse_spec(text) if text.strip() else None


def choose(spec: Spec, candidates: dict[str, PoolCalls]) -> str | None:
    """Returns the name of the pool to ask for a spec; None if none could ever grant it."""
    return choose_pool(spec, {name: calls.offers() for name, calls in candidates.items()})


def configured_pools() -> tuple[pools.ConfiguredPool, ...]:
    """Returns the pools that the person added. Reads a file.

    Raises:
        RefusedError: The file cannot be used.
    """
    with _translated():
        return pools.read_pools()


@dataclass(frozen=True)
class Candidate:
    """A pool as a page names it, with a token, or with what one pairs by."""

    name: str
    address: str
    token: str = field(repr=False)
    pin: str = ""
    code: str = field(default="", repr=False)
    client_certificate: str = ""

    @property
    def pairs(self) -> bool:
        return is_tls(self.address)

    def invitation(self) -> Invitation:
        return Invitation(self.name, self.address, self.pin, self.code, self.client_certificate)


def read_candidate(body: Mapping[str, Any]) -> Candidate:
    """Returns what was typed, or what the line says that was pasted in the place of the address, or of the name.

    Raises:
        RefusedError: Such a line cannot be understood.
    """
    typed = {key: str(value).strip() for key, value in body.items()}
    name, address = typed.get("name", ""), typed.get("address", "")
    with _translated():
        line = read_invitation(address) or read_invitation(name)
    if line is None:
        return Candidate(name, address, typed.get("token", ""), typed.get("pin", ""), typed.get("code", ""))
    own_name = name if name and read_invitation(name) is None else line.name
    return Candidate(own_name, line.address, "", line.pin, line.code, line.client_certificate)


async def add_pool(candidate: Candidate) -> None:
    """Adds a pool, and pairs with its agent first where it has TLS. Writes a file.

    Raises:
        RefusedError: It cannot be one.
        PoolLostError: It does not answer, or does not accept the code.
    """
    with _translated():
        if candidate.pairs:
            pool = await pair(candidate.invitation())
        else:
            pool = pools.ConfiguredPool(candidate.name, candidate.address, candidate.token)
        await asyncio.to_thread(pools.add_pool, pool)


def remove_pool(name: str) -> None:
    """Removes a pool; its sessions go on. Writes a file.

    Raises:
        RefusedError: There is none of that name.
    """
    with _translated():
        pools.remove_pool(name)


async def test_pool(candidate: Candidate) -> PoolTestView:
    """Tries to reach a pool, and says what came of it. A code is good for one use, and not used up by this.

    Args:
        candidate: By its name a pool that was added, where there is no address.
    """
    name, address = candidate.name, candidate.address
    try:
        if candidate.pairs:
            await asyncio.to_thread(fetch_trust, address, candidate.pin)
            message = f"{address} shows the certificate of the pin; the code is tried when the pool is added"
            return PoolTestView(ok=True, message=message, hint=None, latency_ms=None, node=None)
        if address:
            pool = pools.ConfiguredPool(name or "a new pool", address, candidate.token)
            pools.check_pool(pool)
        else:
            pool = await asyncio.to_thread(pools.find_pool, name)
        async with Pool(pool.address, pool.token, pool.trust()) as tried:
            began_s = time.perf_counter()
            answer = await asyncio.wait_for(tried.handshake(), TEST_TIMEOUT_S)
            first_s = time.perf_counter() - began_s
            latency_ms = min(first_s, await _timed_handshake(tried)) * 1000
    except asyncio.TimeoutError:
        message = f"{address or name} did not answer within {TEST_TIMEOUT_S:g} s"
        return PoolTestView(ok=False, message=message, hint=_SLOW_HINT, latency_ms=None, node=None)
    except errors.Error as error:
        return PoolTestView(ok=False, message=error.message(), hint=error.hint or None, latency_ms=None, node=None)
    return PoolTestView(
        ok=True,
        message=f"{answer.node.hostname} answers, with nbgpu {answer.agent_version}",
        hint=None,
        latency_ms=latency_ms,
        node=node_view(answer.node),
    )


_SLOW_HINT = "is the agent running, and the tunnel to it open?"


async def _timed_handshake(pool: Pool) -> float:
    began_s = time.perf_counter()
    await asyncio.wait_for(pool.handshake(), TEST_TIMEOUT_S)
    return time.perf_counter() - began_s


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raises errors that know no gRPC in the place of the client's."""
    try:
        yield
    except _INFRASTRUCTURE as error:
        raise PoolLostError(error.message(), error.hint or None) from error
    except errors.Error as error:
        status = next((number for kind, number in _STATUSES.items() if isinstance(error, kind)), None)
        if status is None:
            status = 400 if isinstance(error, errors.UserError) else 500
        raise RefusedError(error.message(), error.hint or None, _reason_of(error), status) from error


def _reason_of(error: errors.Error) -> str:
    name = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
