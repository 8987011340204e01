"""Shows a remote kernel's output as if the cell had run here: to the notebook's front end, or to a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Protocol

import zmq
from IPython.core.getipython import get_ipython

from nbgpu.client.connection import Message

OUTPUT_TYPES = frozenset({"stream", "display_data", "update_display_data", "clear_output", "execute_result", "error"})
COMM_TYPES = frozenset({"comm_open", "comm_msg", "comm_close"})
PAYLOADS = frozenset({"page", "set_next_input"})
"""Of a reply's payloads, those that are meant for the person; the others direct the front end's own kernel."""
_OWN_FIELDS = ("nbgpu_request", "nbgpu_client")


class RemoteResult:
    """What a cell's last expression showed. The value itself stays in the session, as `_` and `Out` there.

    Args:
        data: The representations by MIME type, as IPython's display protocol has them.
        metadata: Their metadata.
    """

    def __init__(self, data: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
        self.data = dict(data)
        self.metadata = dict(metadata or {})

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.data, self.metadata

    def __repr__(self) -> str:
        return str(self.data.get("text/plain", f"<result of type {', '.join(self.data)}>"))


class Publisher(Protocol):
    """Where output goes."""

    immediate: bool
    """Whether `publish` may be called on the background loop; otherwise it is the caller's thread that shows."""

    def publish(self, message: Message) -> None: ...

    def show_result(self, result: RemoteResult) -> None:
        """Makes a result that was published known as `_` and `Out[n]`."""

    def show_payload(self, payload: dict[str, Any]) -> None:
        """Shows what a reply brings beside outputs: a page of help, or the text for the next cell."""


class KernelPublisher:
    """Passes messages on through this notebook kernel's own iopub channel: whole, undecoded, under its own session.

    The parent is the one that the session's kernel was sent, which is this notebook's own request, so that front ends
    route everything as they would for a local cell. The session in the header must be this kernel's: JupyterLab
    discards what it has queued whenever that changes.
    """

    immediate = True

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._kernel = shell.kernel
        _lift_high_water_mark(self._kernel.iopub_thread)

    def publish(self, message: Message) -> None:
        session = self._kernel.session
        header = {**message.header, "session": session.session}
        parent = {name: value for name, value in message.parent_header.items() if name not in _OWN_FIELDS}
        parts = [session.pack(header), session.pack(parent), message.raw_metadata, message.raw_content]
        topic = f"kernel.{self._kernel.ident}.{message.type}".encode()
        signature = session.sign(parts)
        self._kernel.iopub_socket.send_multipart([topic, b"<IDS|MSG>", signature, *parts, *message.buffers])

    def show_result(self, result: RemoteResult) -> None:
        self._shell.displayhook.update_user_ns(result)

    def show_payload(self, payload: dict[str, Any]) -> None:
        self._shell.payload_manager.write_payload(payload)


def _lift_high_water_mark(iopub_thread: Any) -> None:
    """Has ZeroMQ keep whatever a front end has not fetched yet, rather than drop what is beyond 1,000 messages.

    A cell that runs here is slowed down by its own work; one that floods from elsewhere is not. Called for every cell,
    as it holds for the front ends that are connected by then.
    """
    iopub_thread.schedule(lambda: iopub_thread.socket.setsockopt(zmq.SNDHWM, 0))


class ShellPublisher:
    """Writes to `sys.stdout`, `sys.stderr` and IPython's display functions, wherever these lead just now.

    For terminals, for plain Python, and for cells whose output `%%capture` or `redirect_stdout` diverts.
    """

    immediate = False

    def publish(self, message: Message) -> None:
        show = getattr(self, f"_show_{message.type}", None)
        if show is not None:
            show(json.loads(bytes(message.raw_content)))

    def show_result(self, result: RemoteResult) -> None:
        sys.displayhook(result)

    def show_payload(self, payload: dict[str, Any]) -> None:
        shell = get_ipython()
        if payload["source"] == "page":
            print(payload["data"].get("text/plain", ""))
        elif shell is not None:
            shell.set_next_input(payload["text"], replace=payload.get("replace", False))

    def _show_stream(self, content: dict[str, Any]) -> None:
        stream = sys.stderr if content["name"] == "stderr" else sys.stdout
        stream.write(content["text"])
        stream.flush()

    def _show_display_data(self, content: dict[str, Any], *, update: bool = False) -> None:
        if get_ipython() is None:
            print(content["data"].get("text/plain", ""))
            return
        from IPython.display import publish_display_data

        transient = {key: value for key, value in content.get("transient", {}).items() if key == "display_id"}
        publish_display_data(content["data"], content.get("metadata"), transient=transient, update=update)

    def _show_update_display_data(self, content: dict[str, Any]) -> None:
        self._show_display_data(content, update=True)

    def _show_error(self, content: dict[str, Any]) -> None:
        print("\n".join(content["traceback"]))

    def _show_clear_output(self, content: dict[str, Any]) -> None:
        if get_ipython() is not None:
            from IPython.display import clear_output

            clear_output(wait=content.get("wait", False))


def choose_publisher() -> Publisher:
    """Returns the publisher that leads where a `print` on this thread would lead now."""
    shell = get_ipython()
    if shell is None or getattr(shell, "kernel", None) is None:
        return ShellPublisher()
    from ipykernel.iostream import OutStream
    from ipykernel.zmqshell import ZMQDisplayPublisher

    diverted = not isinstance(sys.stdout, OutStream) or not isinstance(shell.display_pub, ZMQDisplayPublisher)
    return ShellPublisher() if diverted else KernelPublisher(shell)
