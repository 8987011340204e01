"""Runs code in a session: sends it, waits for its end, shows its result, and starts another kernel if there is none."""

from __future__ import annotations

import functools
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from nbgpu import errors, words
from nbgpu.cell_record import CellRecord
from nbgpu.client.background import background
from nbgpu.execution import Request
from nbgpu.interruption import wait_interruptibly
from nbgpu.kernel_questions import look_at_object
from nbgpu.notebook import current_request, notebook_id, this_notebook
from nbgpu.output import RemoteResult, choose_publisher
from nbgpu.session_client import CLIENT_ID, SessionClient
from nbgpu.values.exchange import Exchange, Run
from nbgpu.values.handle import Handle
from nbgpu.values.wish import Wish
from nbgpu.workspace.missing_files import missing_file_hint
from nbgpu.workspace.workspace import is_shared


def execute_cell(
    client: SessionClient,
    code: str,
    wish: Wish,
    *,
    execution_count: int | None = None,
    spmd: Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
    record: CellRecord | None = None,
) -> Any:
    """Runs a cell's code with what it reads of this notebook sent before, and what it binds bound here after.

    Args:
        client: The session.
        code: The cell's.
        wish: What is to travel.
        execution_count: As `Session.execute`.
        timeout_s: For how long it may run, from when it begins; None: for ever.
        spmd: For a cell on ranks: what `nbgpu.ranks.spmd.wish_for` returned.
        record: What the agent is told of the cell; None: the code is not the whole of one.

    Returns:
        What its last expression showed.

    Raises:
        BaseException: As `Session.execute` does; nothing is bound then.
    """
    this_notebook().close_at_end(client)
    run_code = functools.partial(
        run, client, execution_count=execution_count, timeout_s=timeout_s, spmd=spmd, record=record
    )
    return exchange(client, run_code).run_cell(code, wish, functools.partial(finish, client))


def fetch_value(client: SessionClient, handle: Handle) -> Any:
    """Brings the value of a handle; see `Handle.fetch`."""
    return exchange(client, functools.partial(run, client)).fetch(handle)


def exchange(client: SessionClient, run: Run) -> Exchange:
    """Returns what exchanges values with a session, by running code in it so."""
    return Exchange(client, run, fetch_value, look_at_object)


def execute(
    client: SessionClient, code: str, run: Run, inputs: Mapping[str, Any] | None, outputs: Sequence[str] | None
) -> RemoteResult | dict[str, Any] | None:
    """Runs code with inputs, and returns its outputs, or what its last expression showed. Blocks."""
    if not inputs and outputs is None:
        return finish(client, run(code, {}, [], silent=False))
    found: list[RemoteResult | None] = []
    values = exchange(client, run).run_with(
        code, inputs or {}, outputs or (), lambda request: found.append(finish(client, request))
    )
    return values if outputs is not None else found[0]


def run(
    client: SessionClient,
    code: str,
    values: dict[str, Any],
    buffers: list[bytes],
    *,
    silent: bool,
    execution_count: int | None = None,
    spmd: Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
    record: CellRecord | None = None,
) -> Request:
    """Runs code and waits for the answer, interruptibly. What is silent is not the person's, and not bounded."""
    if needs_reviving(client):
        background().run(revive(client))
    limit_s = None if silent else timeout_s
    record = None if silent else record
    while True:
        request, sending = prepare(
            client, code, execution_count, values, buffers, silent=silent, spmd=spmd, timeout_s=limit_s, record=record
        )
        background().submit(sending)
        try:
            wait_interruptibly(client, request)
        except errors.KernelDiedError:
            if not (request.was_refused and needs_reviving(client)):
                raise
            background().run(revive(client))  # it ended before this came to it
        else:
            return request


def prepare(
    client: SessionClient,
    code: str,
    execution_count: int | None,
    values: dict[str, Any] | None = None,
    buffers: Sequence[bytes] = (),
    *,
    silent: bool = False,
    spmd: Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
    record: CellRecord | None = None,
) -> tuple[Request, Coroutine[Any, Any, None]]:
    """Returns the request, and the coroutine that sends it."""
    parent = current_request()
    content = {
        "code": code,
        "silent": silent,
        "store_history": not silent,
        "user_expressions": {},
        "allow_stdin": parent["content"].get("allow_stdin", False),
        "stop_on_error": False,
    }
    metadata = {key: value for key, value in parent.get("metadata", {}).items() if key == "cellId"}
    own: dict[str, Any] = {"execution_count": execution_count} if execution_count is not None else {}
    if values:
        own["values"] = values
    if spmd:
        own["spmd"] = dict(spmd)
    if timeout_s is not None:
        own["timeout_s"] = timeout_s
    if not silent and notebook_id():
        own["notebook_id"] = notebook_id()
    header = {**parent["header"], "msg_type": "execute_request"}
    request = Request(header, CLIENT_ID, choose_publisher(), reply_to_input=functools.partial(_reply_to_input, client))
    client.take_notices()
    if record is not None:
        own.update(record.take())
    if own:
        metadata["nbgpu"] = own
    _flush()
    return request, client.send(request, content, metadata, buffers)


def _reply_to_input(client: SessionClient, question: Any, answer: str) -> None:
    header = {**current_request()["header"], "msg_type": "input_reply"}
    background().submit(client.reply_to_input(question, answer, header))


def finish(client: SessionClient, request: Request) -> RemoteResult | None:
    """Returns what the last expression of a request that is over showed, and shows it; raises what the cell raised."""
    try:
        result = request.outcome()
    except FileNotFoundError as error:
        _tell_of_missing_file(client, error)
        raise
    for payload in request.payloads:
        request.publisher.show_payload(payload)
    if result is not None:
        request.publisher.show_result(result)
    return result


def _tell_of_missing_file(client: SessionClient, error: FileNotFoundError) -> None:
    """Says so where a file that was not found there is beside the notebook."""
    if not is_shared(client):
        folder = this_notebook().attachment.folder
        hint = missing_file_hint(error, folder, client.info.working_folder)
        if hint is not None:
            print(f"nbgpu: {hint}", file=sys.stderr, flush=True)


def needs_reviving(client: SessionClient) -> bool:
    """Whether the kernel ended; asked on the caller's thread, as the way to the loop and back takes 0.4 ms."""
    return client.kernel_exit is not None and client.end is None


async def revive(client: SessionClient) -> None:
    """Starts a fresh kernel in the place of one that ended, and says so."""
    exited = client.kernel_exit
    if exited is None:  # somebody else did
        return
    await client.revive_kernel()
    what = words.exit_in_words(exited)
    print(f"nbgpu: {what}; this is a fresh one, without the variables", file=sys.stderr, flush=True)


def _flush() -> None:
    """Sends what was printed before, so that it stands above what the session says.

    ipykernel's streams wait for their thread on every flush, 0.2 ms each, also where there is nothing to flush.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and getattr(stream, "_flush_pending", True):
            stream.flush()
