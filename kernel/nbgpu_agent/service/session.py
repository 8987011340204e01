"""The Session service: messages between clients and kernels, interrupt, restart, stacks, logs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import grpc
import grpc.aio

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.channels import Channel
from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.journal import (
    Batch,
    CellTimedOut,
    Choice,
    Event,
    JournalReader,
    KernelEnded,
    KernelStarted,
    Message,
    Notice,
    RequestRefused,
)
from nbgpu_agent.journal_reading import selected
from nbgpu_agent.model import Execution, Node, Sample, SessionInfo
from nbgpu_agent.ownership import OwnSessions
from nbgpu_agent.prices import PriceList
from nbgpu_agent.service.blobs import add_blob_handlers
from nbgpu_agent.service.conversions import execution_message, kernel_exit_message, session_info_message
from nbgpu_agent.service.notebook_facts import notebook_facts_from
from nbgpu_agent.service.stacks import cell_timed_out_message, held_samples, stacks_message
from nbgpu_agent.service.translated_errors import error_message, translated
from nbgpu_agent.sessions import Session
from nbgpu_protocol.fragments import FragmentError, MessageAssembler, split_message
from nbgpu_protocol.v1 import pool_pb2, session_pb2, session_pb2_grpc

if TYPE_CHECKING:
    from nbgpu_agent.registry import SessionRegistry

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_UNKNOWN_NODE = Node(id="", hostname="", platform="", cpu_count=0, memory_bytes=0, driver_version=None)
_MAX_PARTS = 10_000
_MAX_CELLS = 10_000
_CLIENT_CHANNELS = frozenset({Channel.SHELL, Channel.CONTROL, Channel.STDIN})


class SessionService(session_pb2_grpc.SessionServicer):
    """Serves the sessions of a registry.

    Args:
        node: Named in what is told of a session; None: nothing is said of it.
        prices: By which costs are told; None: there are none.
        latest_samples: Returns the newest sample of each accelerator.
    """

    def __init__(
        self,
        registry: SessionRegistry,
        blobs: BlobStore,
        node: Node | None = None,
        prices: PriceList | None = None,
        latest_samples: Callable[[], Sequence[Sample]] = tuple,
    ) -> None:
        self._registry = OwnSessions(registry)
        self._blobs = blobs
        self._node = node
        self._prices = prices or PriceList()
        self._latest_samples = latest_samples

    @translated
    async def Connect(  # noqa: N802
        self, request_iterator: AsyncIterator[session_pb2.ClientFrame], context: Context
    ) -> AsyncIterator[session_pb2.AgentFrame]:
        connect = await _first_frame(request_iterator)
        session = self._registry.get(connect.session_id)
        journal = session.journal
        after_number = journal.last_number if connect.only_new else connect.after_number
        reader = journal.reader(after_number)
        receiving = asyncio.create_task(_receive(request_iterator, session))
        receiving.add_done_callback(lambda task: _stop_on_error(task, reader))
        try:
            with session.clients.connected(connect.client_id, observer=connect.observer):
                yield session_pb2.AgentFrame(
                    connected=session_pb2.Connected(
                        session=self._info_message(session.info()),
                        last_number=journal.last_number,
                        dropped_until=journal.dropped_until if after_number < journal.dropped_until else 0,
                    )
                )
                reader.position = max(reader.position, min(journal.dropped_until, journal.last_number))
                while (batch := await reader.read()) is not None:
                    for frame in _frames(batch):
                        yield frame
                if receiving.done():
                    receiving.result()
        finally:
            reader.close()
            receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await receiving

    @translated
    async def ListExecutions(  # noqa: N802
        self, request: session_pb2.ListExecutionsRequest, context: Context
    ) -> session_pb2.ListExecutionsResponse:
        session = self._registry.get(request.session_id)
        return session_pb2.ListExecutionsResponse(
            executions=[
                self._execution_message(each, attended=each.client_id in session.clients)
                for each in session.executions.all()
                if not 0 < each.last_number <= request.after_number
            ],
            last_number=session.journal.last_number,
            dropped_until=session.journal.dropped_until,
        )

    @translated
    async def NoteSaved(  # noqa: N802
        self, request: session_pb2.NoteSavedRequest, context: Context
    ) -> session_pb2.NoteSavedResponse:
        session = self._registry.get(request.session_id)
        if len(request.cell_ids) > _MAX_CELLS:
            raise InvalidRequestError(f"{len(request.cell_ids)} cells at once, {_MAX_CELLS} at most")
        session.executions.note_saved(frozenset(request.cell_ids) - {""})
        return session_pb2.NoteSavedResponse()

    @translated
    async def ReadEntries(  # noqa: N802
        self, request: session_pb2.ReadEntriesRequest, context: Context
    ) -> AsyncIterator[session_pb2.Entries]:
        session = self._registry.get(request.session_id)
        execution = None
        if request.request_id:
            found = [each for each in session.executions.all() if each.request_id == request.request_id]
            if not found:
                raise InvalidRequestError(
                    f"the session has no execution {request.request_id[:200]!r}", "list them by ListExecutions"
                )
            execution = found[0]
        for batch in selected(session.journal, request.after_number, request.until_number, execution):
            for frame in _frames(batch):
                yield frame.entries

    @translated
    async def Interrupt(  # noqa: N802
        self, request: session_pb2.InterruptRequest, context: Context
    ) -> session_pb2.InterruptResponse:
        session = self._registry.managed(request.session_id)
        return session_pb2.InterruptResponse(
            delivered=await session.interrupt(request.request_id, escalate=request.escalate)
        )

    @translated
    async def Restart(  # noqa: N802
        self, request: session_pb2.RestartRequest, context: Context
    ) -> session_pb2.RestartResponse:
        session = self._registry.managed(request.session_id)
        await session.restart()
        return session_pb2.RestartResponse(session=self._info_message(session.info()))

    @translated
    async def Stacks(  # noqa: N802
        self, request: session_pb2.StacksRequest, context: Context
    ) -> session_pb2.StacksResponse:
        session = self._registry.get(request.session_id)
        return stacks_message(
            await session.kernels.stacks(), held_samples(session.lease, self._registry.samples(self._latest_samples()))
        )

    @translated
    async def ReadLog(  # noqa: N802
        self, request: session_pb2.ReadLogRequest, context: Context
    ) -> session_pb2.ReadLogResponse:
        session = self._registry.get(request.session_id)
        return session_pb2.ReadLogResponse(text=session.kernels.log_tail(request.tail_bytes))

    @translated
    async def MissingBlobs(  # noqa: N802
        self, request: session_pb2.MissingBlobsRequest, context: Context
    ) -> session_pb2.MissingBlobsResponse:
        return session_pb2.MissingBlobsResponse(digests=self._blobs.missing(request.digests))

    @translated
    async def NoteNotebook(  # noqa: N802
        self, request: session_pb2.NoteNotebookRequest, context: Context
    ) -> session_pb2.NoteNotebookResponse:
        session = self._registry.get(request.session_id)
        session.note_notebook(request.notebook_id, request.kernel_generation, notebook_facts_from(request.facts))
        return session_pb2.NoteNotebookResponse()

    @translated
    async def NoteShown(  # noqa: N802
        self, request: session_pb2.NoteShownRequest, context: Context
    ) -> session_pb2.NoteShownResponse:
        await self._registry.get(request.session_id).note_shown(frozenset(request.request_ids))
        return session_pb2.NoteShownResponse()

    def _execution_message(self, execution: Execution, *, attended: bool) -> pool_pb2.Execution:
        message = execution_message(execution, self._prices, attended=attended)
        message.shown_before = execution.shown_before
        return message

    def _info_message(self, info: SessionInfo) -> pool_pb2.SessionInfo:
        message = session_info_message(info, self._node or _UNKNOWN_NODE, self._prices)
        if self._node is None:
            message.ClearField("node")
        return message


def add_session_service(
    server: grpc.aio.Server,
    registry: SessionRegistry,
    blobs: BlobStore,
    node: Node | None = None,
    prices: PriceList | None = None,
    latest_samples: Callable[[], Sequence[Sample]] = tuple,
) -> None:
    """Adds the Session and the Blobs service to the server."""
    service = SessionService(registry, blobs, node, prices, latest_samples)
    session_pb2_grpc.add_SessionServicer_to_server(service, server)
    add_blob_handlers(server, blobs)


async def _first_frame(frames: AsyncIterator[session_pb2.ClientFrame]) -> session_pb2.ConnectRequest:
    async for frame in frames:
        if frame.WhichOneof("body") == "connect":
            return frame.connect
        break
    raise InvalidRequestError("the first frame of a client must be `connect`")


async def _receive(frames: AsyncIterator[session_pb2.ClientFrame], session: Session) -> None:
    """Takes a client's messages to the session, until the client sends no more.

    Raises:
        InvalidRequestError: They are no messages.
    """
    assembler = MessageAssembler()
    async for frame in frames:
        if frame.WhichOneof("body") != "fragment":
            continue
        try:
            if frame.fragment.part_sizes and len(frame.fragment.part_sizes) > _MAX_PARTS:
                raise FragmentError(f"a message of {len(frame.fragment.part_sizes)} parts")
            channel = int(frame.fragment.channel)
            message = assembler.add(frame.fragment)
            if message is None:
                continue
            parts, request_id = message
            if len(parts) < 4:
                raise FragmentError(f"a message of {len(parts)} parts, where header to content are 4")
            if channel not in _CLIENT_CHANNELS:
                raise FragmentError(f"a message on channel {channel}, on which clients send nothing")
            session.messages.submit(Channel(channel), parts, request_id)
        except ValueError as error:  # of fragments, of JSON, of text
            raise InvalidRequestError(f"the client sent what is no message: {error}") from error


def _stop_on_error(task: asyncio.Task[None], reader: JournalReader) -> None:
    if not task.cancelled() and task.exception() is not None:
        reader.stop()


def _frames(batch: Batch) -> Iterator[session_pb2.AgentFrame]:
    """Yields the frames of a batch: one, or where a message is in fragments one for each of them."""
    frame = session_pb2.AgentFrame()
    number = batch.gap_until

    def new_entry() -> session_pb2.Entry:
        return frame.entries.entries.add(number=number)

    if batch.gap_until:
        new_entry().gap.until_number = batch.gap_until
    for entry in batch.entries:
        number, body = entry.number, entry.body
        if isinstance(body, Message):
            channel = cast(session_pb2.Channel, body.channel)  # the same numbers
            for fragment in split_message(channel, body.parts, new_fragment=lambda: new_entry().message):
                if not fragment.last:
                    yield frame
                    frame = session_pb2.AgentFrame()
        else:
            _describe_event(body, new_entry())
    yield frame


def _describe_event(event: Event, entry: session_pb2.Entry) -> None:
    if isinstance(event, KernelStarted):
        entry.kernel_event.kind = session_pb2.KernelEvent.STARTED
        entry.kernel_event.kernel_generation = event.generation
    elif isinstance(event, KernelEnded):
        entry.kernel_event.kind = session_pb2.KernelEvent.ENDED
        entry.kernel_event.kernel_generation = event.generation
        entry.kernel_event.exit.CopyFrom(kernel_exit_message(event.exit))
    elif isinstance(event, RequestRefused):
        entry.request_refused.request_id = event.request_id
        entry.request_refused.error.CopyFrom(error_message(event.error))
    elif isinstance(event, Choice):
        entry.choice.notebook_id = event.notebook_id
        entry.choice.session_id = event.session_id
    elif isinstance(event, Notice):
        entry.notice.text = event.text
    elif isinstance(event, CellTimedOut):
        entry.cell_timed_out.CopyFrom(cell_timed_out_message(event))
    else:
        entry.session_closed.reason = event.reason
