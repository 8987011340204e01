"""How ranks that stay find each other: torchrun's variables, and a store for each `init_process_group` that comes.

torch has rank 0 listen on every interface, at a port that was free a moment ago. Here a socket listens on the loopback
alone before anybody knows of it; the store behind it is made by a process of its own when the first rank connects. A
group that is made anew needs a new store: in the old one its predecessor's addresses are left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable

from nbgpu_kernel.process import end_with_parent
from nbgpu_kernel.ranks.processes import signal_process

_MAX_STORES = 16
"""A group that is still in use is hardly older than so many others."""


def torchrun_variables(rank: int, world_size: int, port: int, run_id: str) -> dict[str, str]:
    """Returns the variables that torchrun gives a rank of one node, with the port of a store that listens already."""
    variables = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size,
        "GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1, "NODE_RANK": 0, "ROLE_RANK": rank, "ROLE_WORLD_SIZE": world_size,
        "ROLE_NAME": "default", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_MAX_RESTARTS": 0, "TORCHELASTIC_RUN_ID": run_id,
    }  # fmt: skip
    return {name: str(value) for name, value in variables.items()}


class Rendezvous:
    """The stores of one session's ranks. For a process with one thread, which forks.

    Args:
        descriptors: Returns the file descriptors that a store need not have.
    """

    def __init__(self, descriptors: Callable[[], Iterable[int]]) -> None:
        self._descriptors = descriptors
        self._listener: socket.socket | None = None
        self._stores: list[int] = []

    def listen(self) -> socket.socket:
        """Returns the socket at whose port the next group is made: the same one until somebody has come."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        return self._listener

    def serve(self) -> None:
        """Makes the store; called once somebody connects, who waits meanwhile. The next group has another socket."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            try:
                _keep_store(listener, parent, self._descriptors())
            finally:
                os._exit(1)
        listener.close()
        self._stores.append(pid)
        while len(self._stores) > _MAX_STORES:
            self._end(self._stores.pop(0))

    def end(self) -> None:
        """Ends all stores: no group is left that they are for."""
        while self._stores:
            self._end(self._stores.pop())
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    @staticmethod
    def _end(pid: int) -> None:
        signal_process(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _keep_store(listener: socket.socket, parent: int, descriptors: Iterable[int]) -> None:
    """Is a store, until it is ended."""
    os.setsid()
    end_with_parent(parent)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    for descriptor in descriptors:
        if descriptor != listener.fileno():
            with contextlib.suppress(OSError):
                os.close(descriptor)
    try:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]
    except ImportError as error:
        print(f"the ranks cannot find each other without torch: {error}", file=sys.stderr, flush=True)
        return
    port = listener.getsockname()[1]
    store = TCPStore("127.0.0.1", port, None, True, wait_for_workers=False, master_listen_fd=listener.detach())
    while store is not None:
        signal.pause()
