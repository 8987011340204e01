"""How the kernel's messages leave: through the outbox, replies as well, and every request is handled once."""

from __future__ import annotations

import atexit
import collections
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jupyter_client.session import Session

from nbgpu_kernel.outbox import DEFAULT_LIMIT_BYTES, FOLDER_VARIABLE, LIMIT_VARIABLE, Outbox

AGENT_SESSION = "nbgpu-agent"
"""In the headers of the agent's own requests, whose answers nobody needs when that agent is gone."""
RESEND_REQUEST = "nbgpu_resend_request"
_SHELL, _CONTROL, _STDIN = 1, 2, 3  # `nbgpu.v1.Channel`
_REMEMBERED_REQUESTS = 10_000
_DELIMITER = b"<IDS|MSG>"


class KernelSession(Session):
    """Sends replies to clients' requests by the outbox, where there is one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._ways: dict[int, _ReplyWay] = {}
        self._question = ""
        self._stdin: Any = None

    def set_ways(self, streams: dict[int, Any], output_thread: Any) -> None:
        """Has what is sent on these streams, by the numbers of their channels, go by the outbox."""
        self._ways = {
            id(stream): _ReplyWay(channel, output_thread) for channel, stream in streams.items() if stream is not None
        }
        self._stdin = streams.get(_STDIN)

    def send(self, stream: Any, msg_or_type: Any, *args: Any, **kwargs: Any) -> Any:
        way = self._ways.get(id(stream))
        if way is None or _is_agents(msg_or_type, args, kwargs):
            return super().send(stream, msg_or_type, *args, **kwargs)
        message = super().send(way, msg_or_type, *args, **kwargs)  # type: ignore[arg-type]
        if way.channel == _STDIN and message is not None:
            self._question = message["header"]["msg_id"]
        return message

    def recv(self, socket: Any, *args: Any, **kwargs: Any) -> Any:
        """Passes over an answer to another question than the last: one that came by two agents, or too late."""
        identities, message = super().recv(socket, *args, **kwargs)
        if message is not None and socket is self._stdin and self._question:
            answered = message.get("parent_header", {}).get("msg_id")
            if answered and answered != self._question:
                return None, None
        return identities, message


class _ReplyWay:
    """What takes a socket's place for replies."""

    def __init__(self, channel: int, output_thread: Any) -> None:
        self.channel = channel
        self._output_thread = output_thread

    def send_multipart(self, frames: Sequence[Any], *args: Any, **kwargs: Any) -> None:
        thread = self._output_thread
        thread.schedule(lambda: None if thread.closed else thread.socket.send_reply(self.channel, frames))

    def send(self, frame: Any, *args: Any, **kwargs: Any) -> None:
        self.send_multipart([frame])


class HandledRequests:
    """Knows the requests that have been handled: two agents may both have sent one, for a client that repeated it."""

    def __init__(self) -> None:
        self._ids: collections.OrderedDict[str, None] = collections.OrderedDict()

    def is_new(self, frames: Sequence[Any]) -> bool:
        """Returns whether this is the first time that the message comes, and remembers it.

        Args:
            frames: As they came: identities, delimiter, signature, header and more.
        """
        parts = [bytes(frame) for frame in frames[:5]]
        if _DELIMITER not in parts:
            return True
        at = parts.index(_DELIMITER) + 2
        if at >= len(parts) or b"nbgpu_request" not in parts[at]:
            return True
        try:
            request_id = json.loads(parts[at]).get("nbgpu_request")
        except ValueError:
            return True
        if not isinstance(request_id, str) or not request_id:
            return True
        if request_id in self._ids:
            return False
        self._ids[request_id] = None
        if len(self._ids) > _REMEMBERED_REQUESTS:
            self._ids.popitem(last=False)
        return True


def install_outbox(output_thread: Any) -> None:
    """Puts an outbox in the place of the thread's socket, where the environment names its folder."""
    folder = os.environ.pop(FOLDER_VARIABLE, None)
    limit = os.environ.pop(LIMIT_VARIABLE, None)
    if not folder:
        return
    outbox = Outbox(
        output_thread.socket,
        Path(folder),
        int(limit) if limit else DEFAULT_LIMIT_BYTES,
        output_thread.io_loop.call_later,
    )
    output_thread.socket = outbox
    process = os.getpid()
    atexit.register(lambda: outbox.write_down() if os.getpid() == process else None)


def install(kernel: Any, output_thread: Any) -> None:
    """Has replies go by the outbox, and what is kept in it be sent again when an agent asks for it."""
    if not isinstance(output_thread.socket, Outbox):
        return
    kernel.session.set_ways(
        {_SHELL: kernel.shell_stream, _CONTROL: kernel.control_stream, _STDIN: kernel.stdin_socket}, output_thread
    )

    async def resend_request(stream: Any, ident: Any, parent: Any) -> None:
        content = parent["content"]
        after, request_id = int(content["after"]), str(content["request_id"])
        output_thread.schedule(lambda: output_thread.socket.resend(after, request_id))

    kernel.control_handlers[RESEND_REQUEST] = resend_request


def _is_agents(message: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Says whether what is sent answers a request of the agent's own."""
    parent = kwargs.get("parent", args[1] if len(args) > 1 else None)
    if parent is None and isinstance(message, dict):
        parent = message.get("parent_header")
    if not isinstance(parent, dict):
        return False
    header = parent.get("header", parent)
    return isinstance(header, dict) and header.get("session") == AGENT_SESSION
