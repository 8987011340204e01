"""The one hub between the pages and the pools: one connection a pool for however many pages, while there is one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from nbgpu.server.ending import end_tasks
from nbgpu.server.open_requests import OpenRequests
from nbgpu.server.page import KEEP_ALIVE_S, Page
from nbgpu.server.pool_link import FIRST_RETRY_S, Connect, PoolLink, PoolTarget, connect_to
from nbgpu.server.problems import PoolLostError, RefusedError
from nbgpu.server.views import PageState, ProblemView

if TYPE_CHECKING:
    from nbgpu.server.pool_calls import PoolCalls

THIS_MACHINE = "this machine"
HOUSEKEEPING_S = 10.0
"""Between looks at which pools there are, and at how long they take to answer."""
LOOK_UP_DEADLINE_S = 20.0
"""Longer than an agent takes to start on a slow machine."""

FindPools = Callable[[], Awaitable[Sequence[PoolTarget]]]


def default_target() -> PoolTarget:
    """Returns the pool that is there without having been added: the environment's, else this machine's."""
    address = os.environ.get("NBGPU_AGENT_ADDRESS", "")
    return PoolTarget(address or THIS_MACHINE, address, "", embedded=not address, removable=False)


async def find_pools() -> Sequence[PoolTarget]:
    """Returns the pools that the person added.

    Raises:
        RefusedError: The file that they are in cannot be used.
    """

    def look() -> list[PoolTarget]:
        from nbgpu.server import pool_calls

        return [
            PoolTarget(each.name, each.address, each.token, embedded=False, removable=True)
            for each in pool_calls.configured_pools()
        ]

    return await asyncio.to_thread(look)


class Hub:
    """What the pages show, kept current while at least one page, or a command, wants it.

    All methods are for the event loop that the hub is first used on.

    Args:
        log: Where failures go.
        find_pools: Returns the pools beside the default one.
        connect: Returns what connects to a pool.
        first_retry_s: After which a lost pool is tried again at first.
        keep_alive_s: After which a page is sent the state again where nothing changes.
        now: The time, in seconds since the epoch.
    """

    def __init__(
        self,
        *,
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
        find_pools: FindPools = find_pools,
        connect: Callable[[PoolTarget], Connect] = connect_to,
        first_retry_s: float = FIRST_RETRY_S,
        keep_alive_s: float = KEEP_ALIVE_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._find_pools = find_pools
        self._connect = connect
        self._first_retry_s = first_retry_s
        self._keep_alive_s = keep_alive_s
        self._now = now
        self._links: dict[str, PoolLink] = {}
        self._kept: dict[str, contextlib.ExitStack] = {}
        """What keeps each link connected, while the hub is used."""
        self._held: dict[str, contextlib.ExitStack] = {}
        """What keeps each link sampling, while a page wants samples."""
        self._pools_problem: ProblemView | None = None
        self._pages: set[Page] = set()
        self._sampled_pages = 0
        self._users = 0
        self._looking = asyncio.Lock()
        self._housekeeping: asyncio.Task[None] | None = None
        self._state_text = ""
        self.closed = False
        self.requests = OpenRequests(self)
        self._add_link(default_target())

    # -- What the pages get -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def page(self, *, history_s: float = 0.0, samples: bool = True) -> Iterator[Page]:
        """Subscribes a page for as long as the block lasts.

        Args:
            history_s: Of how many seconds the recorded samples come first.
            samples: Whether any come.
        """
        page = Page(self, history_s, self._keep_alive_s)
        with self.used():
            self._pages.add(page)
            self._sampled_pages += samples
            if samples:
                for link in self._links.values():
                    self._hold_samples(link)
                    if link.calls is not None:
                        page.put_connected(link.name)
            try:
                yield page
            finally:
                self._pages.discard(page)
                self._sampled_pages -= samples
                if samples and not self._sampled_pages:
                    for stack in self._held.values():
                        stack.close()
                    self._held.clear()

    def state(self) -> PageState:
        """Returns the state as it is."""
        views = []
        for link in self._links.values():
            view = link.view()
            view["requests"] = self.requests.views(link.name, view["sessions"])
            views.append(view)
        return PageState(kind="state", sent_unix_s=self._now(), pools=views, problem=self._pools_problem)

    def state_text(self) -> str:
        """Returns the state as JSON, encoded once for all pages that a change wakes."""
        if not self._state_text:
            self._state_text = json.dumps(self.state(), separators=(",", ":"))
            asyncio.get_running_loop().call_later(0.02, self._forget_text)
        return self._state_text

    async def settled_state(self, deadline_s: float) -> PageState:
        """Returns the state once every pool is connected or unreachable, or as it is at the deadline.

        A deadline of 0 starts nothing.
        """
        if deadline_s <= 0:
            return self.state()
        async with self.in_use():
            await self.settle(deadline_s)
            return self.state()

    @staticmethod
    def encoded(name: str) -> str:
        """Returns a pool's name as JSON."""
        return json.dumps(name)

    # -- What commands need -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Keeps the pools connected for as long as the block lasts."""
        self._users += 1
        with contextlib.ExitStack() as stack:
            stack.callback(self._release)
            if self._users == 1:
                for link in self._links.values():
                    self._keep(link)
                self._housekeeping = asyncio.create_task(self._keep_house(), name="nbgpu: housekeeping")
            yield

    @contextlib.asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """Keeps the pools connected likewise, and begins once it is known which there are, reached or not."""
        with self.used():
            await self.look_for_pools()
            yield

    async def settle(self, deadline_s: float) -> None:
        """Waits until every pool was reached or found unreachable, or for the deadline."""
        await asyncio.gather(*(link.settle(deadline_s) for link in self.links()))

    def links(self) -> list[PoolLink]:
        """Returns the links to all pools, in the order of preference."""
        return list(self._links.values())

    def link(self, name: str) -> PoolLink:
        """Returns the link to a pool.

        Raises:
            RefusedError: There is no such pool.
        """
        if name not in self._links:
            raise RefusedError(f"there is no pool {name!r}", None, "no_such_pool", 404)
        return self._links[name]

    def calls_of(self, pool: str) -> PoolCalls | None:
        """Returns the connection to a pool; None while there is none."""
        return self._links[pool].calls if pool in self._links else None

    async def calls_for_session(self, session_id: str) -> PoolCalls:
        """Returns the connection to the pool that has the session. To be called while the hub is in use.

        A pool that does not answer holds it up only where no other has the session.

        Raises:
            RefusedError: None that is connected has it.
        """
        if (calls := self._calls_that_know(session_id)) is not None:
            return calls
        await self.settle(LOOK_UP_DEADLINE_S)
        if (calls := self._calls_that_know(session_id)) is not None:
            return calls
        for link in self.links():  # one that was opened a moment ago
            with contextlib.suppress(PoolLostError):
                if (calls := link.calls) is not None and await calls.has_session(session_id):
                    return calls
        raise RefusedError(
            f"no session {session_id!r} in any pool that is connected", "it may be closed", "no_such_session", 404
        )

    def _calls_that_know(self, session_id: str) -> PoolCalls | None:
        for link in self._links.values():
            if link.calls is not None and any(each["id"] == session_id for each in link.state["sessions"]):
                return link.calls
        return None

    def link_of_notebook(self, notebook_id: str) -> PoolLink | None:
        """Returns the link to the pool whose session the notebook uses; None where it uses none that is known."""
        used = {
            link.name: max(each["attached_unix_s"] or 0.0 for each in own)
            for link in self._links.values()
            if (own := [each for each in link.state["sessions"] if notebook_id and each["notebook_id"] == notebook_id])
        }
        return self._links[max(used, key=lambda name: used[name])] if used else None

    async def let_go_elsewhere(self, notebook_id: str, chosen: PoolCalls) -> None:
        """Tells the other pools that the notebook uses none of their sessions from now on."""
        for link in self._links.values():
            calls = link.calls
            if calls is None or calls is chosen or not notebook_id:
                continue
            if any(each["notebook_id"] == notebook_id for each in link.state["sessions"]):
                with contextlib.suppress(PoolLostError, RefusedError):
                    await calls.attach("", notebook_id, "")

    def retry(self, name: str | None = None) -> None:
        """Tries again at once to reach the pools that are waited for; or one of them.

        Raises:
            RefusedError: There is no such pool.
        """
        for link in [self.link(name)] if name is not None else self.links():
            link.retry()

    async def look_for_pools(self) -> None:
        """Compares the links with the pools that there are now."""
        async with self._looking:
            problem = None
            try:
                found = {each.name: each for each in await self._find_pools()}
            except RefusedError as error:
                problem, found = error.view(), {}
            first, *others = self._links.values()
            found.pop(first.name, None)
            changed = problem != self._pools_problem
            self._pools_problem = problem
            for link in others:
                if found.get(link.name) != link.target:
                    changed = True
                    await self._remove_link(link)
            for target in found.values():
                if target.name not in self._links and not self.closed:
                    changed = True
                    self._add_link(target)
            if changed:
                self.on_change()

    async def close(self) -> None:
        """Ends the connections and every subscription. Idempotent."""
        self.closed = True
        await self.requests.close()
        await end_tasks([self._housekeeping], self._log)
        for page in self._pages:
            page.wake()
        await asyncio.gather(*(link.close() for link in self._links.values()))

    def log_failure(self, what: str) -> None:
        """Writes the exception that is being handled to the server's log."""
        self._log.warning("nbgpu: %s", what, exc_info=True)

    # -- What the links tell ----------------------------------------------------------------------------------------

    def on_change(self) -> None:
        self._forget_text()
        for page in self._pages:
            page.wake(state=True)

    def on_connected(self, name: str) -> None:
        if self._sampled_pages:
            self._hold_samples(self._links[name])
            for page in self._pages:
                page.put_connected(name)

    def on_samples(self, name: str, time_unix_s: float, samples: str) -> None:
        for page in self._pages:
            page.put_reading(name, time_unix_s, samples)

    # -- Its links --------------------------------------------------------------------------------------------------

    def _add_link(self, target: PoolTarget) -> None:
        link = PoolLink(target, self._connect(target), self, log=self._log, first_retry_s=self._first_retry_s)
        self._links[target.name] = link
        if self._users:
            self._keep(link)

    async def _remove_link(self, link: PoolLink) -> None:
        del self._links[link.name]
        self._drop(link.name)
        await link.close()

    def _keep(self, link: PoolLink) -> None:
        stack = contextlib.ExitStack()
        stack.enter_context(link.used())
        self._kept[link.name] = stack

    def _hold_samples(self, link: PoolLink) -> None:
        if link.name not in self._held:
            stack = contextlib.ExitStack()
            stack.enter_context(link.sampled())
            self._held[link.name] = stack

    def _drop(self, name: str) -> None:
        for stacks in (self._held, self._kept):
            if (stack := stacks.pop(name, None)) is not None:
                stack.close()

    def _release(self) -> None:
        self._users -= 1
        if not self._users:
            if self._housekeeping is not None:
                self._housekeeping.cancel()
                self._housekeeping = None
            for name in list(self._kept):
                self._drop(name)

    async def _keep_house(self) -> None:
        while True:
            try:
                await self.look_for_pools()
                await asyncio.gather(*(link.measure_latency() for link in self.links()))
            except Exception:  # noqa: BLE001 - what is wrong with one look is no reason not to look again
                self._log.exception("nbgpu: the pools cannot be looked for")
            await asyncio.sleep(HOUSEKEEPING_S)

    def _forget_text(self) -> None:
        self._state_text = ""
