"""What a handler is for, in a form that its OpenAPI description and its checks of what comes are both made from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypedDict, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from nbgpu.server.problems import RefusedError

T = TypeVar("T")

AUTH_RESOURCE = "nbgpu"
MAX_TEXT_CHARACTERS = 4096
MAX_LIST_ITEMS = 1000
MAX_BODY_BYTES = 64 << 10


class ErrorBody(TypedDict):
    message: str
    """One sentence without a full stop."""
    hint: str | None
    """What a person can do."""
    reason: str
    """Stable, for programs."""


class OpenBody(TypedDict, total=False):
    pool: str | None
    """None: whichever can grant the spec first."""
    spec: str | None
    """Such as "H100x8"; empty: the session that the notebook has, else what the pool prefers."""
    notebook_id: str
    """The notebook's Jupyter kernel id; empty: no notebook's."""
    notebook_name: str
    python: str | None
    """Path of the interpreter; None: the notebook's. Used by this machine's agent."""
    working_folder: str | None
    """None: the notebook's. Used by this machine's agent."""
    new: bool
    """Open one even if the notebook has one that would do."""


class AttachBody(TypedDict, total=False):
    notebook_id: str
    notebook_name: str


class PoolBody(TypedDict, total=False):
    name: str
    address: str
    """Or the whole line that `nbgpu agent invite` prints, which holds all the rest."""
    token: str
    pin: str
    """Of the agent's certificate; with `grpcs://`."""
    code: str
    """That is exchanged for a token; with `grpcs://`."""


class SavedBody(TypedDict, total=False):
    cell_ids: list[str]


class RetryBody(TypedDict, total=False):
    pool: str | None
    """None: all that are waited for."""


class RequestIdBody(TypedDict):
    request_id: str


class TextBody(TypedDict):
    text: str


class InterruptedBody(TypedDict):
    interrupted: bool
    """False: nothing was running."""


class RenewedBody(TypedDict):
    expires_unix_s: float | None
    """None: it does not end by itself."""


class PoolSummary(TypedDict):
    name: str
    address: str
    embedded: bool
    removable: bool


class PoolsBody(TypedDict):
    pools: list[PoolSummary]


@dataclass(frozen=True)
class Parameter(Generic[T]):
    """A parameter in the query."""

    name: str
    what: str
    default: T


@dataclass(frozen=True)
class Operation:
    """One method of one handler."""

    summary: str
    body: type | None = None
    """A TypedDict, of which no key is required."""
    response: type | None = None
    """A TypedDict; None: there is no content."""
    status: int = 200
    parameters: tuple[Parameter[Any], ...] = field(default=())


def read_body(content: bytes, kind: type) -> dict[str, Any]:
    """Returns what came as JSON, with the keys of `kind` that are there and right.

    Args:
        content: The body of a request; empty is an empty object.
        kind: A TypedDict.

    Raises:
        RefusedError: It is no JSON object, or a value has another type or is too long.
    """
    if len(content) > MAX_BODY_BYTES:
        raise RefusedError(f"the body has {len(content)} bytes, {MAX_BODY_BYTES} at most", status=413)
    try:
        value = json.loads(content or b"{}")
    except ValueError as error:
        raise RefusedError(f"the body is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise RefusedError("the body is no JSON object")
    checked = {}
    for name, expected in get_type_hints(kind).items():
        if name not in value:
            continue
        given = value[name]
        if not _is_one_of(given, expected):
            raise RefusedError(f"{name} is {given!r:.100}, and must be {_in_words(expected)}")
        if isinstance(given, list) and len(given) > MAX_LIST_ITEMS:
            raise RefusedError(f"{name} has {len(given)} items; {MAX_LIST_ITEMS} at most")
        if isinstance(given, str) and (len(given) > MAX_TEXT_CHARACTERS or "\0" in given):
            raise RefusedError(f"{name} has {len(given)} characters or a NUL; {MAX_TEXT_CHARACTERS} at most, and none")
        checked[name] = given
    return checked


def read_number(name: str, text: str, most: float) -> float:
    """Returns a number from a query.

    Raises:
        RefusedError: It is none from 0 to `most`.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= most:
        raise RefusedError(f"{name} is {text[:100]!r}, and must be a number from 0 to {most:g}")
    return number


def schema_of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns the JSON schema of a type; that of each TypedDict is put into the definitions."""
    if is_typeddict(kind):
        name = kind.__name__
        if name not in definitions:
            definitions[name] = {}  # for those that hold themselves
            properties = {key: schema_of(each, definitions) for key, each in get_type_hints(kind).items()}
            definitions[name] = {"type": "object", "properties": properties}
            if kind.__required_keys__:
                definitions[name]["required"] = sorted(kind.__required_keys__)
        return {"$ref": f"#/components/schemas/{name}"}
    if get_origin(kind) is dict:
        return {"type": "object"}
    if get_origin(kind) is list:
        return {"type": "array", "items": schema_of(get_args(kind)[0], definitions)}
    if get_origin(kind) is Literal:
        return {"type": "string", "enum": list(get_args(kind))}
    alternatives = _alternatives(kind)
    if len(alternatives) > 1:
        return {"anyOf": [schema_of(each, definitions) for each in alternatives]}
    return {"type": _JSON_TYPES[kind]}


_JSON_TYPES: Mapping[Any, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


def _alternatives(kind: Any) -> tuple[Any, ...]:
    is_union = get_origin(kind) is Union or type(kind).__name__ == "UnionType"
    return get_args(kind) if is_union else (kind,)


def _is_one_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_one_of(each, get_args(kind)[0]) for each in value)
    return any(type(value) is each for each in _alternatives(kind))


def _in_words(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"a list of which each is {_in_words(get_args(kind)[0])}"
    words = {str: "a text", bool: "true or false", type(None): "null"}
    return " or ".join(words[each] for each in _alternatives(kind))
