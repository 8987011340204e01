"""Clients and agents of neighbouring versions: what one does not know of the other is passed over, or said in words."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from agent_processes import Workplace, workplace
from nbgpu import errors, words
from nbgpu.client.executions import list_executions
from nbgpu.client.pool import Pool
from nbgpu.server.conversion import state_view
from nbgpu_protocol import VERSION
from nbgpu_protocol.fragments import split_message
from nbgpu_protocol.v1 import pool_pb2, session_pb2
from notebook_kernel import notebook_kernel, without_colours
from recorded_sessions import Notebook, RecordedClient, Recorder

UNKNOWN_FIELD = b"\xba\x3e\x03abc"
"""Field 999, of three bytes."""
UNKNOWN_VALUE = 999
"""Of any enum."""
OTHER_VERSION = """
import nbgpu_protocol
nbgpu_protocol.VERSION += {by}
from nbgpu_agent.app import main
main()
"""
# An agent without whatever came after cells ran: no feature that has a name of its own, and no RPC for any.
OLDER_VERSION = """
import grpc.aio
from nbgpu_agent.service import pool
pool.CAPABILITIES = ()
pool.ENVIRONMENTS_CAPABILITY = "none that this version knows"
known = {
    *("Handshake", "ListOffers", "WatchPool", "OpenSession", "ListSessions", "CloseSession"),
    *("Shutdown", "AttachSession", "RenewLease", "DetachSession"),
    *("Connect", "Interrupt", "Restart", "MissingBlobs", "Put", "Get"),
}

class Older(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation, details):
        return await continuation(details) if details.method.rpartition("/")[2] in known else None

make = grpc.aio.server
def make_older(*arguments, interceptors=(), **options):
    return make(*arguments, interceptors=(*interceptors, Older()), **options)
grpc.aio.server = make_older
from nbgpu_agent.app import main
main()
"""


@pytest.fixture
def place() -> Iterator[Workplace]:
    with workplace() as place:
        yield place


@pytest.mark.parametrize(
    ("by", "said"), [(1, "upgrade nbgpu in the notebook's environment"), (-1, "upgrade nbgpu on the agent's machine")]
)
def test_another_version_of_the_protocol_is_refused_with_the_side_to_upgrade(
    place: Workplace, by: int, said: str
) -> None:
    process, record = place.start_embedded(program=OTHER_VERSION.format(by=by))

    async def shake_hands() -> None:
        async with Pool(record.address, record.token) as pool:
            await pool.handshake()

    with pytest.raises(errors.VersionMismatchError) as raised:
        asyncio.run(shake_hands())
    assert f"speaks protocol {VERSION}, the agent's nbgpu" in raised.value.message()
    assert raised.value.message().endswith(f"speaks protocol {VERSION + by}")
    assert said in raised.value.hint
    assert place.end(process) == 0


def test_an_older_agent_runs_cells_and_what_it_does_not_know_is_said_with_the_side_to_upgrade(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, record = place.start_embedded(program=OLDER_VERSION)

    async def ask() -> None:
        async with Pool(record.address, record.token) as pool:
            assert (await pool.handshake()).capabilities == []
            await list_executions(pool, "any")

    with pytest.raises(errors.VersionMismatchError) as raised:
        asyncio.run(ask())
    assert raised.value.message() == "the agent's nbgpu is older than this one, and does not know this"
    assert raised.value.hint == errors.UPGRADE_THERE

    for name, value in {
        "NBGPU_AGENT_ADDRESS": record.address,
        "NBGPU_AGENT_TOKEN": record.token,
        "IPYTHONDIR": str(place.root / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(place.root / "runtime"),
    }.items():
        monkeypatch.setenv(name, value)
    with notebook_kernel(place.root) as notebook:
        assert not notebook.run("%load_ext nbgpu").errors
        cell = notebook.run("%%gpu H100\nprint('there', 6 * 7)")
        assert (cell.errors, cell.text()) == ([], "there 42\n")
        sent = notebook.run("x = 6\nget_ipython().run_cell_magic('gpu', '', 'y = x * 7')\ny")
        assert sent.result == "42" or _is_said(sent.errors)
        for line in ("%gpu status", "%gpu sessions", "%gpu offers"):
            assert not notebook.run(line).errors, line
        for line in ("%gpu logs", "%gpu cost", "%gpu plan"):
            cell = notebook.run(line)
            assert not cell.errors or _is_said(cell.errors), cell.errors
        assert not notebook.run("%gpu close").errors
    assert place.end(process) == 0


def _is_said(found: list[dict[str, object]]) -> bool:
    text = without_colours("\n".join(map(str, found[0]["traceback"])))  # type: ignore[call-overload]
    return "the agent's nbgpu is older than this one" in text and errors.UPGRADE_THERE in text


@pytest.mark.asyncio
async def test_what_a_newer_client_says_beyond_is_passed_over(place: Workplace) -> None:
    process, record = place.start_embedded()
    async with _notebook(place, record.address, record.token) as notebook:
        assert (await notebook.run("print(1)")).text == "1\n"
        pool = notebook.direct
        for frame in (b"", UNKNOWN_FIELD):  # a body that is none, and one of a kind that is not known
            call = pool.session.Connect(metadata=pool.metadata)
            connect = session_pb2.ConnectRequest(session_id=notebook.client.id, client_id="newer")
            await call.write(session_pb2.ClientFrame(connect=session_pb2.ConnectRequest.FromString(_newer(connect))))
            await call.write(session_pb2.ClientFrame.FromString(frame))
            answer = await asyncio.wait_for(call.read(), 60)
            assert answer.WhichOneof("body") == "connected"
            call.cancel()
        call = pool.session.Connect(metadata=pool.metadata)
        await call.write(session_pb2.ClientFrame(connect=connect))
        for fragment in split_message(UNKNOWN_VALUE, [b"{}"] * 4, request_id="r"):  # type: ignore[arg-type]
            await call.write(session_pb2.ClientFrame(fragment=fragment))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asyncio.wait_for(_read_all(call), 60)
        error = errors.from_rpc_error(raised.value)
        assert isinstance(error, errors.InvalidRequestError)
        assert "a message on channel 999, on which clients send nothing" in error.message()
        assert (await notebook.run("print(2)")).text == "2\n"
    assert place.end(process) == 0


@contextlib.asynccontextmanager
async def _notebook(place: Workplace, address: str, token: str) -> AsyncIterator[Notebook]:
    """A session that a client of a newer version has opened."""
    async with Pool(address, token) as pool:
        spec = pool_pb2.Spec(alternatives=[pool_pb2.Alternative(type="H100", count=1)], text="H100")
        request = pool_pb2.OpenSessionRequest(spec=spec, notebook_id=os.urandom(4).hex())
        newer = pool_pb2.OpenSessionRequest.FromString(_newer(request))
        async with contextlib.aclosing(pool.open_session(newer)) as updates:
            *_, ready = [update async for update in updates]
        client = RecordedClient(pool, ready.session, lambda: False, Recorder, None)
        try:
            await client.connect()
            yield Notebook(None, client, pool)  # type: ignore[arg-type] # no test here acts on a link
        finally:
            await client.disconnect()
            await pool.close_session(ready.session.id)


async def _read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


def _newer(message: object) -> bytes:
    return message.SerializeToString() + UNKNOWN_FIELD  # type: ignore[attr-defined,no-any-return]


@pytest.mark.asyncio
async def test_what_a_newer_agent_says_beyond_is_passed_over(place: Workplace) -> None:
    process, record = place.start_embedded()
    async with _notebook(place, record.address, record.token) as notebook:
        request, recorder = await notebook.send("print('begins')\nimport time\ntime.sleep(0.3)\nprint('ends')")
        connection = notebook.client._connection
        assert connection is not None
        number = connection._last_number
        event = session_pb2.KernelEvent(kind=UNKNOWN_VALUE)  # type: ignore[arg-type]
        entries = [
            session_pb2.Entry.FromString(session_pb2.Entry(number=number).SerializeToString() + UNKNOWN_FIELD),
            session_pb2.Entry(number=number, kernel_event=event),
        ]
        connection._take(session_pb2.AgentFrame(entries=session_pb2.Entries(entries=entries)))
        connection._take(session_pb2.AgentFrame.FromString(UNKNOWN_FIELD))
        await notebook.answer(request)
        assert recorder.text == "begins\nends\n", "the cell was not taken for dead"
    assert place.end(process) == 0


def test_values_of_a_newer_agent_are_shown_as_unknown_and_in_its_words() -> None:
    session = pool_pb2.SessionInfo(
        id="s",
        phase=UNKNOWN_VALUE,  # type: ignore[arg-type]
        kernel_state=UNKNOWN_VALUE,  # type: ignore[arg-type]
        closing=pool_pb2.Closing(closes_unix_s=3600.0, cause=UNKNOWN_VALUE),  # type: ignore[arg-type]
        accelerators=[pool_pb2.Accelerator(id="a", type="X900")],
    )
    state = pool_pb2.PoolState.FromString(_newer(pool_pb2.PoolState(sessions=[session])))
    (view,) = state_view(state)["sessions"]
    assert (view["phase"], view["kernel_state"], view["closing_cause"]) == (None, None, None)
    assert words.state_in_words(session, 0.0) == "idle"
    assert words.closing_in_words(session.closing, 0.0) == "closes in 60 min"
    update = pool_pb2.SessionUpdate(phase=UNKNOWN_VALUE, session=session)  # type: ignore[arg-type]
    assert "X900" in words.update_in_words(update)
    error = errors.from_message(pool_pb2.Error(reason=UNKNOWN_VALUE, message="a new kind"))  # type: ignore[arg-type]
    assert isinstance(error, errors.VersionMismatchError)
    assert (error.message(), error.hint) == ("a new kind", errors.UPGRADE_HERE)
    assert errors.from_message(pool_pb2.Error(reason=pool_pb2.BUSY, message="x")).message() == "x"
