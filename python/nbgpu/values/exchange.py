"""Runs a cell in its session with what it reads sent before, and what it binds bound here after."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from IPython.core.getipython import get_ipython

from nbgpu.execution import Request
from nbgpu.notebook import notebook_id
from nbgpu.session_client import SessionClient
from nbgpu.values.account import Account
from nbgpu.values.closure import NotebookNames
from nbgpu.values.errors import InputError, NotDefinedError, NotPicklableError, StaleHandleError
from nbgpu.values.handle import Handle, Home
from nbgpu.values.in_place import uninterrupted
from nbgpu.values.incoming import Incoming
from nbgpu.values.outgoing import Outgoing
from nbgpu.values.synchroniser import Synchroniser
from nbgpu.values.transfer import Transfer
from nbgpu.values.wish import Wish
from nbgpu_kernel.values.definitions import Definitions
from nbgpu_protocol import blobs
from nbgpu_protocol.discovery import agent_folder, read_record

Fetch: TypeAlias = Callable[[SessionClient, Handle], Any]
Look: TypeAlias = Callable[[SessionClient, str], dict[str, Any] | None]


class Run(Protocol):
    """Runs code in a session, with the field `values` of its metadata, and waits for the answer."""

    def __call__(self, code: str, values: dict[str, Any], buffers: list[bytes], *, silent: bool) -> Request: ...


class Exchange:
    """The values of this process and of one session.

    Args:
        client: The session.
        run: Runs code in it.
        fetch: Brings the value of a handle of a session, at any time.
        look: Asks a session's kernel of an object, by its id; see `nbgpu.kernel_questions.look_at_object`.
    """

    def __init__(self, client: SessionClient, run: Run, fetch: Fetch, look: Look) -> None:
        self._client = client
        self._run = run
        self._synchroniser = _synchroniser_of(client, fetch, look)

    def run_cell(self, code: str, wish: Wish, finish: Callable[[Request], Any]) -> Any:
        """Runs a cell; returns what `finish` does, which raises what the cell raised. Only if not, values are bound.

        Raises:
            Error: Nothing was sent, or the session cannot put together what was.
        """
        with self._synchroniser.lock:
            request, outgoing = self._send(code, wish, silent=False)
            result = finish(request)
            self._bind(request, outgoing)
            return result

    def run_with(
        self, code: str, inputs: Mapping[str, Any], outputs: Sequence[str], finish: Callable[[Request], Any]
    ) -> dict[str, Any]:
        """Runs code with these variables over there; returns those that are asked for. Binds nothing here.

        Raises:
            NotDefinedError: Something that is asked for is not there when the code has run.
            NotPicklableError: Something cannot come back.
        """
        wish = Wish(given=dict(inputs), send=tuple(inputs), bring=tuple(outputs), watches=False)
        with self._synchroniser.lock:
            request, _ = self._send(code, wish, silent=False)
            finish(request)
            incoming = self._synchroniser.receive(request.values)
        for name in outputs:
            if name not in incoming.values and name not in incoming.failed:
                raise NotDefinedError(f"there is no variable {name} in the session")
            _raise_if_refused(incoming, name)
        return {name: incoming.values[name] for name in outputs}

    def push(self, names: Sequence[str]) -> None:
        """Sends variables, whatever their size."""
        with self._synchroniser.lock:
            self._send("", Wish(send=tuple(names), watches=False), silent=True)

    def pull(self, names: Sequence[str]) -> None:
        """Brings variables by value, whatever their size.

        Raises:
            NotDefinedError: One is not there. None is bound then.
        """
        with self._synchroniser.lock:
            request, outgoing = self._send("", Wish(bring=tuple(names), watches=False), silent=True)
            incoming = self._synchroniser.receive(request.values)
            for name in names:
                if name not in incoming.values and name not in incoming.failed:
                    raise NotDefinedError(f"there is no variable {name} in the session")
            self._bind(request, outgoing, incoming)

    def fetch(self, handle: Handle) -> Any:
        """Brings the value of a handle's object.

        Raises:
            StaleHandleError: The object is gone.
            NotPicklableError: It cannot leave its session, or cannot be put together here.
        """
        if self._client.end is not None:
            raise StaleHandleError(f"the object of {handle!r} is gone: {self._client.end.message()}")
        if self._client.kernel_exit is not None or handle.home != _home(self._client):
            raise StaleHandleError(f"the object of {handle!r} is gone: the session has a fresh kernel since")
        with self._synchroniser.lock:
            request, _ = self._send("", Wish(fetch=(handle.id,), watches=False), silent=True)
            incoming = self._synchroniser.receive(request.values)
        _raise_if_refused(incoming, handle.id, repr(handle))
        if handle.id not in incoming.values:
            raise StaleHandleError(f"the object of {handle!r} is gone")
        return incoming.values[handle.id]

    def _send(self, code: str, wish: Wish, *, silent: bool) -> tuple[Request, Outgoing]:
        for _ in range(2):
            outgoing = self._synchroniser.prepare(wish)
            try:
                request = self._run(code, outgoing.request, outgoing.buffers, silent=silent)
            except BaseException:
                self._synchroniser.forget()  # whether it arrived is not known
                raise
            finally:
                self._synchroniser.discard(outgoing)
            if self._synchroniser.accepted(outgoing, request.reply or {}):
                return request, outgoing
        raise InputError(
            "the session does not keep what the cell reads: another client may be using it, or its store is full",
            "run the cell again, or look at `%gpu logs`",
        )

    def _bind(self, request: Request, outgoing: Outgoing, incoming: Incoming | None = None) -> None:
        incoming = incoming or self._synchroniser.receive(request.values, outgoing)
        try:
            self._take_handles(incoming)
            self._synchroniser.bind(incoming, outgoing)
        except BaseException:
            with uninterrupted():
                incoming.adoption.undo()
            raise

    def _take_handles(self, incoming: Incoming) -> None:
        """Gets handles of what cannot be put together here; what this notebook has an object of its own for stays."""
        wanted = {name: error for name, error in incoming.failed.items() if name not in incoming.in_place}
        for name, error in incoming.failed.items():
            if name not in wanted:
                incoming.left[name] = {"why": f"{error.ename}: {error.evalue}"}
        if not wanted:
            return
        request, _ = self._send("", Wish(keep=tuple(wanted), watches=False), silent=True)
        handles = self._synchroniser.receive(request.values)
        for name, error in wanted.items():
            if name in handles.values:
                incoming.values[name] = handles.values[name]
                incoming.tokens[name] = handles.tokens[name]
                incoming.refused[name] = f"it cannot be put together here ({error.ename}: {error.evalue})"


def _raise_if_refused(incoming: Incoming, name: str, called: str = "") -> None:
    called = called or f"`{name}`"
    if name in incoming.refused:
        raise NotPicklableError(
            f"{called} cannot leave its session: {incoming.refused[name]}", "use it in a `%%gpu` cell"
        )
    if name in incoming.failed:
        error = incoming.failed[name]
        raise NotPicklableError(
            f"{called} cannot be put together here: {error.ename}: {error.evalue}", "use it in a `%%gpu` cell"
        )


_synchronisers: weakref.WeakKeyDictionary[SessionClient, Synchroniser] = weakref.WeakKeyDictionary()


def account_of(client: SessionClient) -> Account:
    """Returns what a session has of this process's variables; from any thread."""
    found = _synchronisers.get(client)
    return found.account() if found is not None else Account()


def _synchroniser_of(client: SessionClient, fetch: Fetch, look: Look) -> Synchroniser:
    found = _synchronisers.get(client)
    if found is None:
        found = _synchronisers[client] = _make_synchroniser(client, fetch, look)
    return found


def _make_synchroniser(client: SessionClient, fetch: Fetch, look: Look) -> Synchroniser:
    reference = weakref.ref(client)  # which it must not keep alive: it is kept for as long as the client is
    home = _home(client)

    def home_now() -> Home:
        alive = reference()
        return _home(alive) if alive is not None else home

    def fetch_here(handle: Handle) -> Any:
        alive = reference()
        if alive is None:
            raise StaleHandleError(f"the object of {handle!r} is gone: this notebook was detached from the session")
        return fetch(alive, handle)

    def look_here(handle: Handle) -> dict[str, Any] | None:
        alive = reference()
        return look(alive, handle.id) if alive is not None and handle.home == _home(alive) else None

    def python_version() -> str:
        alive = reference()
        return str(alive.info.python_version) if alive is not None else ""

    names, definitions = _this_process()
    transfer = Transfer(client.pool, _store_folder(client))
    return Synchroniser(
        names, definitions, home_now, python_version, transfer, fetch_here, _tell, notebook_id(), look_here
    )


def _tell(text: str) -> None:
    print(f"nbgpu: {text}", file=sys.stderr, flush=True)


@functools.cache
def _this_process() -> tuple[NotebookNames, Definitions]:
    shell = get_ipython()
    namespace = shell.user_ns if shell is not None else sys.modules["__main__"].__dict__
    hidden = shell.user_ns_hidden if shell is not None else {}
    return NotebookNames(namespace, hidden), Definitions(namespace)


def _home(client: SessionClient) -> Home:
    return Home(client.id, client.kernel_generation, client.info.node.hostname)


def _store_folder(client: SessionClient) -> Path | None:
    """Returns the folder of the agent's store where the agent is this machine's own, and so of this user."""
    folder = agent_folder()
    record = read_record(folder)
    return folder / blobs.FOLDER if record is not None and record.address == client.pool.address else None
