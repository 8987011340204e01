"""What a session has executed, and what a client that comes later reads of it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from nbgpu_agent.executions import MAX_RECORDED, ExecutionRecord, code_digest
from nbgpu_agent.journal import Journal, Message
from nbgpu_agent.journal_reading import selected
from nbgpu_agent.model import Execution, Node
from nbgpu_agent.prices import PriceList
from nbgpu_agent.service.conversions import session_info_message
from nbgpu_agent.session_state import execution_from_json
from nbgpu_protocol.fragments import MessageAssembler
from nbgpu_protocol.v1 import pool_pb2, session_pb2
from session_clients import Client, Service, connect, run_service

pytestmark = pytest.mark.asyncio

UNKNOWN_NODE = Node(id="", hostname="", platform="", cpu_count=0, memory_bytes=0, driver_version=None)


async def listed(client: Client, after_number: int = 0) -> Any:
    request = session_pb2.ListExecutionsRequest(session_id=client.session_id, after_number=after_number)
    return await client.stub.ListExecutions(request)


async def read(client: Client, **fields: Any) -> tuple[list[tuple[int, str, dict[str, Any]]], int]:
    """Returns number, type and content of the messages that are read, and until where there is a gap."""
    request = session_pb2.ReadEntriesRequest(session_id=client.session_id, **fields)
    assembler, found, gap = MessageAssembler(), [], 0
    async for entries in client.stub.ReadEntries(request):
        for entry in entries.entries:
            gap = gap or entry.gap.until_number
            if entry.HasField("message") and (message := assembler.add(entry.message)) is not None:
                header, _, _, content = (json.loads(bytes(part)) for part in message[0][:4])
                found.append((entry.number, header["msg_type"], content))
    return found, gap


def text(messages: list[tuple[int, str, dict[str, Any]]]) -> str:
    return "".join(content["text"] for _, kind, content in messages if kind == "stream")


async def run_three(service: Service) -> list[str]:
    """Runs a cell that succeeds, one that fails and one that begins, for a client that is gone then."""
    async with connect(service) as client:
        metadata = {"cellId": "cell-1"}
        content = {"code": "print('a' * 10)", "silent": False}
        first = await client.send(session_pb2.SHELL, "execute_request", content, **metadata)
        await client.result(first)
        second = await client.execute("print('b'); 1 / 0")
        await client.result(second)
        await client.result(await client.execute("hidden = 1", silent=True))
        third = await client.execute("print('c', flush=True)\nimport time; time.sleep(600)")
        await client.begun(third)
        await client.until(lambda: "c\n" in "".join(m.content.get("text", "") for m in client.messages_of(third)))
        return [first, second, third]


async def test_a_client_that_comes_later_finds_what_ran(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        ids = await run_three(service)
        async with connect(service, only_new=True) as client:
            fourth = await client.execute("never()")
            while len((answer := await listed(client)).executions) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            executions = answer.executions
            assert [each.request_id for each in executions] == [*ids, fourth]
            assert [each.state for each in executions] == [
                pool_pb2.EXECUTION_SUCCEEDED,
                pool_pb2.EXECUTION_FAILED,
                pool_pb2.EXECUTION_RUNNING,
                pool_pb2.EXECUTION_WAITING,
            ]
            assert [each.cell_id for each in executions] == ["cell-1", "", "", ""]
            assert executions[0].code_digest == code_digest("print('a' * 10)")
            assert executions[0].code_digest.startswith("sha256:")
            assert 0 < executions[0].first_number < executions[0].last_number < executions[1].first_number
            assert executions[2].first_number > executions[1].last_number
            assert executions[2].last_number == executions[3].first_number == 0
            assert answer.last_number == session.journal.last_number
            assert answer.dropped_until == 0

            newer = await listed(client, after_number=executions[0].last_number)
            assert [each.request_id for each in newer.executions] == [*ids[1:], fourth]

            every, _ = await read(client, request_id=ids[1])
            assert text(every) == "b\n"
            kinds = [kind for _, kind, _ in every]
            assert kinds[0] == "status"
            assert {"execute_input", "error", "execute_reply"} < set(kinds)
            assert every[0][0] == executions[1].first_number
            assert every[-1][0] == executions[1].last_number
            rest, _ = await read(client, request_id=ids[1], after_number=every[3][0])
            assert rest == every[4:]
            assert text((await read(client, request_id=ids[2]))[0]) == "c\n"
            assert (await read(client, request_id=fourth))[0] == []

            stretch, _ = await read(client, until_number=executions[1].last_number)
            assert text(stretch) == "a" * 10 + "\nb\n"
            with pytest.raises(grpc.aio.AioRpcError, match="no execution 'unknown'"):
                await read(client, request_id="unknown")

            await client.interrupt(ids[2], escalate=True)
            assert (await listed(client)).executions[2].state == pool_pb2.EXECUTION_LOST


async def test_what_the_journal_dropped_is_told_as_a_gap(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open(journal_bytes=60_000)
        async with connect(service) as client:
            flooding = await client.execute("import sys\nfor i in range(200): print(f'{i}' * 400, flush=True)")
            await client.result(flooding)
            await client.run("print('last')")
        async with connect(service, only_new=True) as client:
            answer = await listed(client)
            assert answer.dropped_until == session.journal.dropped_until > 0
            messages, gap = await read(client, request_id=flooding)
            assert gap == answer.dropped_until
            assert messages[0][0] > gap
            assert text((await read(client, request_id=answer.executions[1].request_id))[0]) == "last\n"


async def test_a_stretch_ends_with_what_there_is() -> None:
    journal = Journal()
    for number in range(5):
        journal.append(Message(4, [b"{}", b'{"msg_id": "m", "nbgpu_request": "r"}', b"{}", b"%d" % number]))
    execution = Execution("r", 1, 0.0, message_id="m", first_number=2)
    numbers = [[each.number for each in batch.entries] for batch in selected(journal, 0, 0, execution)]
    assert numbers == [[2, 3, 4, 5]]
    assert [len(batch.entries) for batch in selected(journal, 3, 4)] == [1]
    assert list(selected(journal, 5)) == []
    assert list(selected(journal, 0, 0, Execution("other", 1, 0.0, message_id="m", first_number=1))) == []


async def test_the_record_forgets_the_oldest() -> None:
    record = ExecutionRecord()
    executions = [Execution(str(index), None, 0.0) for index in range(MAX_RECORDED + 5)]
    for each in executions:
        record.add(each)
    assert len(record.all()) == MAX_RECORDED
    assert [each.request_id for each in record.last()] == [each.request_id for each in executions[-20:]]
    assert record.complete(executions[-3], mean_utilisation_percent=5.0, peak_memory_bytes=None)
    assert record.last()[-3].mean_utilisation_percent == 5.0
    assert not record.complete(executions[0], mean_utilisation_percent=5.0, peak_memory_bytes=None)


async def test_what_a_cell_is_known_again_by_is_kept_and_so_is_that_its_notebook_has_it(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            own = {"source_digest": "sha256:1", "shown_before": "[]"}
            for cell_id in ("cell-1", "cell-2", "cell-1"):
                content = {"code": "1", "silent": False}
                await client.result(
                    await client.send(session_pb2.SHELL, "execute_request", content, cellId=cell_id, nbgpu=own)
                )
            executions = (await listed(client)).executions
            assert [(each.source_digest, each.shown_before) for each in executions] == [("sha256:1", "[]")] * 3
            assert not any(each.saved for each in executions)
            session.record.new_executions()

            request = session_pb2.NoteSavedRequest(session_id=session.info().id, cell_ids=["cell-1", ""])
            await client.stub.NoteSaved(request)
            executions = (await listed(client)).executions
            assert [(each.saved, each.shown) for each in executions] == [(True, True), (False, False), (True, True)]
            written = [execution_from_json(each) for _, each in session.record.new_executions()[0]]
            assert [(each.cell_id, each.saved) for each in written] == [("cell-1", True)] * 2
            shown = session_info_message(session.info(), UNKNOWN_NODE, PriceList())
            assert [(each.source_digest, each.shown_before) for each in shown.last_executions] == [("sha256:1", "")] * 3

            too_many = session_pb2.NoteSavedRequest(session_id=session.info().id, cell_ids=["x"] * 10_001)
            with pytest.raises(grpc.aio.AioRpcError, match="10001 cells at once"):
                await client.stub.NoteSaved(too_many)


async def test_an_observer_reads_and_is_not_the_notebook(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        assert not session.info().notebook_connected
        async with connect(service) as client:
            asked = await client.execute("print('a')")
            await client.result(asked)
            assert session.info().notebook_connected
        while session.info().notebook_connected:  # noqa: ASYNC110 - the agent hears of the end of a stream when it does
            await asyncio.sleep(0.01)
        async with connect(service, observer=True) as observer:
            assert not session.info().notebook_connected
            await observer.until(lambda: any(m.type == "execute_reply" for m in observer.messages_of(asked)))


async def test_a_client_that_comes_later_knows_what_nobody_was_shown(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            first = await client.execute("x = 1", notebook_id="the notebook")
            await client.result(first)
            second = await client.execute("import time; time.sleep(600)")
            await client.begun(second)
            await client.execute("hidden = 1", silent=True)  # waits, and is no cell
            third = await client.execute("never()", notebook_id="the notebook")
            while len(executions := (await listed(client)).executions) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert [each.request_id for each in executions] == [first, second, third]
            assert [each.notebook_id for each in executions] == ["the notebook", "", "the notebook"]
            assert {(each.kernel_generation, each.attended, each.shown) for each in executions} == {(1, True, False)}
        async with connect(service, only_new=True, client_id="another") as client:
            while any(each.attended for each in (await listed(client)).executions):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            request = session_pb2.NoteShownRequest(session_id="s1", request_ids=[first, second, "unknown"])
            for _ in range(2):
                await client.stub.NoteShown(request)
            # One that still runs is shown to its end by nobody.
            assert [each.shown for each in (await listed(client)).executions] == [True, False, False]


async def test_what_was_measured_and_what_was_shown_are_both_remembered() -> None:
    record = ExecutionRecord()
    execution = Execution("r", 1, 0.0, ended_unix_s=1.0)
    record.add(execution)
    assert record.note_shown({"r", "unknown"})
    assert not record.note_shown({"r"})
    assert record.complete(execution, mean_utilisation_percent=5.0, peak_memory_bytes=None)
    assert (record.all()[0].shown, record.all()[0].mean_utilisation_percent) == (True, 5.0)
    assert record.take_changed() == {0: record.all()[0]}


async def test_that_its_time_was_over_is_read_with_what_a_cell_said(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            limited = await client.execute("import time; time.sleep(600)", timeout_s=0.2)
            await client.result(limited)
            request = session_pb2.ReadEntriesRequest(session_id="s1", request_id=limited)
            entries = [each async for batch in client.stub.ReadEntries(request) for each in batch.entries]
            assert [each.cell_timed_out.timeout_s for each in entries if each.HasField("cell_timed_out")] == [0.2]
            other = await client.execute("1")
            await client.result(other)
            request.request_id = other
            entries = [each async for batch in client.stub.ReadEntries(request) for each in batch.entries]
            assert not any(each.HasField("cell_timed_out") for each in entries)
