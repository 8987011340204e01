"""A real Jupyter server with the extension: what it answers, and to whom."""

import asyncio
import json

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from fakes import pool as fake
from jupyter_servers import run_jupyter_server
from nbgpu_protocol.v1 import pool_pb2

DEADLINE_S = 20.0


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


async def connect(server, **options):
    connecting = websocket_connect(request(server, "nbgpu/api/events", websocket=True, **options))
    return await asyncio.wait_for(connecting, DEADLINE_S)


async def read_state(page, condition):
    async def read():
        while (text := await page.read_message()) is not None:
            state = json.loads(text)
            if condition(state):
                return state
        raise AssertionError("the server closed the connection")

    return await asyncio.wait_for(read(), DEADLINE_S)


@pytest.mark.asyncio
async def test_events_bring_the_state_and_its_changes(server, pool):
    page = await connect(server)
    state = await read_state(page, lambda state: state["link"] == "connected")
    assert state["pool"]["offers"][0]["type"] == "H100"

    pool.publish(pool_pb2.PoolState(offers=[fake.offer("H100", 8, 3)]))

    await read_state(page, lambda state: state["pool"]["offers"][0]["free"] == 3)
    page.close()
    await asyncio.to_thread(pool.wait_for_watching, lambda count: count == 0)


@pytest.mark.asyncio
async def test_the_state_can_be_asked_for(server):
    response = await AsyncHTTPClient().fetch(request(server, "nbgpu/api/state"))
    state = json.loads(response.body)
    assert state["link"] == "connected"
    assert state["pool"]["offers"][0]["type"] == "H100"


@pytest.mark.asyncio
async def test_retry_is_accepted(server):
    response = await AsyncHTTPClient().fetch(request(server, "nbgpu/api/retry", method="POST", body=""))
    assert response.code == 204


@pytest.mark.parametrize("settle_s", ["-1", "nan", "soon", "1e9"])
@pytest.mark.asyncio
async def test_a_senseless_wait_is_refused(server, settle_s):
    with pytest.raises(HTTPClientError) as refused:
        await AsyncHTTPClient().fetch(request(server, f"nbgpu/api/state?settle_s={settle_s}"))
    assert refused.value.code == 400


@pytest.mark.asyncio
async def test_without_a_token_the_websocket_is_refused(server, pool):
    begun = pool.watches_begun
    with pytest.raises(HTTPClientError) as refused:
        await connect(server, token=False)
    assert refused.value.code == 403
    assert pool.watches_begun == begun


@pytest.mark.parametrize(("path", "method"), [("nbgpu/api/state", "GET"), ("nbgpu/api/retry", "POST")])
@pytest.mark.asyncio
async def test_without_a_token_nothing_is_answered(server, path, method):
    options = {"method": method, "body": "" if method == "POST" else None, "follow_redirects": False}
    with pytest.raises(HTTPClientError) as refused:
        await AsyncHTTPClient().fetch(request(server, path, token=False, **options))
    assert refused.value.code == 403


@pytest.mark.asyncio
async def test_a_page_of_another_origin_is_refused(server):
    """Its browser would send the cookie of a person who is logged in."""
    login = await AsyncHTTPClient().fetch(f"{server.url}lab?token={server.token}", raise_error=False)
    cookies = "; ".join(cookie.split(";")[0] for cookie in login.headers.get_list("Set-Cookie"))
    assert cookies

    own = await connect(server, token=False, headers={"Cookie": cookies, "Origin": server.url.rstrip("/")})
    own.close()

    with pytest.raises(HTTPClientError) as refused:
        await connect(server, token=False, headers={"Cookie": cookies, "Origin": "https://elsewhere.example"})
    assert refused.value.code == 403
