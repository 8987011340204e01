"""A notebook and a session in one process: two namespaces, and between them everything but kernels and a wire."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cloudpickle import cloudpickle

from nbgpu.values import exchange
from nbgpu.values.closure import NotebookNames
from nbgpu.values.exchange import Exchange
from nbgpu.values.handle import Handle, Home
from nbgpu.values.names import analyse
from nbgpu.values.synchroniser import Synchroniser
from nbgpu.values.wish import Wish
from nbgpu_kernel.values.blob_files import BlobFiles
from nbgpu_kernel.values.definitions import Definitions
from nbgpu_kernel.values.exchange import UndecodableError
from nbgpu_kernel.values.session_values import SessionValues, StaleValuesError


class _Client:
    """What an exchange asks of a session's client."""

    def __init__(self) -> None:
        self.id = "s1"
        self.end = None
        self.kernel_exit = None
        self.kernel_generation = 1
        self.info = SimpleNamespace(node=SimpleNamespace(hostname="node"), python_version="")


class _Transfer:
    """Parts as files in a folder."""

    def __init__(self, files: BlobFiles) -> None:
        self._files = files

    def put(self, part: Any) -> str:
        return self._files.lend(part)

    def get(self, name: str, size_bytes: int) -> memoryview:
        found = self._files.map(name)
        assert len(found) == size_bytes
        return found

    def discard(self, names: list[str]) -> None:
        for name in names:
            self._files.discard(name)


class TwoSides:
    """A notebook whose `gpu` runs cells over there.

    Args:
        folder: For what is too large for a message.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = BlobFiles(folder)
        self.here = new_namespace()
        self.there = new_namespace()
        self.said: list[str] = []
        self.client_id = "notebook-1"
        self.before_reply: Callable[[], None] = lambda: None
        """Called when a cell has run, before its reply is looked at."""
        self.client = _Client()
        self.values = SessionValues(self.there, {}, self.files)
        self.attach()

    def attach(self) -> None:
        """Gives the notebook a fresh account of what the session has, as when its kernel was restarted."""
        reference = self.client
        self.synchroniser = Synchroniser(
            NotebookNames(self.here, new_namespace()),
            Definitions(self.here),
            lambda: Home(reference.id, reference.kernel_generation, "node"),
            lambda: "",
            _Transfer(self.files),  # type: ignore[arg-type]
            self.fetch,
            self.said.append,
            "notebook",
        )
        exchange._synchronisers[self.client] = self.synchroniser  # type: ignore[index]
        self.exchange = Exchange(self.client, self._run, lambda _, handle: self.fetch(handle), lambda *_: None)  # type: ignore[arg-type]

    def restart_session(self) -> None:
        """Gives the session a fresh kernel."""
        self.there = new_namespace()
        self.values = SessionValues(self.there, {}, self.files)
        self.client.kernel_generation += 1

    def local(self, code: str) -> None:
        """Runs a plain cell."""
        exec(code, self.here)

    def gpu(self, code: str, *, send: tuple[str, ...] = (), bring: tuple[str, ...] = (), sync: bool = True) -> None:
        """Runs a `%%gpu` cell."""
        wish = Wish.of_cell(analyse(code), send, bring) if sync else Wish()
        self.exchange.run_cell(code, wish, lambda request: request.finish())

    def fetch(self, handle: Handle) -> Any:
        return self.exchange.fetch(handle)

    @property
    def files_left(self) -> list[str]:
        return [each.name for each in self.folder.iterdir()] if self.folder.exists() else []

    def _run(self, code: str, values: dict[str, Any], buffers: list[bytes], *, silent: bool) -> Any:
        """Does what the session's kernel does with a request."""
        _forget_classes()
        request: dict[str, Any] = json.loads(json.dumps(values))
        answer = _Answer()
        try:
            bound = self.values.bind(request, buffers, self.client_id) if request else None
        except StaleValuesError as error:
            answer.reply = {"nbgpu_values": {"bound": False, "stale": list(error.names)}}
            return answer
        except UndecodableError as error:
            refused = {"bound": False, "name": error.name, "ename": error.ename, "evalue": error.evalue}
            answer.reply = {"nbgpu_values": refused}
            return answer
        except KeyboardInterrupt as error:
            answer.error = error
            return answer
        if bound is not None:
            answer.reply = {"nbgpu_values": {"bound": True, **dataclasses.asdict(bound)}}
        try:
            exec(code, self.there)
        except Exception as error:  # noqa: BLE001 - the cell's own
            answer.error = error
        else:
            if request:
                content, parts = self.values.collect(request, self.client_id)
                decoded = json.loads(json.dumps(content))
                answer.values = SimpleNamespace(content=lambda: decoded, buffers=parts)
        self.before_reply()
        _forget_classes()
        return answer


class _Answer:
    """What an exchange asks of a request."""

    def __init__(self) -> None:
        self.reply: dict[str, Any] = {}
        self.values: Any = None
        self.error: BaseException | None = None

    def finish(self) -> None:
        if self.error is not None:
            raise self.error


def _forget_classes() -> None:
    """Has cloudpickle not know a class again that it has met in this process, which stands for two."""
    cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.clear()


def new_namespace() -> dict[str, Any]:
    return {"__name__": "__main__", "__builtins__": __builtins__}
