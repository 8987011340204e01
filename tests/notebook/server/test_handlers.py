"""A real Jupyter server with the extension: what it answers, and to whom."""

import asyncio
import json
import re
import socket
from importlib import resources

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from fakes import pool as fake
from jupyter_servers import run_jupyter_server
from nbgpu.server import routes
from nbgpu.server.handlers import NbgpuHandler
from nbgpu_protocol.v1 import pool_pb2

DEADLINE_S = 30.0
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def pool():
    with fake.run_fake_pool() as pool:
        pool.publish(pool_pb2.PoolState(offers=[fake.offer("H100", 8, 8)]))
        yield pool


@pytest.fixture(scope="module")
def server(pool, tmp_path_factory):
    environ = {"NBGPU_AGENT_ADDRESS": pool.address, "NBGPU_AGENT_TOKEN": pool.token}
    enable = '--ServerApp.jpserver_extensions={"nbgpu.server": True}'
    with run_jupyter_server(tmp_path_factory.mktemp("server"), environ, arguments=[enable]) as server:
        yield server


def request(server, path, *, token=True, websocket=False, **options):
    url = server.url + path
    if websocket:
        url = url.replace("http", "ws", 1)
    headers = {**({"Authorization": f"token {server.token}"} if token else {}), **options.pop("headers", {})}
    return HTTPRequest(url, headers=headers, request_timeout=DEADLINE_S, **options)


async def connect(server, query="", **options):
    connecting = websocket_connect(request(server, f"nbgpu/api/events{query}", websocket=True, **options))
    return await asyncio.wait_for(connecting, DEADLINE_S)


async def call(server, method, path, body=None):
    """Returns the status and the JSON of an answer, also of one that refuses."""
    content = json.dumps(body) if body is not None else ("" if method == "POST" else None)
    wanted = request(server, f"nbgpu/api/{path}", method=method, body=content)
    response = await AsyncHTTPClient().fetch(wanted, raise_error=False)
    return response.code, json.loads(response.body) if response.body else None


async def read_message(page, condition):
    async def read():
        while (text := await page.read_message()) is not None:
            message = json.loads(text)
            if condition(message):
                return message
        raise AssertionError("the server closed the connection")

    return await asyncio.wait_for(read(), DEADLINE_S)


def connected(message):
    return message["kind"] == "state" and message["pools"][0]["link"] == "connected"


@pytest.mark.asyncio
async def test_events_bring_the_state_its_changes_and_samples(server, pool):
    pool.read([pool_pb2.Sample(accelerator_id="a", time_unix_s=1.0, utilisation_percent=12.5)])
    page = await connect(server, "?samples_s=60")
    state = await read_message(page, connected)
    assert state["pools"][0]["offers"][0]["type"] == "H100"
    recorded = await read_message(page, lambda message: message["kind"] == "samples")
    assert recorded["samples"][0]["utilisation_percent"] == 12.5

    pool.publish(pool_pb2.PoolState(offers=[fake.offer("H100", 8, 3)]))

    await read_message(page, lambda m: connected(m) and m["pools"][0]["offers"][0]["free"] == 3)
    page.close()
    await asyncio.to_thread(pool.wait_for_watching, lambda count: count == 0)
    await asyncio.to_thread(pool.wait_for_sampling, lambda count: count == 0)


@pytest.mark.asyncio
async def test_a_page_may_pause_its_samples_and_what_else_it_says_is_passed_over(server, pool):
    page = await connect(server)
    await read_message(page, connected)
    for nonsense in ("{", "[]", '"pause"', "[" * 2000, '{"kind": 3}', b"\xff\xfe", "x" * 100_000):
        await page.write_message(nonsense, binary=isinstance(nonsense, bytes))
    await page.write_message('{"kind": "pause"}')
    await page.write_message('{"kind": "resume"}')
    await asyncio.to_thread(pool.wait_for_sampling, lambda count: count == 1)
    coming = asyncio.create_task(read_message(page, lambda message: message["kind"] == "samples"))
    number = 2.0
    while not coming.done():  # the wish and the samples travel on two ways: one of these comes after
        pool.read([pool_pb2.Sample(accelerator_id="a", time_unix_s=(number := number + 1))])
        await asyncio.sleep(0.01)
    await coming
    page.close()
    await asyncio.to_thread(pool.wait_for_watching, lambda count: count == 0)


@pytest.mark.asyncio
async def test_the_state_can_be_asked_for(server):
    status, state = await call(server, "GET", "state")
    assert status == 200
    assert connected(state)
    assert state["pools"][0]["offers"][0]["type"] == "H100"


@pytest.mark.asyncio
async def test_recorded_samples_can_be_asked_for(server, pool):
    pool.read([pool_pb2.Sample(accelerator_id="a", time_unix_s=1000.0), pool_pb2.Sample(accelerator_id="b")])
    status, answer = await call(server, "GET", f"samples?pool={pool.address}")
    assert status == 200
    assert {each["accelerator_id"] for each in answer["samples"]} == {"a", "b"}
    assert (await call(server, "GET", "samples?history_s=0"))[1]["samples"] == []
    thinned = (await call(server, "GET", "samples?step_s=3600"))[1]["samples"]
    assert sorted(each["accelerator_id"] for each in thinned) == ["a", "b"]
    assert len(thinned) < len(answer["samples"])
    status, refusal = await call(server, "GET", "samples?pool=elsewhere")
    assert (status, refusal["reason"]) == (404, "no_such_pool")


@pytest.mark.asyncio
async def test_retry_is_accepted(server):
    assert await call(server, "POST", "retry") == (204, None)
    status, refusal = await call(server, "POST", "retry", {"pool": "elsewhere"})
    assert (status, refusal["message"]) == (404, "there is no pool 'elsewhere'")


@pytest.mark.parametrize("settle_s", ["-1", "nan", "soon", "1e9"])
@pytest.mark.asyncio
async def test_a_senseless_number_is_refused(server, settle_s):
    for path in ("state?settle_s=", "samples?history_s=", "samples?step_s="):
        status, refusal = await call(server, "GET", path + settle_s)
        assert status == 400
        assert settle_s in refusal["message"]
    with pytest.raises(HTTPClientError) as refused:
        await connect(server, f"?samples_s={settle_s}")
    assert refused.value.code == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("sessions", {"spec": 3}),
        ("sessions", {"new": "yes"}),
        ("sessions", {"spec": "H100 x banana"}),
        ("sessions", {"notebook_name": "x" * 5000}),
        ("sessions", {"pool": "elsewhere", "spec": "H100"}),
        ("sessions", ["H100"]),
        ("pools", {"name": "lab", "address": "gpu.example:7443", "token": "t"}),
        ("pools", {"name": "a/b", "address": "127.0.0.1:1", "token": "t"}),
        ("pools", {"name": "lab", "address": "127.0.0.1:1", "token": "tökén"}),
        ("pools", {"name": "this machine", "address": "127.0.0.1:1", "token": "t"}),
        ("pools", {}),
        ("sessions/none/attach", {}),
        ("notebooks/none/saved", {"cell_ids": ["c1"]}),
        ("notebooks/none/saved", {"cell_ids": "c1"}),
        ("notebooks/none/saved", {"cell_ids": ["c1", 2]}),
        ("notebooks/none/saved", {"cell_ids": ["c"] * 1001}),
    ],
)
@pytest.mark.asyncio
async def test_a_body_that_makes_no_sense_is_refused_in_words(server, path, body):
    status, refusal = await call(server, "POST", path, body)
    assert status in (400, 404)
    assert refusal["message"]
    assert refusal["reason"]
    assert "Traceback" not in json.dumps(refusal)


@pytest.mark.parametrize("content", ["{", "\ud83d".encode("utf-8", "surrogatepass"), '{"spec": NaN}', "x" * 100_000])
@pytest.mark.asyncio
async def test_a_body_that_is_no_json_is_refused(server, content):
    wanted = request(server, "nbgpu/api/sessions", method="POST", body=content)
    response = await AsyncHTTPClient().fetch(wanted, raise_error=False)
    assert response.code in (400, 413)
    assert json.loads(response.body)["reason"] == "invalid_request"


@pytest.mark.asyncio
async def test_output_is_replayed_to_notebooks_of_this_server_only(server):
    with pytest.raises(HTTPClientError) as refused:
        await websocket_connect(request(server, "nbgpu/api/notebooks/none/replay", websocket=True))
    assert refused.value.code == 404
    with pytest.raises(HTTPClientError) as refused:
        await websocket_connect(request(server, "nbgpu/api/notebooks/none/replay", websocket=True, token=False))
    assert refused.value.code == 403


@pytest.mark.parametrize("command", ["attach", "detach", "interrupt", "restart", "renew"])
@pytest.mark.asyncio
async def test_a_session_that_is_not_there_is_said(server, command):
    status, refusal = await call(server, "POST", f"sessions/none/{command}", {"notebook_id": "n"})
    assert (status, refusal["reason"]) == (404, "no_such_session")
    assert refusal["message"] == "no session 'none' in any pool that is connected"


# -- Pools


@pytest.mark.asyncio
async def test_a_pool_is_tried_added_shown_and_removed(server):
    with fake.run_fake_pool() as other:
        other.publish(pool_pb2.PoolState(offers=[fake.offer("B200", 2, 2)]))
        wanted = {"name": HOSTILE, "address": other.address, "token": other.token}
        status, tried = await call(server, "POST", "pools/test", wanted)
        assert (status, tried["ok"]) == (200, True)
        assert tried["latency_ms"] > 0

        page = await connect(server)
        assert (await call(server, "POST", "pools", wanted))[0] == 204
        state = await read_message(
            page, lambda m: m["kind"] == "state" and len(m["pools"]) == 2 and m["pools"][1]["link"] == "connected"
        )
        assert state["pools"][1]["name"] == HOSTILE  # as text, in JSON
        assert state["pools"][1]["offers"][0]["type"] == "B200"
        assert other.token not in json.dumps(state)

        status, listed = await call(server, "GET", "pools")
        assert [each["removable"] for each in listed["pools"]] == [False, True]
        assert other.token not in json.dumps(listed)

        quoted = HOSTILE.replace("<", "%3C").replace(">", "%3E").replace(" ", "%20")
        assert (await call(server, "DELETE", f"pools/{quoted}"))[0] == 204
        await read_message(page, lambda m: m["kind"] == "state" and len(m["pools"]) == 1)
        status, refusal = await call(server, "DELETE", f"pools/{quoted}")
        assert (status, refusal["reason"]) == (404, "no_such_pool")
        page.close()
        await asyncio.to_thread(other.wait_for_watching, lambda count: count == 0)


@pytest.mark.asyncio
async def test_the_default_pool_stays(server, pool):
    status, refusal = await call(server, "DELETE", f"pools/{pool.address}")
    assert (status, refusal["reason"]) == (409, "not_removable")
    body = {"name": pool.address, "address": pool.address, "token": pool.token}
    assert (await call(server, "POST", "pools", body))[0] == 400


@pytest.mark.asyncio
async def test_trying_a_pool_says_what_is_wrong_with_it(server):
    async def tried(address, token="t"):
        status, answer = await call(server, "POST", "pools/test", {"name": "x", "address": address, "token": token})
        assert (status, answer["ok"]) == (200, False)
        return answer["message"]

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert "does not answer" in await tried(f"127.0.0.1:{taken.getsockname()[1]}")
    assert "neither a Unix socket nor on loopback" in await tried("gpu.example:7443")
    with fake.run_fake_pool() as other:
        assert "token" in await tried(other.address, "wrong")
        other.protocol_version = 999
        assert "protocol 999" in await tried(other.address, other.token)


# -- Who is answered


@pytest.mark.asyncio
async def test_without_a_token_the_websocket_is_refused(server, pool):
    begun = pool.watches_begun
    with pytest.raises(HTTPClientError) as refused:
        await connect(server, token=False)
    assert refused.value.code == 403
    assert pool.watches_begun == begun


OPERATIONS = [
    (method.upper(), re.sub(r"\{\w+\}", "x", path))
    for path, handler in routes.ROUTES.items()
    for method in handler.OPERATIONS
    if path != "/events"
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.asyncio
async def test_without_a_token_nothing_is_answered(server, pool, method, path):
    begun = pool.watches_begun
    body = "{}" if method == "POST" else None
    url = request(server, f"nbgpu/api{path}", token=False, method=method, body=body, follow_redirects=False)
    with pytest.raises(HTTPClientError) as refused:
        await AsyncHTTPClient().fetch(url)
    assert refused.value.code == 403
    assert pool.watches_begun == begun


async def cookies_of(server):
    """Returns what the browser of a person sends who is logged in, and the token against forged requests."""
    login = await AsyncHTTPClient().fetch(f"{server.url}lab?token={server.token}", raise_error=False)
    cookies = "; ".join(cookie.split(";")[0] for cookie in login.headers.get_list("Set-Cookie"))
    assert cookies
    return cookies


@pytest.mark.asyncio
async def test_a_page_of_another_origin_is_refused(server):
    """Its browser would send the cookie of a person who is logged in."""
    cookies = await cookies_of(server)
    own = await connect(server, token=False, headers={"Cookie": cookies, "Origin": server.url.rstrip("/")})
    own.close()

    with pytest.raises(HTTPClientError) as refused:
        await connect(server, token=False, headers={"Cookie": cookies, "Origin": "https://elsewhere.example"})
    assert refused.value.code == 403


@pytest.mark.parametrize(("method", "path"), [each for each in OPERATIONS if each[0] != "GET"])
@pytest.mark.asyncio
async def test_a_form_of_another_site_changes_nothing(server, method, path):
    headers = {"Cookie": await cookies_of(server), "Origin": "https://elsewhere.example"}
    body = "{}" if method == "POST" else None
    url = request(server, f"nbgpu/api{path}", token=False, method=method, body=body, headers=headers)
    response = await AsyncHTTPClient().fetch(url, raise_error=False)
    assert response.code in (403, 404)
    assert "no_such" not in response.body.decode()  # it was refused before anybody looked


# -- The description


@pytest.mark.asyncio
async def test_the_description_is_served(server):
    status, description = await call(server, "GET", "openapi.json")
    assert status == 200
    assert description == routes.describe()


def test_the_description_in_the_package_is_that_of_the_handlers():
    text = resources.files("nbgpu.server").joinpath(routes.DESCRIPTION_FILE).read_text(encoding="utf-8")
    assert text == routes.description_text(), "write it anew: `python tools/openapi.py`"


def test_every_method_of_every_handler_is_described_and_guarded():
    unimplemented = NbgpuHandler._unimplemented_method
    for path, handler in routes.ROUTES.items():
        answered = {
            name
            for name in ("get", "post", "put", "patch", "delete")
            if getattr(handler, name) is not unimplemented and name in vars(handler)
        }
        assert answered == set(handler.OPERATIONS), path
        for name in answered:
            guards = vars(handler)[name]
            assert hasattr(guards, "__wrapped__"), f"{name} {path} is not guarded"
    assert all(routes.describe()["paths"][path] for path in routes.ROUTES)


def test_every_reference_in_the_description_leads_somewhere():
    text = routes.description_text()
    schemas = routes.describe()["components"]["schemas"]
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) == set(schemas)
    assert all(schemas.values())
