"""Asks a session's kernel what is no cell: completions, inspections, and what a front end's comms have to say."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
from typing import Any

from nbgpu import errors
from nbgpu.client.background import background
from nbgpu.client.connection import Message
from nbgpu.comms import CONTROL_TARGET, CommBridge, WidgetStates, states_in
from nbgpu.execution import Request
from nbgpu.interruption import wait_interruptibly
from nbgpu.notebook import current_request, late_publisher
from nbgpu.session_client import CLIENT_ID, SessionClient
from nbgpu_protocol.fragments import Buffer

COMPLETION_BUDGET_S = 0.2
"""A completion that comes later is of no use to who types."""
FIRST_COMPLETION_BUDGET_S = 2.0
"""The first completion in a kernel imports the completer's libraries, as it does in a local one."""
INSPECTION_BUDGET_S = 1.0


def ask(client: SessionClient, kind: str, content: dict[str, Any], budget_s: float) -> dict[str, Any] | None:
    """Returns the reply to a request such as complete_request, or None if none comes within the budget."""
    if client.end is not None or client.kernel_exit is not None:
        return None
    header = {**current_request()["header"], "msg_type": kind}
    request = Request(header, CLIENT_ID, late_publisher())
    background().submit(client.send(request, content, {}))
    with contextlib.suppress(concurrent.futures.TimeoutError):
        request.answered.result(timeout=budget_s)
    reply = request.reply
    return reply if reply is not None and reply.get("status") == "ok" else None


def look_at_object(client: SessionClient, object_id: str) -> dict[str, Any] | None:
    """Returns `attributes` and `doc` of an object that stayed in the session, or None if it does not say at once."""
    return ask(client, "nbgpu_object_request", {"id": object_id}, COMPLETION_BUDGET_S)


def forward_comm(client: SessionClient, message: dict[str, Any]) -> None:
    """Passes a front end's comm message on, and waits until it is handled, as a local comm's handler would take."""
    content = message["content"]
    _send_comm(client, message["header"], message.get("metadata", {}), content, message.get("buffers", []))


def ask_widgets(bridge: CommBridge, client: SessionClient) -> WidgetStates:
    """Returns the states of the session's widgets; none if its kernel does not say."""
    found: list[WidgetStates] = []

    def take(message: Message) -> None:
        if message.type == "comm_msg":
            found.append(states_in(message.content()["data"], [bytes(buffer) for buffer in message.buffers]))

    header = current_request()["header"]
    with bridge.awaiting(take) as comm_id, contextlib.suppress(errors.Error):
        opening = {"comm_id": comm_id, "target_name": CONTROL_TARGET, "data": {}}
        _send_comm(client, {**header, "msg_type": "comm_open"}, {"version": "1.0.0"}, opening)
        question = {"comm_id": comm_id, "data": {"method": "request_states"}}
        _send_comm(client, {**header, "msg_type": "comm_msg"}, {}, question)
        _send_comm(client, {**header, "msg_type": "comm_close"}, {}, {"comm_id": comm_id, "data": {}})
    return found[0] if found else ({}, [], [])


def _send_comm(
    client: SessionClient,
    header: dict[str, Any],
    metadata: dict[str, Any],
    content: dict[str, Any],
    buffers: list[Buffer] | None = None,
) -> None:
    request = Request(header, CLIENT_ID, late_publisher(), expects_reply=False)
    parts: list[Buffer] = [json.dumps(part, default=str).encode() for part in (request.header, {}, metadata, content)]
    background().submit(client.send_parts(request, [*parts, *(buffers or [])]))
    wait_interruptibly(client, request)
