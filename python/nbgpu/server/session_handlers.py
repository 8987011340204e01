"""What a page has done with sessions: open, attach, detach, interrupt, restart, renew, close, read the log."""

from __future__ import annotations

import asyncio
import importlib
import json
from typing import ClassVar

from jupyter_server.auth.decorator import authorized
from tornado.web import authenticated

from nbgpu.server.api import (
    AttachBody,
    InterruptedBody,
    OpenBody,
    Operation,
    RenewedBody,
    RequestIdBody,
    TextBody,
)
from nbgpu.server.handlers import NbgpuHandler
from nbgpu.server.notebooks import folder_of, interpreter_of
from nbgpu.server.open_requests import Wanted
from nbgpu.server.problems import RefusedError

LOG_TAIL_BYTES = 1 << 20


class SessionsHandler(NbgpuHandler):
    """Opens sessions; what becomes of that is in the state."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "post": Operation(
            "Begins to open a session for a notebook; what becomes of it is in the state",
            body=OpenBody,
            response=RequestIdBody,
            status=202,
        )
    }

    @authenticated
    @authorized
    async def post(self) -> None:
        body = self.body()
        spec_text = body.get("spec") or ""
        await asyncio.to_thread(importlib.import_module, "nbgpu.server.pool_calls")
        from nbgpu.server.pool_calls import read_spec

        notebook_id = body.get("notebook_id", "")
        python, folder = body.get("python"), body.get("working_folder")
        wanted = Wanted(
            pool=body.get("pool"),
            spec=read_spec(spec_text),
            spec_text=spec_text,
            notebook_id=notebook_id,
            notebook_name=body.get("notebook_name", ""),
            python=await interpreter_of(self.settings, notebook_id) if python is None else python,
            working_folder=await folder_of(self.settings, notebook_id) if folder is None else folder,
            new=body.get("new", False),
        )
        self.set_status(202)
        self.finish(json.dumps(RequestIdBody(request_id=self.hub.requests.start(wanted))))


class RequestHandler(NbgpuHandler):
    """Withdraws requests."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "delete": Operation("Withdraws a request, or dismisses one that has failed. Idempotent", status=204)
    }

    @authenticated
    @authorized
    async def delete(self, request_id: str) -> None:
        await self.hub.requests.withdraw(request_id)
        self.set_status(204)
        self.finish()


class SessionHandler(NbgpuHandler):
    """Closes a session."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "delete": Operation(
            "Ends the session and its processes, and frees its accelerators; of one that waits, the request", status=204
        )
    }

    @authenticated
    @authorized
    async def delete(self, session_id: str) -> None:
        async with self.hub.in_use():
            await (await self.hub.calls_for_session(session_id)).close_session(session_id)
        self.set_status(204)
        self.finish()


class AttachHandler(NbgpuHandler):
    """Gives a session to a notebook."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "post": Operation("Makes the session the notebook's, and the one that it uses", body=AttachBody, status=204)
    }

    @authenticated
    @authorized
    async def post(self, session_id: str) -> None:
        body = self.body()
        notebook_id = body.get("notebook_id", "")
        if not notebook_id:
            raise RefusedError("a session is attached to a notebook, and notebook_id is empty")
        async with self.hub.in_use():
            calls = await self.hub.calls_for_session(session_id)
            await calls.attach(session_id, notebook_id, body.get("notebook_name", ""))
            await self.hub.let_go_elsewhere(notebook_id, calls)
        self.set_status(204)
        self.finish()


class DetachHandler(NbgpuHandler):
    """Takes a session from its notebook."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "post": Operation("Leaves the session running as no notebook's. Idempotent", status=204)
    }

    @authenticated
    @authorized
    async def post(self, session_id: str) -> None:
        async with self.hub.in_use():
            await (await self.hub.calls_for_session(session_id)).detach(session_id)
        self.set_status(204)
        self.finish()


class InterruptHandler(NbgpuHandler):
    """Interrupts what runs in a session."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "post": Operation("Interrupts what runs in the session", response=InterruptedBody)
    }

    @authenticated
    @authorized
    async def post(self, session_id: str) -> None:
        async with self.hub.in_use():
            interrupted = await (await self.hub.calls_for_session(session_id)).interrupt(session_id)
        self.finish(json.dumps(InterruptedBody(interrupted=interrupted)))


class RestartHandler(NbgpuHandler):
    """Gives a session a fresh kernel."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "post": Operation("Ends the session's kernel and starts a fresh one on the same accelerators", status=204)
    }

    @authenticated
    @authorized
    async def post(self, session_id: str) -> None:
        async with self.hub.in_use():
            await (await self.hub.calls_for_session(session_id)).restart(session_id)
        self.set_status(204)
        self.finish()


class RenewHandler(NbgpuHandler):
    """Extends a session's lease."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "post": Operation("Extends the session's lease from now on, by its pool's own duration", response=RenewedBody)
    }

    @authenticated
    @authorized
    async def post(self, session_id: str) -> None:
        async with self.hub.in_use():
            expires = await (await self.hub.calls_for_session(session_id)).renew(session_id)
        self.finish(json.dumps(RenewedBody(expires_unix_s=expires)))


class LogsHandler(NbgpuHandler):
    """Reads a session's log."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "get": Operation("What the session's process wrote outside of cells, the last MiB of it", response=TextBody)
    }

    @authenticated
    @authorized
    async def get(self, session_id: str) -> None:
        async with self.hub.in_use():
            text = await (await self.hub.calls_for_session(session_id)).read_log(session_id, LOG_TAIL_BYTES)
        self.finish(json.dumps(TextBody(text=text)))


class StacksHandler(NbgpuHandler):
    """Asks where a session's code is."""

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "get": Operation("Where the session's code is now: stacks of its kernel and of its ranks", response=TextBody)
    }

    @authenticated
    @authorized
    async def get(self, session_id: str) -> None:
        async with self.hub.in_use():
            text = await (await self.hub.calls_for_session(session_id)).stacks(session_id)
        self.finish(json.dumps(TextBody(text=text)))
