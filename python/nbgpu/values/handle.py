"""The local stand-in for an object that stayed in its session."""

from __future__ import annotations

import html
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nbgpu.values.errors import StaleHandleError, size_in_words


@dataclass(frozen=True)
class Home:
    """The kernel that has the object."""

    session_id: str
    generation: int
    hostname: str


class Handle:
    """An object that stayed in its session, for its size, its device, or because it cannot be pickled.

    In a `%%gpu` cell of the session it is the object itself. Here it tells what it stands for; `fetch` brings a copy.

    Args:
        object_id: By which the session's kernel knows the object.
        described: What is known of it: `type`, `shape`, `dtype`, `device`, `size_bytes`.
        home: The kernel that has it.
        fetch: Returns the object's value.
        release: Called with the id when the handle is gone.
        look: Returns what the session says of the object's attributes and docstring, if it says it at once.
    """

    def __init__(
        self,
        object_id: str,
        described: dict[str, Any],
        home: Home,
        fetch: Callable[[Handle], Any],
        release: Callable[[str], None],
        look: Callable[[Handle], dict[str, Any] | None] = lambda handle: None,
    ) -> None:
        self._look = look
        self.id = object_id
        self.home = home
        self.type_name: str = described["type"]
        self.shape: tuple[int, ...] | None = tuple(described["shape"]) if "shape" in described else None
        self.dtype: str | None = described.get("dtype")
        self.device: str | None = described.get("device")
        self.size_bytes: int | None = described.get("size_bytes")
        self._fetch = fetch
        weakref.finalize(self, release, object_id).atexit = False

    @property
    def where(self) -> str:
        """The node and the session that have it."""
        return f"{self.home.hostname}, session {self.home.session_id}"

    def fetch(self) -> Any:
        """Returns a copy of the object, CUDA tensors as CPU tensors. Blocks, and can be interrupted.

        Raises:
            StaleHandleError: The object is gone, with its kernel or its session.
            NotPicklableError: It cannot leave its session.
        """
        return self._fetch(self)

    def __getattr__(self, name: str) -> Any:
        kind = vars(self).get("type_name", "object")
        raise AttributeError(
            f"a handle has no attribute {name!r}: the {kind} itself is in its session; use it in a `%%gpu` cell, or"
            f" take a copy with .fetch()"
        )

    def __bool__(self) -> bool:
        return True

    def remote_attributes(self) -> list[str]:
        """Returns the names of the object's attributes; none while the session is busy."""
        found = self._look(self)
        return list(found["attributes"]) if found is not None else []

    def getdoc(self) -> str:
        """Returns what IPython shows for `handle?`: what it stands for, and the object's own docstring."""
        rows = [
            ("type", self.type_name),
            ("shape", "×".join(map(str, self.shape)) if self.shape else None),
            ("dtype", self.dtype),
            ("device", self.device),
            ("size", size_in_words(self.size_bytes) if self.size_bytes is not None else None),
            ("where", self.where),
        ]
        facts = "\n".join(f"{name + ':':8}{text}" for name, text in rows if text)
        found = self._look(self)
        doc = found["doc"] if found is not None else "(the session is busy or gone, so its docstring is not here)"
        return f"A handle: the object is in its session; `.fetch()` brings a copy.\n\n{facts}\n\n{doc}".rstrip()

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.shape)) if self.shape else ""
        size = size_in_words(self.size_bytes) if self.size_bytes is not None else ""
        facts = [each for each in (shape, self.dtype, size, self.device and f"on {self.device}") if each]
        return f"<handle of {self.type_name}{': ' if facts else ''}{', '.join(facts)}; at {self.where}>"

    def __reduce__(self) -> Any:
        raise StaleHandleError(
            f"a handle of {self.type_name} cannot be copied or stored: its object is in session {self.home.session_id}",
            "take the value with .fetch()",
        )


def _refuse(self: Handle, *_: Any, **__: Any) -> Any:
    raise TypeError(
        f"a handle stands for a {self.type_name} that is in its session: use it in a `%%gpu` cell, or take a copy with"
        f" .fetch()"
    )


_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
for _name in ("call", "len", "iter", "getitem", "setitem", "array", "float", "int", "neg"):
    setattr(Handle, f"__{_name}__", _refuse)
for _name in _ARITHMETIC:
    setattr(Handle, f"__{_name}__", _refuse)
    setattr(Handle, f"__r{_name}__", _refuse)
