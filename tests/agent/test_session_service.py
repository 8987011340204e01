"""The Session service with real kernels: what a client gets, in which order, and what survives what."""

import asyncio
import json
import os
import random
import signal
import time
from pathlib import Path

import grpc
import psutil
import pytest

from nbgpu_agent.journal import Message
from nbgpu_protocol import ERROR_METADATA_KEY
from nbgpu_protocol.v1 import pool_pb2, session_pb2
from session_clients import DEADLINE_S, connect, run_service

pytestmark = pytest.mark.asyncio


async def wait_for(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)


async def test_streams_keep_their_order(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            code = (
                "import sys\n"
                "for i in range(50):\n"
                "    print('out', i); sys.stdout.flush(); print('err', i, file=sys.stderr); sys.stderr.flush()"
            )
            result = await client.run(code)
            assert result.reply["status"] == "ok"
            assert result.text() == "".join(f"out {i}\nerr {i}\n" for i in range(50))
            assert result.text("stderr") == "".join(f"err {i}\n" for i in range(50))


async def test_floods_arrive_whole(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            result = await client.run("for i in range(20_000): print('line', i, flush=i % 7 == 0)")
            assert result.text() == "".join(f"line {i}\n" for i in range(20_000))
            result = await client.run("print('x' * 20_000_000)")
            assert result.text() == "x" * 20_000_000 + "\n"
            result = await client.run(
                "from IPython.display import display\n"
                "for i in range(8): display({'text/plain': f'{i}' * 5_000_000}, raw=True)"
            )
            displays = [m.content["data"]["text/plain"] for m in result.messages if m.type == "display_data"]
            assert displays == [f"{i}" * 5_000_000 for i in range(8)]


async def test_bytes_that_are_no_text_arrive_replaced(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            await client.run("import os; os.write(1, b'ab\\xff\\xfecd\\n')")
            await client.until(lambda: "cd" in "".join(m.content.get("text", "") for m in client.received))
            text = "".join(m.content["text"] for m in client.received if m.type == "stream")
            assert text == "ab��cd\n"


async def test_the_notebook_numbers_the_cells(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            result = await client.run("6 * 7", count=12)
            assert [m.content["execution_count"] for m in result.messages if m.type == "execute_result"] == [12]
            assert result.reply["execution_count"] == 12
            result = await client.run("def f():\n    return 1 / 0\nf()", count=40)
            frames = "\n".join(result.reply["traceback"])
            assert "In[40]" in frames.replace("\x1b[39m\x1b[32m", "")
            result = await client.run("print(Out, _12, In[12], In[40][:5], len(In), _i40[:3])", count=41)
            assert result.text() == "{12: 42} 42 6 * 7 def f 42 def\n"
            await client.run("'back'", count=3)  # the notebook's kernel was restarted, and counts anew
            result = await client.run("print(_3, In[3], In[40][:5])", count=4)
            assert result.text() == "back 'back' def f\n"
            assert session.info().executions == 5


async def test_a_cell_costs_one_frame(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            await client.run("pass")
            before = client.frames
            for _ in range(50):
                await client.run("pass")
            # A busy machine may deliver what is nobody's hurry for itself.
            assert client.frames - before < 75


async def test_what_nobody_waits_for_comes_all_the_same(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            request = await client.execute("import time; time.sleep(600)", count=5)
            await client.begun(request)
            info = session.info()
            assert info.kernel_state.value == "executing"
            assert info.executing is not None
            assert (info.executing.request_id, info.executing.execution_count) == (request, 5)
            assert await client.interrupt(request)
            assert (await client.result(request)).reply["ename"] == "KeyboardInterrupt"
            assert session.info().executing is None
            assert session.info().kernel_state.value == "idle"


async def test_a_repeated_request_runs_once(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client, connect(service) as other:
            await client.run("n = 0")
            request = await client.execute("n += 1")
            await client.execute("n += 1", request_id=request)
            await other.execute("n += 1", request_id=request)
            await client.result(request)
            assert (await other.run("print(n)")).text() == "1\n"


async def test_two_clients_get_the_same_and_neither_aborts_the_other(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as one, connect(service) as two:
            failing = await one.execute("import time; time.sleep(0.2); raise ValueError('mine')")
            await one.begun(failing)
            waiting = await two.execute("print('two')")
            assert (await one.result(failing)).reply["ename"] == "ValueError"
            assert (await two.result(waiting)).reply["status"] == "ok"
            await one.result(waiting)
            await two.result(failing)
            assert [m.parts for m in one.received] == [m.parts for m in two.received]
            assert [m.number for m in one.received] == [m.number for m in two.received]


async def test_a_client_resumes_after_a_number(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            await client.run("for i in range(300): print(i, 'é' * i, flush=True)")
            all_parts = {m.number: m.parts for m in client.received}
        cut = sorted(all_parts)[len(all_parts) // 2]
        async with connect(service, after_number=cut) as resumed:
            assert resumed.connected is not None
            assert resumed.connected.last_number == session.journal.last_number
            assert resumed.connected.dropped_until == 0
            await resumed.until(lambda: resumed.last_number == session.journal.last_number)
            assert {m.number: m.parts for m in resumed.received} == {
                number: parts for number, parts in all_parts.items() if number > cut
            }
        async with connect(service, only_new=True) as fresh:
            assert (await fresh.run("print('new')")).text() == "new\n"
            assert {m.parent.get("msg_id") for m in fresh.received} == {fresh.received[0].parent["msg_id"]}


async def test_a_cut_while_a_cell_prints_loses_nothing(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        texts: list[str] = []
        position = 0
        async with connect(service) as client:
            request = await client.execute(
                "import time\nfor i in range(400):\n    print(i, flush=True); time.sleep(0.002)"
            )
            await client.begun(request)
        over = False
        while not over:
            async with connect(service, after_number=position) as client:
                await client.until(lambda client=client: client.received)
                received = list(client.received)
                position = received[-1].number
            texts += [m.content["text"] for m in received if m.type == "stream"]
            over = any(m.type == "status" and m.content["execution_state"] == "idle" for m in received)
        assert "".join(texts) == "".join(f"{i}\n" for i in range(400))


async def test_a_kernel_that_exits_says_so_and_a_restart_helps(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            await client.execute("print('last words', flush=True); import os, time; time.sleep(0.3); os._exit(3)")
            exit = (await client.ended()).exit
            assert (exit.exit_code, exit.HasField("signal"), exit.asked_for) == (3, False, False)
            assert [m.content["text"] for m in client.received if m.type == "stream"] == ["last words\n"]
            assert session.info().kernel_state.value == "dead"
            refused = await client.execute("1")
            entry = await client.event("request_refused")
            assert entry.request_refused.request_id == refused
            assert entry.request_refused.error.reason == pool_pb2.KERNEL_DIED
            info = (await client.restart()).session
            assert info.kernel_generation == 2
            assert info.kernel_state == pool_pb2.KERNEL_IDLE
            assert (await client.run("print('again')")).text() == "again\n"


async def test_a_kernel_killed_in_mid_cell(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            request = await client.execute("print('here', flush=True); import time; time.sleep(600)")
            waiting = await client.execute("print('never')")
            await client.until(lambda: any(m.type == "stream" for m in client.messages_of(request)))
            os.kill(session.processes()[0].pid, signal.SIGKILL)
            ended = await client.event("kernel_event")
            ended = (await client.ended()).exit if ended.kernel_event.kind == session_pb2.KernelEvent.STARTED else None
            assert ended is not None
            assert (ended.signal, ended.HasField("exit_code"), ended.asked_for) == (signal.SIGKILL, False, False)
            assert (await client.event("request_refused")).request_refused.request_id == waiting
            assert session.processes() == []


async def test_a_crash_leaves_its_stack(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            await client.execute("def crash_here():\n    import ctypes; ctypes.string_at(0)\ncrash_here()")
            exit = (await client.ended()).exit
            assert exit.signal == signal.SIGSEGV
            assert "Fatal Python error: Segmentation fault" in exit.stderr_tail
            assert "crash_here" in exit.stderr_tail
            assert len(exit.stderr_tail.encode()) <= 4096


async def test_close_ends_whatever_a_cell_left(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            code = (
                "import os, subprocess, sys, time\n"
                "p = [subprocess.Popen(['sleep', '600']).pid,\n"
                "     subprocess.Popen(['sleep', '600'], start_new_session=True).pid,\n"
                "     subprocess.Popen(['sh', '-c', 'trap \"\" TERM; sleep 600 & wait; sleep 600']).pid]\n"
                "if not (pid := os.fork()):\n"
                "    os.setsid()\n"
                "    if os.fork(): os._exit(0)\n"
                "    time.sleep(600)\n"
                "os.waitpid(pid, 0); print(p)"
            )
            result = await client.run(code)
            pids = json.loads(result.text())
            await wait_for(lambda: len(session.processes()) >= 6)  # the kernel, 3 + a sleep, the orphan
            processes = session.processes()
            assert set(pids) < {process.pid for process in processes}
            await session.close("done")
            await wait_for(lambda: not any(process.is_running() and _alive(process) for process in processes))
            assert (await client.event("session_closed")).session_closed.reason == "done"
        assert set(os.listdir(tmp_path)) <= {"kernels"}
    assert os.listdir(tmp_path) == []


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time; time.sleep(600)", "import asyncio; await asyncio.sleep(600)"]
)
async def test_no_interrupt_is_lost(tmp_path: Path, code: str) -> None:
    seed = random.Random(code)
    async with run_service(tmp_path) as service:
        session = await service.open()
        pid = session.processes()[0].pid
        async with connect(service) as client:
            for _ in range(100):
                request = await client.execute(code)
                await asyncio.sleep(seed.choice([0.0, seed.random() * 0.004]))  # not to wait: to hit all moments
                assert await client.interrupt(request)
                result = await client.result(request)
                assert result.reply["status"] == "error"
                assert result.reply["ename"] in ("KeyboardInterrupt", "CancelledError")
            assert (await client.run("print('alive')")).text() == "alive\n"
        assert session.processes()[0].pid == pid


@pytest.mark.parametrize("event", ["pre_execute", "pre_run_cell"])
async def test_an_interrupt_before_the_cell_is_one_of_the_cell(tmp_path: Path, event: str) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            wait = f"import time; get_ipython().events.register({event!r}, lambda *_: time.sleep(2))"
            await client.run(wait)
            for code in ("while True: pass", "import asyncio; await asyncio.sleep(600)"):
                request = await client.execute(code)
                assert await client.interrupt(request)
                result = await client.result(request)
                assert result.reply["ename"] in ("KeyboardInterrupt", "CancelledError")


SLOW_TRACEBACKS = """
names = {"shell": get_ipython()}
exec('''
import time
def slowed(name):
    inner = getattr(shell, name)
    def slow(*args, **kwargs):
        time.sleep(0.2)
        shown = inner(*args, **kwargs)
        time.sleep(0.2)
        return shown
    setattr(shell, name, slow)
slowed("showtraceback")
slowed("get_exception_only")
slowed("_showtraceback")
''', names)
"""
"""Not in the user's namespace: as slow as on a machine that has much else to do."""


@pytest.mark.parametrize("event", ["pre_execute", "pre_run_cell"])
async def test_an_interrupt_while_a_callbacks_traceback_is_shown_costs_no_reply(tmp_path: Path, event: str) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            await client.run(SLOW_TRACEBACKS)
            await client.run(f"import time; get_ipython().events.register({event!r}, lambda *_: time.sleep(2))")
            for code in ("while True: pass", "import asyncio; await asyncio.sleep(600)"):
                request = await client.execute(code)
                assert await client.interrupt(request)
                result = await client.result(request)
                assert result.reply["ename"] in ("KeyboardInterrupt", "CancelledError")
            assert (await client.run("print('alive')")).text() == "alive\n"


async def test_interrupts_of_cells_that_end_at_once_cost_no_reply(tmp_path: Path) -> None:
    seed = random.Random(2)
    async with run_service(tmp_path) as service:
        session = await service.open()
        pid = session.processes()[0].pid
        async with connect(service) as client:
            for number in range(150):
                request = await client.execute(["pass", "1/0", "import asyncio; await asyncio.sleep(0)"][number % 3])
                await asyncio.sleep(seed.random() * 0.003)
                await client.interrupt(request)
                assert (await client.result(request)).reply["status"] in ("ok", "error")
            assert await client.interrupt(request) is False
            assert await client.interrupt() is False
            assert (await client.run("print('alive')")).text() == "alive\n"
        assert session.processes()[0].pid == pid


async def test_an_execution_that_waits_is_withdrawn(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            running = await client.execute("import time; time.sleep(600)")
            waiting = await client.execute("print('never')", count=8)
            await client.begun(running)
            assert await client.interrupt(waiting)
            result = await client.result(waiting)
            assert result.reply["ename"] == "KeyboardInterrupt"
            assert result.reply["execution_count"] == 8
            assert result.text() == ""
            assert await client.interrupt()
            assert (await client.result(running)).reply["ename"] == "KeyboardInterrupt"


async def test_an_interrupt_reaches_the_children_of_the_cell(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            request = await client.execute("import subprocess; subprocess.run(['sleep', '600'])")
            await wait_for(lambda: len(session.processes()) == 2)
            assert await client.interrupt(request)
            assert (await client.result(request)).reply["ename"] == "KeyboardInterrupt"
            await wait_for(lambda: len(session.processes()) == 1)


async def test_escalation_ends_the_kernel_and_keeps_the_session(tmp_path: Path) -> None:
    stubborn = (
        "import time\n"
        "while True:\n"
        "    try: print('on', flush=True); time.sleep(600)\n"
        "    except KeyboardInterrupt: print('no', flush=True)"
    )
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            request = await client.execute(stubborn)
            await client.until(lambda: any(m.type == "stream" for m in client.messages_of(request)))
            assert await client.interrupt(request)
            await client.until(lambda: any("no\n" in m.content.get("text", "") for m in client.messages_of(request)))
            assert await client.interrupt(request, escalate=True)
            assert (await client.ended()).exit.asked_for is True
            assert session.info().phase.value == "ready"
            await client.restart()
            assert (await client.run("print('fresh')")).text() == "fresh\n"


async def test_stacks_of_a_kernel_that_computes(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            request = await client.execute("def spin_here():\n    while True: pass\nspin_here()")
            await client.begun(request)
            ask = session_pb2.StacksRequest(session_id="s1")

            async def spinning() -> bool:
                return "spin_here" in (await client.stub.Stacks(ask, timeout=DEADLINE_S)).text

            while not await spinning():
                pass
            assert await client.interrupt(request)
            await client.result(request)
            assert (await client.run("print(1)")).text() == "1\n"


async def test_input_and_comms(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            request = await client.execute("print('hello', input('name? '))", allow_stdin=True)
            ask = await client.until(lambda: [m for m in client.received if m.type == "input_request"])
            assert ask[0].content == {"prompt": "name? ", "password": False}
            assert ask[0].channel == session_pb2.STDIN
            await client.send(session_pb2.STDIN, "input_reply", {"status": "ok", "value": "Ada"})
            assert "hello Ada\n" in (await client.result(request)).text()
            await client.run(
                "from comm import get_comm_manager\n"
                "def opened(comm, message):\n"
                "    comm.on_msg(lambda m: comm.send({'twice': m['content']['data']['n'] * 2}))\n"
                "get_comm_manager().register_target('test', opened)"
            )
            await client.send(session_pb2.SHELL, "comm_open", {"comm_id": "c1", "target_name": "test", "data": {}})
            await client.send(session_pb2.SHELL, "comm_msg", {"comm_id": "c1", "data": {"n": 21}})
            answer = await client.until(lambda: [m for m in client.received if m.type == "comm_msg"])
            assert answer[0].content["data"] == {"twice": 42}


async def test_the_log_holds_what_is_written_outside_of_cells(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            await client.run("import subprocess; subprocess.run(['sh', '-c', 'echo from a child'])")
            await wait_for(lambda: "from a child" in session.kernels.log_tail(0))
            text = (await client.stub.ReadLog(session_pb2.ReadLogRequest(session_id="s1", tail_bytes=6))).text
            assert text == "child\n"


async def test_a_client_that_loses_output_learns_of_the_end_all_the_same(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open(journal_bytes=1 << 16)
        async with connect(service) as client:
            for _ in range(5):  # more than a slow client is kept, at once: it cannot keep up with all of it
                await client.run("import os\nfor i in range(40): os.write(1, b'y' * 500_000)")
                await client.run("for i in range(40): print('y' * 500_000, flush=True)")


async def test_a_slow_client_finds_a_gap_and_the_session_goes_on(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open(journal_bytes=1 << 20)
        async with connect(service) as client:
            await client.run("for i in range(6): print('y' * 1_000_000, flush=True)")
            first_held = session.journal.dropped_until + 1
            assert first_held > 1
        async with connect(service) as late:
            assert late.connected is not None
            assert late.connected.dropped_until == first_held - 1
            await late.until(lambda: late.last_number == session.journal.last_number)
            assert all(m.number >= first_held for m in late.received)
            assert not any(event.WhichOneof("body") == "gap" for event in late.events)  # it was told when it connected
            assert (await late.run("print('on')")).text() == "on\n"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (session_pb2.ClientFrame(acknowledged=1), pool_pb2.INVALID_REQUEST),
        (session_pb2.ClientFrame(connect=session_pb2.ConnectRequest(session_id="none")), pool_pb2.NO_SUCH_SESSION),
    ],
)
async def test_a_connection_that_makes_no_sense_is_refused(
    tmp_path: Path, frame: session_pb2.ClientFrame, reason: int
) -> None:
    async with run_service(tmp_path) as service, grpc.aio.insecure_channel(service.target) as channel:
        call = channel.stream_stream(
            "/nbgpu.v1.Session/Connect",
            request_serializer=session_pb2.ClientFrame.SerializeToString,
            response_deserializer=session_pb2.AgentFrame.FromString,
        )()
        await call.write(frame)
        assert await call.code() is not grpc.StatusCode.OK
        metadata = dict(await call.trailing_metadata())
        assert pool_pb2.Error.FromString(metadata[ERROR_METADATA_KEY]).reason == reason


@pytest.mark.parametrize(
    "fragment",
    [
        session_pb2.Fragment(channel=session_pb2.SHELL, part_sizes=[5, 2, 2, 2], payload=b"{}{}{}{}", last=True),
        session_pb2.Fragment(channel=session_pb2.SHELL, part_sizes=[2, 2, 2, 2], payload=b"{]{}{}{}", last=True),
        session_pb2.Fragment(channel=session_pb2.IOPUB, part_sizes=[2, 2, 2, 2], payload=b"{}{}{}{}", last=True),
        session_pb2.Fragment(channel=session_pb2.SHELL, part_sizes=[2], payload=b"{}", last=True),
    ],
)
async def test_what_is_no_message_ends_the_connection_and_nothing_else(
    tmp_path: Path, fragment: session_pb2.Fragment
) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as good, connect(service) as bad:
            await bad.call.write(session_pb2.ClientFrame(fragment=fragment))
            assert await asyncio.wait_for(bad.call.code(), DEADLINE_S) is grpc.StatusCode.INVALID_ARGUMENT
            assert (await good.run("print('on')")).text() == "on\n"


async def test_the_journal_holds_parts_as_the_kernel_sent_them(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open()
        async with connect(service) as client:
            result = await client.run("print('x')")
            reader = session.journal.reader(0)
            batch = await reader.read()
            reader.close()
            assert batch is not None
            held = {entry.number: entry.body for entry in batch.entries}
            for message in result.messages:
                body = held[message.number]
                assert isinstance(body, Message)
                assert [bytes(part) for part in body.parts] == message.parts
