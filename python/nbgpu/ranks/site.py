"""Where calls run: a session that this notebook is attached to, or the one whose own kernel this is."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any, Protocol

from IPython.core.getipython import get_ipython

from nbgpu.errors import CommandError
from nbgpu.ranks import memory_release
from nbgpu.ranks.accelerators import Wanted, bring_up_to_date, find_session
from nbgpu.session import Session
from nbgpu.session_client import SessionClient

_REQUEST = "_nbgpu_call"
_ANSWER = "_nbgpu_answer"


class Site(Protocol):
    """A session, as the calls in it see it. Blocks, and can be interrupted."""

    @property
    def session_id(self) -> str: ...

    @property
    def hostname(self) -> str:
        """Of the node."""

    def ask(self, function: str, *arguments: Any) -> Any:
        """Has the session's kernel call a function of `nbgpu_kernel.ranks.calls`; arguments are plain data."""

    def send(self, function: str, request: Mapping[str, Any]) -> Any:
        """As `ask`, with a request that holds values of any kind."""

    def forget_answer(self) -> None:
        """Has the session let go of what it answered, which may be large."""

    def memory_used(self) -> dict[str, int]:
        """Returns the bytes in use by accelerator; nothing where that is not known."""

    def verify_memory(self, before: Mapping[str, int]) -> None:
        """Says which accelerators do not have their memory back, after a while."""


class AttachedSite:
    """A session of this notebook.

    Args:
        client: It.
    """

    def __init__(self, client: SessionClient) -> None:
        self._client = client

    @property
    def session_id(self) -> str:
        return self._client.id

    @property
    def hostname(self) -> str:
        return self._client.info.node.hostname

    def ask(self, function: str, *arguments: Any) -> Any:
        return self._run(f"{function}({', '.join(map(repr, arguments))})", {})

    def send(self, function: str, request: Mapping[str, Any]) -> Any:
        return self._run(f"{function}({_REQUEST})", {_REQUEST: dict(request)})

    def forget_answer(self) -> None:
        _Visited(self._client).execute(f"{_ANSWER} = None")

    def memory_used(self) -> dict[str, int]:
        return memory_release.memory_used(self._client)

    def verify_memory(self, before: Mapping[str, int]) -> None:
        memory_release.verify(self._client, before)

    def _run(self, expression: str, inputs: dict[str, Any]) -> Any:
        code = f"{_ANSWER} = __import__('nbgpu_kernel.ranks.calls', fromlist=['calls']).{expression}"
        shell: Any = get_ipython()
        count = getattr(getattr(shell, "displayhook", None), "prompt_count", None)
        return _Visited(self._client).execute(code, inputs=inputs, outputs=[_ANSWER], execution_count=count)[_ANSWER]


class _Visited(Session):
    """A session that this process uses and need not own: its end does not close it."""

    def __init__(self, client: SessionClient) -> None:
        self._client = client


class OwnSite:
    """The session whose kernel this is: a `%%gpu` cell calls the function."""

    @property
    def session_id(self) -> str:
        return os.environ.get("NBGPU_SESSION_ID", "")

    @property
    def hostname(self) -> str:
        return socket.gethostname()

    def ask(self, function: str, *arguments: Any) -> Any:
        from nbgpu_kernel.ranks import calls

        return getattr(calls, function)(*arguments)

    def send(self, function: str, request: Mapping[str, Any]) -> Any:
        return self.ask(function, request)

    def forget_answer(self) -> None:
        """There is nothing to let go of."""

    def memory_used(self) -> dict[str, int]:
        return {}

    def verify_memory(self, before: Mapping[str, int]) -> None:
        """The agent's samples are the notebook's to read."""


def is_session_kernel() -> bool:
    """Says whether this process is the kernel of a session."""
    return getattr(getattr(get_ipython(), "kernel", None), "definitions", None) is not None


def choose_site(wanted: Wanted) -> tuple[Site, int]:
    """Returns where a call runs, and on how many ranks; opens a session if there is none that would do.

    Raises:
        CommandError: This process is a rank, or the session that it is the kernel of has too few accelerators.
        Error: No session could be had, as with `nbgpu.attach`.
    """
    if is_session_kernel():
        return OwnSite(), _own_world_size(wanted)
    if os.environ.get("NBGPU_CALL_ID"):
        raise CommandError("a rank cannot call a function on ranks", "call it directly, or from the notebook")
    shell = get_ipython()
    if shell is not None:
        from nbgpu.extension import extension_of  # which knows of calls itself

        extension_of(shell).load()  # `%gpu logs`, which the output of ranks speaks of, is there without `%load_ext`
    client = find_session(wanted)
    bring_up_to_date(client)
    return AttachedSite(client), wanted.world_size(list(client.info.accelerators))


def _own_world_size(wanted: Wanted) -> int:
    held = [name for name in os.environ.get("NBGPU_ACCELERATORS", "").split(",") if name]
    asked = wanted.count
    if asked is None and wanted.spec is not None:
        asked = max(each.count for each in wanted.spec.alternatives)
    if asked is not None and asked > len(held) and held != ["cpu"]:
        raise CommandError(
            f"{asked} accelerators are asked for in a session that has {len(held)}",
            "call the function in a cell without `%%gpu`, which opens a session that has them",
        )
    return asked or len(held)
