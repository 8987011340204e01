"""Connects comms of a session's kernel with the notebook's front end, so that widgets live there and show here.

What the session's kernel says of its comms is passed on to the front end as it is. For what the front end says, this
notebook's kernel is asked: every comm over there has a stand-in in its comm manager, which passes messages on and waits
until they are handled, as a local comm's handler would.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbgpu.client.connection import Message

if TYPE_CHECKING:
    from nbgpu.session_client import SessionClient

WIDGET_TARGET = "jupyter.widget"
CONTROL_TARGET = "jupyter.widget.control"
"""On this target front ends ask for the state of all widgets, after a page was loaded anew."""

ForwardComm = Callable[["SessionClient", dict[str, Any]], None]
"""Passes a front end's comm message on to the session and waits until it is handled there."""
AskWidgets = Callable[["SessionClient"], "WidgetStates"]

WidgetStates = tuple[dict[str, Any], list[list[Any]], list[Any]]
"""States by comm id; for each buffer its comm id and path; the buffers."""


class RemoteComm:
    """A stand-in, in this notebook's comm manager, for a comm of a session's kernel."""

    def __init__(self, comm_id: str, target_name: str, session: SessionClient, forward: ForwardComm) -> None:
        self.comm_id = comm_id
        self.target_name = target_name
        self.session = session
        self._forward = forward

    def handle_msg(self, message: dict[str, Any]) -> None:
        """Called by the comm manager, on the notebook's main thread."""
        self._forward(self.session, message)

    def handle_close(self, message: dict[str, Any]) -> None:
        """Called by the comm manager, on the notebook's main thread."""
        self._forward(self.session, message)


class CommBridge:
    """Keeps the stand-ins, and answers for remote widgets when a page was loaded anew.

    Args:
        manager: The notebook kernel's comm manager.
        forward: How a front end's message reaches the session.
        ask_widgets: How the states of a session's widgets are had.
    """

    def __init__(self, manager: Any, forward: ForwardComm, ask_widgets: AskWidgets) -> None:
        self._manager = manager
        self._forward = forward
        self._ask_widgets = ask_widgets
        self._awaited: dict[str, Callable[[Message], None]] = {}
        self._local_control: Any = None
        self._answers_for_widgets = False

    def intercept(self, message: Message, session: SessionClient) -> bool:
        """Takes note of a comm message of the session's kernel; returns whether it is not for the front end."""
        content = message.content() if message.type != "comm_msg" or self._awaited else None
        if content is not None and (taker := self._awaited.get(content["comm_id"])):
            taker(message)
            return True
        if message.type == "comm_open" and content is not None:
            comm = RemoteComm(content["comm_id"], content["target_name"], session, self._forward)
            self._manager.register_comm(comm)
            if comm.target_name == WIDGET_TARGET:
                self._answer_for_widgets()
        elif message.type == "comm_close" and content is not None:
            self._manager.comms.pop(content["comm_id"], None)
        return False

    @contextlib.contextmanager
    def awaiting(self, taker: Callable[[Message], None]) -> Any:
        """Gives a fresh comm id, and the taker what the session's kernel sends on it, instead of the front end."""
        comm_id = uuid.uuid4().hex
        self._awaited[comm_id] = taker
        try:
            yield comm_id
        finally:
            del self._awaited[comm_id]

    def forget(self, session: SessionClient) -> None:
        """Drops the stand-ins of a session whose comms are gone."""
        for comm_id, comm in list(self._manager.comms.items()):
            if isinstance(comm, RemoteComm) and comm.session is session:
                self._manager.comms.pop(comm_id, None)

    def release(self) -> None:
        """Drops all stand-ins, and leaves the widgets' control target to whom it was."""
        for comm_id, comm in list(self._manager.comms.items()):
            if isinstance(comm, RemoteComm):
                self._manager.comms.pop(comm_id, None)
        if self._answers_for_widgets:
            self._manager.targets.pop(CONTROL_TARGET, None)
            if self._local_control is not None:
                self._manager.register_target(CONTROL_TARGET, self._local_control)
            self._answers_for_widgets = False

    def _answer_for_widgets(self) -> None:
        current = self._manager.targets.get(CONTROL_TARGET)
        if current == self._open_control:
            return
        # Also when ipywidgets was imported here after us, and took the target for itself.
        self._local_control = current
        self._answers_for_widgets = True
        self._manager.register_target(CONTROL_TARGET, self._open_control)

    def _open_control(self, comm: Any, _: dict[str, Any]) -> None:
        """A front end opened the control comm: from now on it may ask for the widgets' states."""

        def answer(message: dict[str, Any]) -> None:
            if message["content"]["data"].get("method") != "request_states":
                return
            states, paths, buffers = self._all_states(message)
            data = {"method": "update_states", "states": states, "buffer_paths": paths}
            comm.send(data, buffers=buffers)

        comm.on_msg(answer)

    def _all_states(self, question: dict[str, Any]) -> WidgetStates:
        states, paths, buffers = self._local_states(question)
        sessions = {comm.session.id: comm.session for comm in self._manager.comms.values() if _is_widget(comm)}
        for session in sessions.values():
            more_states, more_paths, more_buffers = self._ask_widgets(session)
            states.update(more_states)
            paths.extend(more_paths)
            buffers.extend(more_buffers)
        return states, paths, buffers

    def _local_states(self, question: dict[str, Any]) -> WidgetStates:
        if self._local_control is None:
            return {}, [], []
        heard = _HeardComm()
        self._local_control(heard, {"metadata": {"version": "1.0.0"}, "content": {"data": {}}, "buffers": []})
        heard.ask(question)
        return heard.states


class _HeardComm:
    """Stands for the front end's end of the control comm towards the local ipywidgets, to hear its answer."""

    comm_id = "nbgpu-heard"

    def __init__(self) -> None:
        self.states: WidgetStates = ({}, [], [])
        self._answer: Callable[[dict[str, Any]], None] | None = None

    def on_msg(self, answer: Callable[[dict[str, Any]], None]) -> None:
        self._answer = answer

    def ask(self, question: dict[str, Any]) -> None:
        if self._answer is not None:
            self._answer(question)

    def send(self, data: dict[str, Any], metadata: Any = None, buffers: list[Any] | None = None) -> None:
        self.states = states_in(data, buffers or [])


def states_in(data: dict[str, Any], buffers: list[Any]) -> WidgetStates:
    """Returns the widget states of an `update_states` message."""
    return dict(data.get("states", {})), list(data.get("buffer_paths", [])), list(buffers)


def _is_widget(comm: Any) -> bool:
    return isinstance(comm, RemoteComm) and comm.target_name == WIDGET_TARGET
