"""A TCP link between a client and an agent that a test cuts, stalls and takes down."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass


@dataclass(eq=False)
class _Direction:
    """One connection's bytes on their way to one side."""

    source: asyncio.StreamReader
    sink: asyncio.StreamWriter
    to_client: bool


class Link:
    """Forwards connections to a port of loopback. On one event loop.

    Args:
        agent_port: Where the agent listens.
    """

    def __init__(self, agent_port: int) -> None:
        self.port = 0
        self.bytes_to_client = 0
        self.bytes_to_agent = 0
        self.refused = 0
        self.silent = 0
        """So many of the next connections are taken, and get no answer."""
        self.delay_s = 0.0
        """Of everything that is forwarded, in each direction."""
        self._agent_port = agent_port
        self._is_down = False
        self._may_pass = {True: asyncio.Event(), False: asyncio.Event()}  # by whether it is to the client
        self._cuts: dict[bool, list[int]] = {True: [], False: []}
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.resume()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many stand."""
        return len(self._writers) // 2

    def cut(self) -> None:
        """Ends every connection. New ones are forwarded."""
        for writer in list(self._writers):
            writer.transport.abort()
        self._writers.clear()
        self.resume()

    def cut_after(self, positions: Iterable[int], *, to_client: bool = True) -> None:
        """Cuts when so many bytes, counted from now on, have been forwarded in the direction."""
        so_far = self.bytes_to_client if to_client else self.bytes_to_agent
        self._cuts[to_client] = sorted(so_far + position for position in positions)

    @property
    def cuts_ahead(self) -> int:
        return sum(map(len, self._cuts.values()))

    def take_down(self) -> None:
        """Ends every connection, and every new one at once."""
        self._is_down = True
        self.cut()

    def restore(self) -> None:
        self._is_down = False

    def stall(self, *, to_client: bool = True, to_agent: bool = True) -> None:
        """Forwards nothing any more, and lets the connections stand."""
        for direction, stalled in ((True, to_client), (False, to_agent)):
            if stalled:
                self._may_pass[direction].clear()

    def resume(self) -> None:
        for may_pass in self._may_pass.values():
            may_pass.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards one connection."""
        if self._is_down:
            self.refused += 1
            writer.transport.abort()
            return
        if self.silent:
            self.silent -= 1
            self._writers.add(writer)
            with contextlib.suppress(ConnectionError):
                await reader.read(-1)
            writer.transport.abort()
            self._writers.discard(writer)
            return
        try:
            agent_reader, agent_writer = await asyncio.open_connection("127.0.0.1", self._agent_port)
        except ConnectionError:  # there is no agent now
            self.refused += 1
            writer.transport.abort()
            return
        self._writers |= {writer, agent_writer}
        ways = (_Direction(reader, agent_writer, to_client=False), _Direction(agent_reader, writer, to_client=True))
        tasks = {asyncio.create_task(self._forward(way)) for way in ways}
        self._tasks |= tasks
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in (writer, agent_writer):
            each.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks -= tasks
        self._writers -= {writer, agent_writer}

    async def _forward(self, way: _Direction) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await way.source.read(1 << 16):
                await self._may_pass[way.to_client].wait()
                cuts = self._cuts[way.to_client]
                done = self.bytes_to_client if way.to_client else self.bytes_to_agent
                is_cut = bool(cuts) and done + len(data) >= cuts[0]
                if is_cut:
                    data = data[: max(0, cuts.pop(0) - done)]
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                way.sink.write(data)
                await way.sink.drain()
                if way.to_client:
                    self.bytes_to_client += len(data)
                else:
                    self.bytes_to_agent += len(data)
                if is_cut:
                    way.sink.write_eof()  # what was forwarded arrives, and nothing more
                    return


@contextlib.asynccontextmanager
async def link_to(agent_port: int) -> AsyncIterator[Link]:
    """Serves a link on a free port of loopback."""
    link = Link(agent_port)
    accepting: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(link.accept(reader, writer))
        accepting.add(task)
        task.add_done_callback(accepting.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        link.take_down()
        await asyncio.gather(*accepting, return_exceptions=True)
        await server.wait_closed()
