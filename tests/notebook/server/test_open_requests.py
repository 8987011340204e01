"""What a page shows of the requests that it made."""

import asyncio
import contextlib
import time

import pytest

from fakes import page_feed as feed
from nbgpu.server.open_requests import OpenRequests, Wanted
from nbgpu.spec import parse_spec


class SlowPool:
    """A hub with one pool, which does not answer."""

    name = "lab"

    def links(self):
        return [self]

    def in_use(self):
        return contextlib.AsyncExitStack()

    def on_change(self):
        pass

    async def connection(self, settle_s):
        await asyncio.Event().wait()


@pytest.mark.asyncio
async def test_a_request_is_not_shown_beside_the_session_that_came_of_it():
    requests = OpenRequests(SlowPool())
    before = time.time()
    wanted = Wanted(None, parse_spec("A10"), "A10", "kernel-1", "a.ipynb", "", "", new=False)
    request_id = requests.start(wanted)
    try:
        old = feed.session("s1", "kernel-1", "a.ipynb", attached_unix_s=before - 60)
        others = feed.session("s2", "kernel-2", "b.ipynb", attached_unix_s=before + 60)
        opening = feed.session("s3", "kernel-1", "a.ipynb", attached_unix_s=before + 60, phase="building")
        unknown = feed.session("s4", "kernel-1", "a.ipynb", attached_unix_s=None)
        assert [each["request_id"] for each in requests.views("lab", [old, others, opening, unknown])] == [request_id]
        assert requests.views("elsewhere", []) == []
        its_own = feed.session("s3", "kernel-1", "a.ipynb", attached_unix_s=before + 60)
        assert requests.views("lab", [old, its_own]) == []
    finally:
        await requests.close()
