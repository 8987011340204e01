"""What works in a plain ipykernel works in a session's."""

from pathlib import Path

import pytest

from nbgpu_protocol.v1 import session_pb2
from session_clients import connect, run_service

pytestmark = pytest.mark.asyncio


async def test_what_people_do_in_cells(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            assert (await client.run("!echo from a shell")).text() == "from a shell\r\n"  # by a terminal
            assert "per loop" in (await client.run("%timeit -n 2 -r 2 pass")).text()
            assert (await client.run("import asyncio; await asyncio.sleep(0); print('awaited')")).text() == "awaited\n"
            result = await client.run("i = get_ipython(); print(i.__class__.__name__, 'IPKernelApp' in i.config)")
            assert result.text() == "ZMQInteractiveShell True\n"
            result = await client.run(
                "import threading\nt = threading.Thread(target=lambda: print('thread')); t.start(); t.join()"
            )
            assert result.text() == "thread\n"
            result = await client.run("%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);")
            assert any("image/png" in m.content["data"] for m in result.messages if m.type == "display_data")
            result = await client.run(
                "from IPython.display import display, clear_output\n"
                "h = display('a', display_id=True); h.update('b'); clear_output(wait=True)"
            )
            types = [m.type for m in result.messages]
            assert {"display_data", "update_display_data", "clear_output"} <= set(types)
            assert (await client.run("import os; os.system('echo from C')")).reply["status"] == "ok"
            result = await client.run("pass", user_expressions={"two": "1 + 1", "bad": "1 / 0"})
            assert result.reply["user_expressions"]["two"]["data"]["text/plain"] == "2"
            assert result.reply["user_expressions"]["bad"]["ename"] == "ZeroDivisionError"
            result = await client.run("%history -n")
            assert "echo from a shell" in result.text()


async def test_errors_bring_their_exception(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            reply = (await client.run("raise ValueError('x')")).reply
            assert reply["nbgpu_exception_type"] == "builtins.ValueError"
            assert "nbgpu_exception" in reply
            reply = (await client.run("import threading; raise ValueError(threading.Lock())")).reply
            assert reply["nbgpu_exception_type"] == "builtins.ValueError"
            assert "nbgpu_exception" not in reply
            reply = (await client.run("raise ValueError('quiet')", silent=True)).reply
            assert reply["nbgpu_exception_type"] == "builtins.ValueError"
            reply = (await client.run("1 +")).reply
            assert reply["ename"] == "SyntaxError"
            assert reply["nbgpu_exception_type"] == "builtins.SyntaxError"
            assert "nbgpu_exception" not in (await client.run("pass")).reply


async def test_a_handler_that_a_cell_set_is_gone_with_the_cell(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            await client.run("import signal; signal.signal(signal.SIGINT, lambda *a: print('mine'));")
            request = await client.execute("import time; time.sleep(600)")
            assert await client.interrupt(request)
            assert (await client.result(request)).reply["ename"] == "KeyboardInterrupt"


async def test_a_client_that_sends_nonsense_beside_a_cell_gets_a_reply(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        await service.open()
        async with connect(service) as client:
            fields = {"code": "x = 1", "silent": False, "store_history": False, "user_expressions": {}}
            for values in (
                5,
                [1],
                {"outputs": 5},
                {"parcels": [{}]},
                {"tokens": {"x": "1"}, "places": [{"inline": 9}]},
            ):
                request = await client.send(
                    session_pb2.SHELL, "execute_request", fields, nbgpu={"execution_count": 1, "values": values}
                )
                reply = (await client.result(request)).reply
                assert (reply["status"], reply["nbgpu_values"]["bound"]) == ("error", False), values
            for nothing in ("x", [1], {"execution_count": "one"}, None):
                request = await client.send(session_pb2.SHELL, "execute_request", fields, nbgpu=nothing)
                assert (await client.result(request)).reply["status"] == "ok", nothing
