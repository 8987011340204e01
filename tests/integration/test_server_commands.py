"""A Jupyter server, a notebook's kernel and an agent: what a page has done reaches the magics, and the other way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from agent_lab import end_agent, wait_until_gone
from agent_processes import until
from jupyter_servers import JupyterServer, run_jupyter_server
from nbgpu_protocol.discovery import read_record

DEADLINE_S = 60


class Api:
    """Calls what the server answers to."""

    def __init__(self, server: JupyterServer) -> None:
        self._server = server

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        request = urllib.request.Request(
            self._server.url + path,
            method=method,
            data=None if body is None and method != "POST" else json.dumps(body or {}).encode(),
            headers={"Authorization": f"token {self._server.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                status, content = refusal.code, refusal.read()
        return status, json.loads(content) if content else None

    def nbgpu(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.call(method, f"nbgpu/api/{path}", body)
        assert status < 300, answer
        return answer

    def pool(self) -> Any:
        return self.nbgpu("GET", "state")["pools"][0]

    def session(self, session_id: str) -> Any:
        return next((each for each in self.pool()["sessions"] if each["id"] == session_id), None)

    def ready(self, request_id: str, notebook_id: str) -> Any:
        """Waits for a request's session, and returns it."""

        def look() -> Any:
            pool = self.pool()
            for request in pool["requests"]:
                if request["request_id"] == request_id:
                    assert request["problem"] is None, request
                    return None
            mine = [each for each in pool["sessions"] if each["notebook_id"] == notebook_id]
            return max(mine, key=lambda each: each["attached_unix_s"])

        return until(look)

    def open(self, notebook_id: str, spec: str, **options: Any) -> Any:
        body = {"spec": spec, "notebook_id": notebook_id, "notebook_name": "digits.ipynb", **options}
        return self.ready(self.nbgpu("POST", "sessions", body)["request_id"], notebook_id)


class Notebook:
    """A notebook that is open in the server, and its kernel."""

    def __init__(self, api: Api, server: JupyterServer, runtime_folder: Path, name: str) -> None:
        folder = server.work_folder / name
        folder.mkdir()
        notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (folder / "digits.ipynb").write_text(json.dumps(notebook))
        body = {
            "path": f"{name}/digits.ipynb",
            "type": "notebook",
            "name": "digits.ipynb",
            "kernel": {"name": "python3"},
        }
        status, session = api.call("POST", "api/sessions", body)
        assert status == 201
        self.folder = folder
        self.kernel_id = session["kernel"]["id"]
        self._client = BlockingKernelClient(connection_file=str(runtime_folder / f"kernel-{self.kernel_id}.json"))
        self._client.load_connection_file()
        # Else a heart that skips a beat for a second, as it does while the kernel imports, is a kernel that has died.
        self._client.hb_channel.time_to_dead = DEADLINE_S
        self._client.start_channels()
        self._client.wait_for_ready(timeout=DEADLINE_S)
        self.run("%load_ext nbgpu")

    def run(self, code: str) -> str:
        """Runs a cell and returns what it printed; fails if it raises."""
        return self.run_as(code)[1]

    def run_as(self, code: str) -> tuple[str, str]:
        """Runs a cell and returns the id of its request, and what it printed."""
        printed: list[str] = []

        def take(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = self._client.execute_interactive(code, output_hook=take, timeout=DEADLINE_S)
        assert reply["content"]["status"] == "ok", reply["content"]
        return reply["parent_header"]["msg_id"], "".join(printed)

    def close(self) -> None:
        self._client.stop_channels()


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[JupyterServer, Api, Path]]:
    # Short: a Unix socket below it has 107 bytes for its path.
    folder = Path(tempfile.mkdtemp(prefix="nb-"))
    environ = {"NBGPU_SIMULATE": "H100x4,A10x2", "NBGPU_PRICES": "H100=3600", "NBGPU_CURRENCY": "EUR"}
    enable = '--ServerApp.jpserver_extensions={"nbgpu.server": True}'
    try:
        with run_jupyter_server(folder, environ, arguments=[enable]) as server:
            try:
                yield server, Api(server), folder / "runtime"
            finally:
                record = read_record(server.agent_folder)
                asyncio.run(end_agent(server.agent_folder))
                if record is not None:
                    wait_until_gone(record.pid)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def api(place: tuple[JupyterServer, Api, Path]) -> Iterator[Api]:
    api = place[1]
    yield api
    for request in api.pool()["requests"]:
        api.nbgpu("DELETE", f"requests/{request['request_id']}")
    for session in api.pool()["sessions"]:
        api.nbgpu("DELETE", f"sessions/{session['id']}")
    until(lambda: not api.pool()["sessions"])


@pytest.fixture
def notebook(place: tuple[JupyterServer, Api, Path], request: pytest.FixtureRequest) -> Iterator[Notebook]:
    server, api, runtime_folder = place
    notebook = Notebook(api, server, runtime_folder, request.node.name)
    yield notebook
    notebook.close()
    api.call("DELETE", f"api/kernels/{notebook.kernel_id}")


def test_a_session_that_the_page_opened_is_used_by_the_cells(api: Api, notebook: Notebook) -> None:
    session = api.open(notebook.kernel_id, "H100x2")
    assert session["phase"] == "ready"
    assert session["spec_text"] == "H100x2"
    assert (session["accelerator_seconds"] > 0, session["cost_per_hour"], session["currency"]) == (True, 7200, "EUR")

    request_id, printed = notebook.run_as("%%gpu\nimport os, sys\nprint(os.getcwd(), sys.executable, sep='|')\nx = 41")

    # The Jupyter server knows where the notebook lies and which Python its kernel runs, and asks no kernel.
    assert printed.strip().split("|") == [os.path.realpath(notebook.folder), sys.executable]
    assert [each["id"] for each in api.pool()["sessions"]] == [session["id"]]
    [execution] = until(lambda: api.session(session["id"])["last_executions"])
    assert execution["request_id"] == request_id
    assert (execution["accelerators"], execution["simulated"], execution["succeeded"]) == ("H100 ×2", True, True)
    ran_s = execution["ended_unix_s"] - execution["started_unix_s"]
    assert execution["cost"] == pytest.approx(2 * ran_s, rel=1e-3)


def test_a_cell_that_raises_is_told_from_one_that_did_not(api: Api, notebook: Notebook) -> None:
    session = api.open(notebook.kernel_id, "H100")
    notebook.run("%%gpu\nimport time\ndeadline = time.monotonic() + 2.5\nwhile time.monotonic() < deadline: pass")
    notebook.run("try:\n    get_ipython().run_cell_magic('gpu', '', '1/0')\nexcept ZeroDivisionError: pass")
    busy, raised = until(
        lambda: (
            (ended := api.session(session["id"])["last_executions"])
            and len(ended) == 2
            and ended[0]["mean_utilisation_percent"] is not None
            and ended
        )
    )
    assert (busy["succeeded"], raised["succeeded"]) == (True, False)
    assert 0 < busy["mean_utilisation_percent"] <= 100
    assert busy["peak_memory_bytes"] > 10 << 20


def test_the_page_chooses_among_the_sessions_of_a_notebook(api: Api, notebook: Notebook) -> None:
    notebook.run("%gpu attach H100x2")
    notebook.run("%%gpu --no-sync\nwhere = 'H100'")
    [first] = api.pool()["sessions"]
    assert first["notebook_id"] == notebook.kernel_id

    second = api.open(notebook.kernel_id, "A10", new=True)
    assert "A10" in until(lambda: (text := notebook.run("%gpu status")) and "A10" in text and text)
    notebook.run("%%gpu --no-sync\nassert 'where' not in globals()")

    api.nbgpu("POST", f"sessions/{first['id']}/attach", {"notebook_id": notebook.kernel_id})
    until(lambda: "H100" in notebook.run("%gpu status"))
    assert notebook.run("%%gpu --no-sync\nprint(where)") == "H100\n"
    assert api.session(first["id"])["attached_unix_s"] > api.session(second["id"])["attached_unix_s"]


def test_what_the_page_detaches_goes_on_without_the_notebook(api: Api, notebook: Notebook) -> None:
    session = api.open(notebook.kernel_id, "H100")
    notebook.run("%%gpu --no-sync\nkept = 7")
    api.nbgpu("POST", f"sessions/{session['id']}/detach")
    until(lambda: "not attached" in notebook.run("%gpu status"))
    assert api.session(session["id"])["notebook_id"] is None

    api.nbgpu("POST", f"sessions/{session['id']}/attach", {"notebook_id": notebook.kernel_id})
    assert notebook.run("%%gpu --no-sync\nprint(kept)") == "7\n"

    notebook.run("%gpu detach")
    until(lambda: api.session(session["id"])["notebook_id"] is None)
    notebook.run(f"%gpu attach --session {session['id']}")
    assert api.session(session["id"])["notebook_id"] == notebook.kernel_id


def test_a_detached_cell_that_runs_is_shown_to_its_end(api: Api, notebook: Notebook) -> None:
    session = api.open(notebook.kernel_id, "H100")
    notebook.run("%%gpu --no-sync\nimport time, pathlib")
    flag = notebook.folder / "detached"
    code = "%%gpu --no-sync\nwhile not pathlib.Path('detached').exists(): time.sleep(0.01)\nprint('to its end')"
    message_id = notebook._client.execute(code)
    until(lambda: api.session(session["id"])["executing"])
    api.nbgpu("POST", f"sessions/{session['id']}/detach")
    until(lambda: api.session(session["id"])["notebook_id"] is None)
    flag.touch()
    printed = []
    while True:
        message = notebook._client.get_iopub_msg(timeout=DEADLINE_S)
        if message["parent_header"].get("msg_id") != message_id:
            continue
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            break
    assert printed == ["to its end\n"]
    assert "not attached" in notebook.run("%gpu status")


def test_a_request_waits_in_the_open_and_can_be_withdrawn(api: Api, notebook: Notebook) -> None:
    held = api.open(notebook.kernel_id, "H100x3")
    request_id = api.nbgpu("POST", "sessions", {"spec": "H100x2", "notebook_id": "other"})["request_id"]
    [waiting] = until(lambda: [each for each in api.pool()["requests"] if each["phase"] == "queued"])
    assert (waiting["queue_position"], waiting["queue_length"]) == (1, 1)
    assert waiting["detail"] == "waiting for 1 of 2 H100"
    [queued] = until(lambda: [each for each in api.pool()["sessions"] if each["phase"] == "queued"])
    assert (queued["notebook_id"], queued["queue_position"], queued["accelerators"]) == ("other", 1, [])

    api.nbgpu("DELETE", f"requests/{request_id}")

    assert api.pool()["requests"] == []
    until(lambda: [each["id"] for each in api.pool()["sessions"]] == [held["id"]])
    assert until(lambda: api.pool()["offers"][0])["queued"] == 0


def test_a_request_of_a_magic_can_be_withdrawn_by_its_session(api: Api, notebook: Notebook) -> None:
    held = api.open("somebody", "H100x4")
    code = "try:\n    get_ipython().run_line_magic('gpu', 'attach H100')\nexcept Exception as error: print(error)"
    message_id = notebook._client.execute(code)
    [queued] = until(lambda: [each for each in api.pool()["sessions"] if each["phase"] == "queued"])
    assert queued["notebook_id"] == notebook.kernel_id
    api.nbgpu("DELETE", f"sessions/{queued['id']}")
    until(lambda: [each["id"] for each in api.pool()["sessions"]] == [held["id"]])
    reply = notebook._client.get_shell_msg(timeout=DEADLINE_S)
    assert reply["parent_header"]["msg_id"] == message_id


def test_a_request_that_fails_says_why_until_it_is_dismissed(api: Api) -> None:
    request_id = api.nbgpu("POST", "sessions", {"spec": "H100x64", "notebook_id": "n"})["request_id"]
    [failed] = until(lambda: [each for each in api.pool()["requests"] if each["problem"]])
    assert failed["problem"]["message"] == "64 H100 asked, this node has 4 H100"
    assert (failed["phase"], failed["request_id"]) == (None, request_id)
    api.nbgpu("DELETE", f"requests/{request_id}")
    assert api.pool()["requests"] == []


def test_interrupt_restart_renew_read_and_close(api: Api, notebook: Notebook) -> None:
    session = api.open(notebook.kernel_id, "H100")
    path = f"sessions/{session['id']}"
    assert api.nbgpu("POST", f"{path}/interrupt") == {"interrupted": False}
    notebook.run("%%gpu --no-sync\nimport os\n_ = os.write(2, b'')\nthere = 1")
    assert set(api.nbgpu("GET", f"{path}/logs")) == {"text"}
    assert "the kernel runs no code of yours now" in api.nbgpu("GET", f"{path}/stacks")["text"]
    assert api.nbgpu("POST", f"{path}/renew") == {"expires_unix_s": None}
    api.nbgpu("POST", f"{path}/restart")
    until(lambda: api.session(session["id"])["kernel_generation"] == 2)
    notebook.run("%%gpu --no-sync\nassert 'there' not in globals()")
    api.nbgpu("DELETE", path)
    until(lambda: api.session(session["id"]) is None)
    status, refusal = api.call("POST", f"nbgpu/api/{path}/interrupt")
    assert (status, refusal["reason"]) == (404, "no_such_session")


def test_an_agent_that_is_killed_under_an_open_page_is_said_and_the_next_has_its_session(
    place: tuple[JupyterServer, Api, Path], api: Api
) -> None:
    server = place[0]
    session = api.open("somebody", "H100")
    url = f"{server.url.replace('http', 'ws', 1)}nbgpu/api/events?samples_s=60"
    request = HTTPRequest(url, headers={"Authorization": f"token {server.token}"})

    async def watch() -> None:
        page = await websocket_connect(request)
        with contextlib.closing(page):
            await follow(page)

    async def follow(page: Any) -> None:
        async def until_message(condition: Callable[[Any], bool]) -> Any:
            while (text := await asyncio.wait_for(page.read_message(), DEADLINE_S)) is not None:
                if condition(message := json.loads(text)):
                    return message
            raise AssertionError("the server closed the connection")

        def is_link(link: str) -> Callable[[Any], bool]:
            return lambda message: message["kind"] == "state" and message["pools"][0]["link"] == link

        before = (await until_message(is_link("connected")))["pools"][0]
        assert [each["id"] for each in before["sessions"]] == [session["id"]]
        await until_message(lambda message: message["kind"] == "samples")
        record = read_record(server.agent_folder)
        assert record is not None
        os.kill(record.pid, signal.SIGKILL)
        lost = (await until_message(is_link("unreachable")))["pools"][0]
        assert lost["problem"]["message"]
        assert lost["sessions"] == []
        assert await asyncio.to_thread(api.nbgpu, "POST", "retry") is None
        after = (await until_message(is_link("connected")))["pools"][0]
        assert after["node"]["id"] != before["node"]["id"]
        await until_message(
            lambda message: (
                message["kind"] == "state"
                and [each["id"] for each in message["pools"][0]["sessions"]] == [session["id"]]
            )
        )
        await until_message(lambda message: message["kind"] == "samples")

    asyncio.run(watch())


def test_prices_are_told_with_the_offers(api: Api) -> None:
    prices = {offer["type"]: (offer["price_per_hour"], offer["currency"]) for offer in api.pool()["offers"]}
    assert prices == {"H100": (3600, "EUR"), "A10": (None, None), "CPU": (None, None)}
